"""The step that writes the report of a training: one page with the answer, curves, pictures, data and cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posecore.errors import LineageError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.prediction_files import read_predictions
from posecore.evaluation.protocols import metric_class
from posecore.lineage.jobs.steps import Outputs, StepResult
from posecore.lineage.store.parameters import flat_parameters
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.tags import EvaluationResult, RegisteredVersion, evaluations, get_version
from posecore.storage import as_path
from posecore.viz.findings import Finding
from posecore.viz.page import figure
from posecore.viz.report import EvaluationSection, ReportTable, write_report
from posecore.workflows.data_steps import Split, made_reports, vouched
from posecore.workflows.job import JobWorkflow
from posecore.workflows.training_story import training_story

_EARLIER = 20
"""Versions that are looked through for one judged on the same sets."""


@dataclass(frozen=True)
class Told:
    """What a job adds to the page.

    Attributes:
        findings: sentences that it begins with.
        tables: title → table, behind the sets.
    """

    findings: Sequence[Finding] = ()
    tables: Mapping[str, ReportTable] = field(default_factory=dict)


def training_report_step(
    workflow: JobWorkflow,
    config: Any,
    model: StepResult,
    splits: Sequence[Split],
    judged: Mapping[str, StepResult],
    version: RegisteredVersion,
    worst: int = 12,
    beside: Mapping[str, StepResult] | None = None,
    tell: Callable[[], Told] = Told,
    told_by: Sequence[str] = (),
) -> StepResult:
    """One page; its pictures come from the predictions that were judged.

    Args:
        workflow: the step is recorded in.
        config: the job's, shown at the end.
        model: the step that trained.
        splits: all that it was trained and judged on.
        judged: name of each judged set to the step that judged it.
        version: what came of it.
        worst: pictures of the worst cases of each set.
        beside: steps that ``tell`` reads.
        tell: what stands on the page beside the usual, asked for when it is written.
        told_by: modules of ``tell``.

    Returns:
        ``report``, the page.
    """
    path = as_path(model.values["run_dir"]) / "report.html"
    predictions = {name: step.values["predictions"][name] for name, step in judged.items()}
    metrics = {name: step.values["metrics"][name] for name, step in judged.items()}
    protocols = {split.entry.name: metric_class(split.definition.evaluation.protocol) for split in splits}
    digests = {split.entry.name: split.digest for split in splits if split.role == "evaluation"}
    earlier = dict(_earlier(workflow, version, digests))

    def execute(log: RunLog) -> Outputs:
        sections = []
        for name, file in predictions.items():
            said, _, store = read_predictions(as_path(file))
            truth = GroundTruth.from_store(store)
            sections.append(EvaluationSection.of(name, store, truth, said, metrics[name], worst=worst))
        told = tell()
        findings = list(told.findings)
        for name, (before, result) in earlier.items():
            primary, sign = protocols[name].primary, 1 if protocols[name].higher_is_better else -1
            old, new = result.metrics.get(primary, -1.0), metrics[name][primary]
            tone = "" if -1 in (old, new) or new == old else "good" if sign * (new - old) > 0 else "bad"
            like = {"good": "better than", "bad": "worse than", "": "as"}[tone]
            findings.append(
                Finding(f"{name}: {like} version {before.version}, {primary} {figure(old)} → {figure(new)}.", tone)
            )
        story = training_story(workflow, model, splits)
        write_report(
            path,
            version.uri,
            sections,
            {"model": model.values["folder"], **flat_parameters(config.model_dump(mode="json"))},
            findings=findings,
            curves=story.curves,
            tables={**told.tables, **story.tables},
        )
        log.log_file(path)
        files = vouched(path)
        return Outputs({"report": str(path)}, files, made=made_reports(files))

    inputs = {
        "model": model,
        "judged": dict(judged),
        "version": version.uri,
        "earlier": {name: before.uri for name, (before, _) in earlier.items()},
        "worst": worst,
        "out": str(path),
        **({"beside": dict(beside)} if beside else {}),
    }
    return workflow.step("report", execute, inputs=inputs, code=["posecore.workflows.training_report", *told_by])


def _earlier(
    workflow: JobWorkflow, version: RegisteredVersion, digests: Mapping[str, str]
) -> Iterator[tuple[str, tuple[RegisteredVersion, EvaluationResult]]]:
    """By name of a set, the last version before that was judged on the same edition of it, and what was found."""
    left = dict(digests)
    for number in range(version.version - 1, max(0, version.version - 1 - _EARLIER), -1):
        try:
            results = evaluations(get_version(workflow.tracking, version.name, number))
        except LineageError:
            continue  # it was deleted
        for result in results:
            if left.get(result.name) == result.digest:
                del left[result.name]
                yield result.name, (RegisteredVersion(version.name, number), result)
