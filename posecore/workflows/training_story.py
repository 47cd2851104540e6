"""What a report tells of a training beside the judged sets: its curves, its data, and what it cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.evaluation.protocols import metric_class
from posecore.lineage.jobs.steps import StepResult, Workflow
from posecore.lineage.store.histories import Line, histories
from posecore.schema import Json
from posecore.shards.manifest import read_manifest
from posecore.storage import as_path
from posecore.viz.curves import MOST_LINES, Curve
from posecore.viz.report import ReportTable
from posecore.workflows.data_steps import Split
from posecore.workflows.progress import HARDWARE, SECONDS

_LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class TrainingStory:
    """See :func:`training_story`.

    Attributes:
        curves: losses, and what was found by judging on the way.
        tables: title → data, and cost.
    """

    curves: Sequence[Curve]
    tables: Mapping[str, ReportTable]


def training_story(workflow: Workflow, model: StepResult, splits: Sequence[Split]) -> TrainingStory:
    """What the record says of how a model was trained.

    Args:
        workflow: the job.
        model: the step that trained it.
        splits: what it was trained and judged on.
    """
    judged = {split.entry.name: metric_class(split.definition.evaluation.protocol).primary for split in splits}
    wanted = {f"{name}/{primary}" for name, primary in judged.items()}
    lines = histories(workflow.tracking, model.run_id, lambda name: _LOSS in name or name in wanted)
    losses = {name: line for name, line in lines.items() if name not in wanted and len(line[0]) > 1}
    order = sorted(losses, key=lambda name: (name != _LOSS, name))[:MOST_LINES]
    if len(order) == 2:  # the whole, and the one term that is the whole
        order = [_LOSS]
    curves = [_curve("losses", _LOSS, {name: losses[name] for name in order})] if order else []
    curves += [_curve(f"{name} while training", name, {name: line}) for name, line in lines.items() if name in wanted]
    run = workflow.tracking.ask(lambda client: client.get_run(model.run_id))
    metrics: Mapping[str, float] = run.data.metrics
    return TrainingStory(
        curves=[curve for curve in curves if any(len(x) > 1 for x, _ in curve.series.values())],
        tables={
            "data": _data(splits, model.values.get("shares", {})),
            "cost": ReportTable(("what", "how much"), _cost(metrics, run.data.tags.get(HARDWARE, ""))),
        },
    )


def _curve(title: str, what: str, series: Mapping[str, Line]) -> Curve:
    return Curve(title=title, x_label="step", y_label=what, series=series, from_zero=False)


def _data(splits: Sequence[Split], shares: Mapping[str, Json]) -> ReportTable:
    rows = []
    for split in splits:
        manifest = read_manifest(as_path(split.location))
        share = shares.get(split.entry.name) if split.role == "training" else None
        rows.append(
            (
                f"{split.entry.name} {as_path(split.location).name}",
                split.role,
                f"{manifest.num_images:,}",
                f"{manifest.num_instances:,}",
                "" if share is None else f"{share:.0%}",
                split.definition.license.id,
                split.digest[:12],
            )
        )
    return ReportTable(("set", "role", "pictures", "bodies", "share of crops", "licence", "digest"), rows)


def _cost(metrics: Mapping[str, float], hardware: str) -> list[tuple[str, str]]:
    shown = (
        ("time of training, s", SECONDS, "{:,.0f}"),
        ("steps", "steps_made", "{:,.0f}"),
        ("best step", "best_step", "{:,.0f}"),
        ("crops per second", "samples_per_s", "{:,.1f}"),
        ("share of time waiting for data", "data_wait_share", "{:.0%}"),
        ("memory, GB", "memory_bytes", "{:.2f}"),
    )
    rows = []
    for told, name, form in shown:
        if name in metrics:
            value = metrics[name] / (1e9 if name == "memory_bytes" else 1)
            rows.append((told, form.format(value)))
    made_on = json.loads(hardware) if hardware else {}
    return rows + [(f"steps on {name}", f"{count:,}") for name, count in made_on.items()]
