"""The step that judges one of several models of a job on ingested splits, each by its dataset's protocol."""

from collections.abc import Mapping, Sequence

from posecore.evaluation.clinical import group_metrics
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.keypoint_errors import KeypointError
from posecore.lineage.dataset_inputs import log_dataset_inputs
from posecore.lineage.steps import Outputs, StepResult
from posecore.lineage.tracking import RunLog
from posecore.lineage.versions import EvaluationResult
from posecore.models.sources import ModelFolder
from posecore.schema import Json
from posecore.storage import as_path
from posecore.workflows.evaluation import evaluate_stores
from posecore.workflows.job import JobWorkflow
from posecore.workflows.steps import Split, vouched


def judge_step(
    workflow: JobWorkflow,
    who: str,
    folder: str,
    splits: Sequence[Split],
    settings: InferenceSettings,
    heads: Mapping[str, str] | None = None,
    worst_cases: int = 12,
) -> StepResult:
    """Predicts and judges, with one report beside the model.

    Args:
        workflow: the step is recorded in.
        who: the model's part in the job, such as ``teacher`` or ``child``.
        folder: of the model.
        splits: what it is judged on.
        settings: how predictions are made.
        heads: the model's head by name of the split, where it is not the split's own.
        worst_cases: pictures per split in the report.

    Returns:
        By name of the split ``metrics``, ``groups`` (errors of groups of bodies, for splits judged for clinics) and
        ``errors`` (of each keypoint, as a share of the box; None where it is labelled nowhere), the ``report``, and
        ``clinical``, the file with what a clinic wants to know, for splits that were judged so.
    """
    stores = {split.entry.name: split.location for split in splits}
    answering = {split.entry.name: split.entry.answering_head for split in splits} | dict(heads or {})
    out = as_path(folder).parent / "evaluation" / who

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [split.use for split in splits])
        result = evaluate_stores(
            workflow.machines, folder, stores, settings, heads=answering, out=out, worst_cases=worst_cases
        )
        groups = {name: group_metrics(found) for name, found in result.clinical.items()}
        for name, metrics in result.metrics.items():
            shown = {**metrics, **groups.get(name, {})}
            log.log_metrics({f"{name}/{metric}": value for metric, value in shown.items()})
        errors = {
            name: {error.name: error.relative if error.labelled else None for error in found}
            for name, found in result.errors.items()
        }
        log.log_file(result.report)
        for name, picture in result.worst.items():
            log.log_file(picture, name)
        for name, found in result.errors.items():
            log.log_table(_error_table(found), f"{name}/keypoint_errors.json")
        for name, path in result.clinical_files.items():
            log.log_file(path, name)
        clinical = {name: str(path) for name, path in result.clinical_files.items()}
        values: dict[str, Json] = {"metrics": result.metrics, "groups": groups, "errors": errors}
        values |= {"report": str(result.report), "clinical": clinical}
        return Outputs(values, vouched(result.report, *result.clinical_files.values()))

    inputs = {
        "model": ModelFolder.at(folder),
        "data": {split.entry.name: split.digest for split in splits},
        "heads": answering,
        "settings": settings,
        "worst_cases": worst_cases,
        "out": str(out),
    }
    return workflow.step(f"evaluate:{who}", execute, inputs=inputs, code=["posecore.workflows.judge_step"])


def _error_table(errors: Sequence[KeypointError]) -> dict[str, list[str]]:
    return {
        "keypoint": [error.name for error in errors],
        "labelled": [str(error.labelled) for error in errors],
        "error, % of the box": [f"{100 * error.relative:.2f}" if error.labelled else "" for error in errors],
    }


def as_registered(splits: Sequence[Split], judged: StepResult) -> list[EvaluationResult]:
    """What a :func:`judge_step` found, as the registry records it."""
    return [
        EvaluationResult(
            name=split.entry.name,
            digest=split.digest,
            metrics=judged.values["metrics"][split.entry.name],
            groups=judged.values.get("groups", {}).get(split.entry.name, {}),
        )
        for split in splits
    ]
