"""Steps of one's own, which a job runs between judging a model and registering it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from posecore.config import Extension
from posecore.doors import Door
from posecore.lineage.jobs.steps import OutputFile, Outputs, StepResult
from posecore.lineage.store.tracking import RunLog
from posecore.schema import Json
from posecore.storage import AnyPath, as_path
from posecore.workflows.data_steps import Split
from posecore.workflows.job import JobWorkflow


@dataclass(frozen=True)
class Finished:
    """What a job has made so far.

    Attributes:
        model: folder of the trained model.
        metrics: by name of the judged set, name → value.
        splits: by name of the judged set, folder of its ingested split.
        folder: of the step itself, empty; what it writes there is kept with its result.
    """

    model: AnyPath
    metrics: Mapping[str, Mapping[str, float]]
    splits: Mapping[str, AnyPath]
    folder: AnyPath


class FurtherStep(Extension):
    """The protocol of steps: a function of what is finished and of its options, which runs again if either changes."""

    def __call__(self, job: Finished) -> Mapping[str, Json]:
        """Does its work, and returns small results to be recorded.

        Raises:
            PoseCoreError: the job is to end here, unregistered.
        """
        raise NotImplementedError(f"{type(self).__name__} has to do something")


StepConfig: TypeAlias = Annotated[FurtherStep, Door("step", "posecore.steps")]
"""Whatever comes by: none is built in, for the others are the job."""


def further_steps(
    workflow: JobWorkflow,
    steps: Sequence[FurtherStep],
    model: StepResult,
    evaluation: Sequence[Split],
    judged: Sequence[StepResult],
) -> list[StepResult]:
    """Runs them, in order, each as a recorded step ``further:<class>``."""
    return [_run(workflow, number, step, model, evaluation, judged) for number, step in enumerate(steps)]


def _run(
    workflow: JobWorkflow,
    number: int,
    step: FurtherStep,
    model: StepResult,
    evaluation: Sequence[Split],
    judged: Sequence[StepResult],
) -> StepResult:
    name = type(step).__name__
    trained = as_path(model.values["folder"])
    folder = trained.parent / "further" / f"{number}-{name}"
    names = [split.entry.name for split in evaluation]
    metrics = {of: result.values["metrics"][of] for of, result in zip(names, judged, strict=True)}
    splits = {split.entry.name: as_path(split.location) for split in evaluation}

    def execute(log: RunLog) -> Outputs:
        folder.mkdir(parents=True, exist_ok=True)
        values = dict(step(Finished(trained, metrics, splits, folder)))
        log.log_dict(values, "result.json")
        files = sorted((path for path in folder.rglob("*") if path.is_file()), key=str)
        return Outputs(values, tuple(OutputFile.of(path) for path in files))

    inputs = {"step": step, "number": number, "model": model, "judged": list(judged)}
    return workflow.step(f"further:{name}", execute, inputs=inputs, code=["posecore.workflows.further_step"])
