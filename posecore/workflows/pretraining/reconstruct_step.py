"""The step that shows what a masked autoencoder fills in."""

from posecore.lineage.jobs.steps import Outputs, StepResult, Workflow
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import log_dataset_inputs
from posecore.storage import as_path, write_atomically
from posecore.viz.encoded import encode_png
from posecore.viz.reconstruction import reconstruction_sheet
from posecore.workflows.data_steps import Split, made_reports, vouched
from posecore.workflows.pretraining.judge import ReconstructionJudge
from posecore.workflows.pretraining.worker import PretrainingWorker


def reconstruct_step(
    workflow: Workflow, worker: PretrainingWorker, split: Split, model: StepResult, pictures: int
) -> StepResult:
    """How well one set's hidden patches are filled in, as a number and as a picture.

    Args:
        workflow: the step is recorded in.
        worker: what trained; its evaluation is the judge.
        split: of the set, whose crops are filled in.
        model: the step that trained.
        pictures: crops in the picture.

    Returns:
        ``error``, and the file of the ``picture``.
    """
    name, judge = split.entry.name, worker.evaluate
    assert isinstance(judge, ReconstructionJudge), judge
    picture = as_path(model.values["run_dir"]) / "reconstruction" / f"{name}.png"

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [split.use])
        method = worker.trained_method(as_path(model.values["checkpoint"]))
        error = judge.error(method, name)
        log.log_metrics({f"{name}/masked_error": error})
        write_atomically(picture, encode_png(reconstruction_sheet(judge.pictures(method, name, pictures))))
        log.log_file(picture)
        files = vouched(picture)
        return Outputs({"error": error, "picture": str(picture)}, files, made=made_reports(files))

    return workflow.step(
        f"reconstruct:{name}",
        execute,
        inputs={"model": model, "data": split.digest, "pictures": pictures, "out": str(picture)},
        code=[type(worker).__module__, type(judge).__module__, reconstruction_sheet.__module__],
    )
