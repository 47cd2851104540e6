"""A score as JSON, as Markdown and as one HTML page that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import orjson

from posecore.counting import counted
from posecore.evaluation.bootstrap import Estimate
from posecore.scoring.comparison import Comparison
from posecore.scoring.score import Cell, Score
from posecore.viz.curves import Chart
from posecore.viz.page import render

_NUMBERS = ("torso/bodies",)
"""Metrics that are whole numbers."""


def as_json(score: Score, comparison: Comparison | None = None) -> bytes:
    """Everything as JSON text; a number that does not exist is null."""
    told = replace(score, metrics={name: score.judged.get(name, math.nan) for name in score.metrics})
    value = {"score": told, **({} if comparison is None else {"comparison": comparison})}
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def as_markdown(score: Score, comparison: Comparison | None = None) -> str:
    """Everything but curves."""
    lines = [f"# {_escaped(score.results)}", "", f"By {score.protocol}, held against {_escaped(score.truth)}.", ""]
    lines += [f"> {remark}\n" for remark in score.remarks]
    lines += _markdown(("metric", "value", "from", "to"), _figure_rows(score))
    if score.units:
        lines += ["", f"Intervals (95 %) from resamples of {_units(score)}."]
    if comparison is not None:
        lines += ["", "## Compared", "", f"{_escaped(comparison.second)} minus {_escaped(comparison.first)}.", ""]
        rows = _metric_rows(comparison.differences, comparison.intervals)
        lines += _markdown(("metric", "difference", "from", "to"), rows)
        lines += ["", *_verdicts(score, comparison)]
    lines += ["", "## Counted", "", *_markdown(("what", "how many"), list(score.counts.items()))]
    for table in score.tables:
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += _markdown(table.columns, table.rows)
    if score.worst:
        lines += ["", "## Worst pictures", "", score.worst_note, ""]
        rows = [(p.image_id, p.file, p.persons, p.missed, p.redundant, p.loss) for p in score.worst]
        lines += _markdown(("picture", "file", "bodies", "missed", "redundant", "loss"), rows)
    return "\n".join(lines) + "\n"


def as_html(score: Score, comparison: Comparison | None = None, pictures: Mapping[str, str] | None = None) -> bytes:
    """One page.

    Args:
        score: of a file.
        comparison: with another, or None.
        pictures: id of a picture → data URL of what is shown of it.
    """
    return render(
        "score.html.j2",
        score=score,
        name=PurePath(score.results).name,
        headline=score.intervals.get(score.primary, Estimate(math.nan)),
        units=_units(score),
        metrics=_figure_rows(score),
        comparison=comparison,
        differences=[] if comparison is None else _metric_rows(comparison.differences, comparison.intervals),
        verdicts=[] if comparison is None else _verdicts(score, comparison),
        curves=[Chart(curve) for curve in score.curves],
        pictures=pictures or {},
        shown=_shown,
    )


def _verdicts(score: Score, comparison: Comparison) -> list[str]:
    return [comparison.verdict(score.primary, higher_is_better=score.higher_is_better) + "."]


def _units(score: Score) -> str:
    return ", ".join(counted(number, kind) for kind, number in score.units.items())


def _figure_rows(score: Score) -> list[Sequence[Cell]]:
    rows = _metric_rows(score.metrics, score.intervals)
    return [(name, value if name in score.judged else "–", *ends) for name, value, *ends in rows]


def _metric_rows(values: Mapping[str, float], intervals: Mapping[str, Estimate]) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    for name, value in values.items():
        estimate = intervals.get(name, Estimate(math.nan))
        rows.append((name, int(value) if name in _NUMBERS else value, estimate.low, estimate.high))
    return rows


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 1)}"]
    return lines + [f"| {' | '.join(_escaped(_shown(cell)) for cell in row)} |" for row in rows]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _shown(cell: Cell) -> str:
    """Four places for what is below 10, two beyond; nothing where there is no number."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) >= 10:
        return f"{cell:.0f}"
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 10 else f"{cell:.2f}"
    return str(cell)
