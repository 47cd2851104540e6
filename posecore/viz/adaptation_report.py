"""The report of an adaptation: one HTML file with what was gained, what was forgotten, and whether that will do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from posecore.evaluation.tables import Change
from posecore.storage import AnyPath, write_atomically


@dataclass(frozen=True)
class ReportTable:
    """A plain table.

    Attributes:
        columns: headings.
        rows: as many cells each.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """Everything the report says, as plain text and numbers.

    Attributes:
        title: heading.
        facts: lines of the head.
        verdict: in words.
        checks: whether each gate holds, and the sentence about it.
        changes: title such as ``forgetting`` to one row per set.
        errors: set to keypoint to the mean error of parent and child, as shares of the box; None where it is labelled
            nowhere.
        warm_start: what the child took from its parent.
        differences: points that look like the parent's and are not, a sentence each.
        details: who was judged to the file with all metrics and the worst cases.
    """

    title: str
    facts: Mapping[str, str]
    verdict: str
    checks: Sequence[tuple[bool, str]]
    changes: Mapping[str, Sequence[Change]]
    errors: Mapping[str, Mapping[str, tuple[float | None, float | None]]]
    warm_start: ReportTable
    differences: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)


def write_adaptation_report(path: AnyPath, report: AdaptationReport) -> AnyPath:
    """Writes the report and returns its path."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_atomically(path, environment.get_template("adaptation_report.html.j2").render(report=report).encode())
    return path
