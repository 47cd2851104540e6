"""The step that judges one of several models of a job on one ingested split, by that dataset's protocol."""

from pathlib import Path

from pipelines.evaluate import evaluate_stores
from pipelines.steps import Split, vouched
from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.dataset_inputs import log_dataset_inputs
from posecore.lineage.steps import Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog
from posecore.models.weights.initial import SourceConfig, pin


def judge_step(
    workflow: Workflow, who: str, folder: str, split: Split, settings: InferenceSettings, head: str | None = None
) -> StepResult:
    """Predicts and judges, with a report beside the model.

    Args:
        workflow: the step is recorded in.
        who: the model's part in the job, such as ``teacher`` or ``child``.
        folder: of the model.
        split: what it is judged on.
        settings: how predictions are made.
        head: the model's head that answers; None for the split's own.

    Returns:
        ``metrics``, ``errors`` (of each keypoint, as a share of the box; None where it is labelled nowhere), ``set``
        and ``report``.
    """
    name = split.entry.name
    answering = head or split.entry.answering_head
    out = Path(folder).parent / "evaluation" / who / name

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [split.use])
        result = evaluate_stores(folder, {name: split.location}, settings, heads={name: answering}, out=out)
        log.log_metrics(result.metrics[name])
        errors = {error.name: error.relative if error.labelled else None for error in result.errors[name]}
        values = {"metrics": result.metrics[name], "errors": errors, "set": name, "report": str(result.report)}
        return Outputs(values, vouched(result.report))

    inputs = {"model": pin(SourceConfig(source=folder)), "data": split.digest, "head": answering, "out": str(out)}
    return workflow.step(
        f"evaluate:{who}:{name}", execute, inputs=inputs | {"settings": settings}, code=["pipelines.evaluate"]
    )
