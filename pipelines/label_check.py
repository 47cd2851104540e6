"""The step that looks for wrong labels in the losses a training recorded."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from pipelines.steps import Split, vouched
from pipelines.train_step import LABEL_LOSSES
from posecore.config import Config
from posecore.evaluation.label_losses import read_label_losses, recording_folder
from posecore.labels.dynamics import LEAST_PASSES, find_noisy_labels, noisy_labels
from posecore.labels.suspects import CORRECTIONS_NAME, corrections_of, write_suspects
from posecore.lineage.steps import Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog
from posecore.shards.corrections import write_corrections
from posecore.shards.store import open_store
from posecore.training.loop import TrainingConfig
from posecore.viz.suspects import write_suspect_gallery


class LabelCheckConfig(Config):
    """How suspicious labels are shown.

    Attributes:
        pictures: bodies in the gallery of each dataset at most.
    """

    pictures: int = Field(default=48, gt=0)


def check_passes(training: TrainingConfig) -> None:
    """Returns if a run makes enough passes to tell a curve.

    Raises:
        ValueError: it does not.
    """
    passes = training.steps // training.evaluate_every if training.evaluate_every else 0
    if passes < LEAST_PASSES:
        raise ValueError(
            f"label_check takes the losses of all labels every training.evaluate_every steps, which is {passes} times "
            f"in {training.steps} steps; set training.evaluate_every to at most {training.steps // LEAST_PASSES}, "
            "better an epoch."
        )


def check_labels(
    workflow: Workflow, config: LabelCheckConfig, training: Sequence[Split], model: StepResult
) -> list[StepResult]:
    """One step per training split: a table, pictures and, if the labels fall into two groups, corrections.

    Nothing is dropped by this run. A run file that names the corrections under its dataset drops them.
    """
    return [_check_split(workflow, config, split, model) for split in training]


def _check_split(workflow: Workflow, config: LabelCheckConfig, split: Split, model: StepResult) -> StepResult:
    name = split.entry.name
    run_dir = Path(model.values["run_dir"])
    out = run_dir / "labels" / name

    def execute(log: RunLog) -> Outputs:
        store = open_store(split.location, corrections=split.corrections)
        losses = read_label_losses(recording_folder(run_dir / LABEL_LOSSES, name), store)
        check = find_noisy_labels(losses)
        suspects = noisy_labels(check, losses)
        table = write_suspects(out, store, suspects)
        page = write_suspect_gallery(out, store, suspects, f"Suspicious labels: {name}", config.pictures)
        files = [table, page]
        told = f"{name}: {len(suspects)} suspicious ({check}): {page}"
        if check.is_clear and suspects:
            made_by = {"check": "loss dynamics", "separation": round(check.separation, 3), "run": model.run_id}
            corrections = corrections_of(store, suspects, made_by)
            write_corrections(out / CORRECTIONS_NAME, corrections)
            files.append(out / CORRECTIONS_NAME)
            told += f"; to drop them, name {out / CORRECTIONS_NAME} under `corrections` of the dataset"
        log.log_metrics({"suspicious": float(len(suspects)), "share": check.share, "separation": check.separation})
        log.log_file(table)
        return Outputs({"told": told, "folder": str(out)}, vouched(*files))

    return workflow.step(
        f"labels:{name}",
        execute,
        inputs={
            "model": model,
            "data": split.digest,
            "corrections": None if split.corrections is None else split.corrections.digest,
            "settings": config,
            "out": str(out),
        },
        code=["pipelines.label_check", "posecore.labels.dynamics"],
    )
