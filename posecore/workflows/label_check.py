"""The steps that look for wrong labels: in the losses a training recorded, and in the proportions of bodies."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import ConfigError, DatasetError
from posecore.evaluation.label_losses import read_label_losses, recording_folder
from posecore.labels.bodies import LabelledBodies
from posecore.labels.contradictions import LEAST_ENERGY, implausible_labels, proportions_of
from posecore.labels.dynamics import LEAST_PASSES, find_noisy_labels, noisy_labels
from posecore.labels.plausibility import BodyScorer
from posecore.labels.suspects import CORRECTIONS_NAME, Suspect, corrections_of, write_suspects
from posecore.lineage.jobs.steps import Outputs, StepResult, Workflow
from posecore.lineage.store.tracking import RunLog
from posecore.shards.corrections import write_corrections
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath, as_path
from posecore.training.loop import TrainingConfig
from posecore.viz.suspects import write_suspect_gallery
from posecore.workflows.data_steps import Split, made_reports, vouched
from posecore.workflows.run_folder import LABEL_LOSSES

_MOST_NAMED = 40
"""Suspicious labels a step's result names itself; its table has all of them."""


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
    if training.best is not None and training.best.patience is not None:
        raise ValueError("label_check wants the losses of a whole run; take out training.best.patience.")
    passes = training.steps // training.evaluate_every if training.evaluate_every else 0
    if passes < LEAST_PASSES:
        raise ValueError(
            "label_check takes the losses of all labels every training.evaluate_every steps, which is "
            f"{counted(passes, 'time')} in {counted(training.steps, 'step')}; set training.evaluate_every to at most "
            f"{training.steps // LEAST_PASSES}, better an epoch."
        )


def check_shortest(steps: int) -> None:
    """Returns if the shortest run that a search may end in has room for a curve.

    Raises:
        ValueError: it has not.
    """
    if steps < LEAST_PASSES:
        raise ValueError(
            f"search.least_steps: label_check takes the losses of all labels {counted(LEAST_PASSES, 'time')} at least, "
            f"and a run of {counted(steps, 'step')} has no room for that; set it to at least {LEAST_PASSES}."
        )


def check_losses(
    workflow: Workflow, config: LabelCheckConfig, training: Sequence[Split], model: StepResult
) -> list[StepResult]:
    """One step per training split, by the losses recorded in a training: a table, pictures, and perhaps corrections.

    There are corrections if the labels fall into two groups. Nothing is dropped by this run; a run file that names the
    corrections under its dataset drops them.

    Returns:
        Of each step what it ``told``, as a sentence, the ``page`` with pictures, "" where the check could not look, and
        the first of its :func:`suspects`.
    """
    return [_check_split(workflow, config, split, model) for split in training]


def check_proportions(workflow: Workflow, config: LabelCheckConfig, split: Split, folder: AnyPath) -> StepResult:
    """A step that compares every body of a split with the proportions of all: seconds, and before any training.

    Args:
        workflow: the step is recorded in.
        config: how suspicious labels are shown.
        split: to be checked.
        folder: of the run; table and pictures lie under ``labels``.

    Returns:
        As :func:`check_losses`, and the file of ``proportions``, "" where there are too few bodies to learn any.
    """
    out = folder / "labels" / split.entry.name

    def execute(log: RunLog) -> Outputs:
        store = open_store(split.location, corrections=split.corrections)
        bodies = LabelledBodies.from_store(store)
        try:
            proportions = proportions_of(store, bodies)
            scorer = BodyScorer(proportions, store.manifest.definition.skeleton)
        except (ConfigError, DatasetError) as error:
            return _not_looked(f"Labels were not compared with the proportions of their bodies: {error}")
        found = implausible_labels(scorer, bodies)
        told = (
            f"{len(found)} of {counted(int(bodies.labelled.sum()), 'label')} contradict the proportions of "
            f"{counted(len(bodies), 'body')} by {LEAST_ENERGY:g} nats or more, as some correct ones do"
        )
        checked = _outputs(log, out, store, found, config, told)
        learned = proportions.save(out / "proportions.json")
        return Outputs(
            checked.values | {"proportions": str(learned)}, (*checked.files, *vouched(learned)), made=checked.made
        )

    inputs = {**_labels_of(split), "settings": config, "out": str(out)}
    code = ["posecore.workflows.label_check", "posecore.labels.contradictions"]
    return workflow.step(f"proportions:{split.entry.name}", execute, inputs=inputs, code=code)


def suspects(checked: StepResult) -> list[Suspect]:
    """The worst of the labels that a step found."""
    return [
        Suspect(row, point, float(score), reason) for row, point, score, reason in checked.values.get("suspects", [])
    ]


def _check_split(workflow: Workflow, config: LabelCheckConfig, split: Split, model: StepResult) -> StepResult:
    name = split.entry.name
    run_dir = as_path(model.values["run_dir"])
    out = run_dir / "labels" / name

    def execute(log: RunLog) -> Outputs:
        store = open_store(split.location, corrections=split.corrections)
        losses = read_label_losses(recording_folder(run_dir / LABEL_LOSSES, name), store)
        try:
            check = find_noisy_labels(losses)
        except DatasetError as error:
            return _not_looked(f"Losses of labels were not compared: {error}")
        found = noisy_labels(check, losses)
        told = f"{counted(len(found), 'label')} hardly learned ({check})"
        log.log_metrics({"share": check.share, "separation": check.separation})
        made_by = {"check": "loss dynamics", "separation": round(check.separation, 3), "run": model.run_id}
        return _outputs(log, out, store, found, config, told, made_by if check.is_clear else None)

    inputs = {"model": model, **_labels_of(split), "settings": config, "out": str(out)}
    code = ["posecore.workflows.label_check", "posecore.labels.dynamics"]
    return workflow.step(f"labels:{name}", execute, inputs=inputs, code=code)


def _labels_of(split: Split) -> dict[str, Any]:
    return {"data": split.digest, "corrections": None if split.corrections is None else split.corrections.digest}


def _not_looked(told: str) -> Outputs:
    return Outputs({"told": told.removesuffix("."), "page": ""})


def _outputs(
    log: RunLog,
    out: AnyPath,
    store: ShardStore,
    found: Sequence[Suspect],
    config: LabelCheckConfig,
    told: str,
    made_by: dict[str, Any] | None = None,
) -> Outputs:
    """Writes table, pictures and, if it is said what they are ``made_by``, corrections."""
    manifest = store.manifest
    table = write_suspects(out, store, found)
    page = write_suspect_gallery(out, store, found, f"Suspicious labels: {manifest.dataset}", config.pictures)
    files = [table, page]
    if made_by is not None and found:
        write_corrections(out / CORRECTIONS_NAME, corrections_of(store, found, made_by))
        files.append(out / CORRECTIONS_NAME)
        told += f"; to drop them, name {out / CORRECTIONS_NAME} under `corrections` of the dataset"
    log.log_metrics({"suspicious": float(len(found))})
    log.log_file(table)
    # A score may be infinite, which JSON does not have.
    named = [[each.row, each.point, str(each.score), each.reason] for each in found[:_MOST_NAMED]]
    kept = vouched(*files)
    return Outputs({"told": told, "page": str(page), "suspects": named}, kept, made=made_reports(kept))
