"""The step that trains a model on ingested splits: of the main job, and of each stage of distillation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from posecore.cluster.training import RayTrainingConfig, train_with_ray
from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.code_version import code_digest
from posecore.lineage.contents import origin_tags
from posecore.lineage.curve import CurveLog
from posecore.lineage.dataset_inputs import log_dataset_inputs
from posecore.lineage.steps import Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog
from posecore.lineage.weights_use import weights_in
from posecore.models.architecture import ModelCard
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE
from posecore.workflows.bad_samples import log_bad_samples
from posecore.workflows.datasets_job import DatasetsJob
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.periodic_evaluation import LabelRecording, PeriodicEvaluation
from posecore.workflows.run_folder import RunFolders
from posecore.workflows.steps import Split, made_of_training, vouched

LABEL_LOSSES = "label_losses"
"""Folder of the recorded losses beside the model."""


def train_step(
    workflow: Workflow,
    name: str,
    config: DatasetsJob,
    cluster: RayTrainingConfig,
    worker: MultiDatasetWorker,
    training: Sequence[Split],
    complete: Callable[[ModelCard], ModelCard] = lambda card: card,
    record_labels: Sequence[str] = (),
    inference: InferenceSettings = InferenceSettings(),  # noqa: B008 (it is immutable)
) -> StepResult:
    """Shards to a model folder.

    Args:
        workflow: the step is recorded in.
        name: of the step.
        config: says where the run's folder is.
        cluster: workers.
        worker: what each of them does; it decides the result, and so the step's fingerprint.
        training: what the worker's stores are.
        complete: adds to the trained model's card what the worker cannot know.
        record_labels: sets of which the loss of every label is recorded whenever evaluation is due.
        inference: batch size and threads of that.

    Returns:
        ``folder`` of the model, ``run_dir``, which later steps write beside it, and files ``beside`` the model.
    """
    data = {split.entry.name: split.digest for split in training}
    inputs: dict[str, Any] = {
        "data": data,
        "model": worker.model,
        "method": worker.method,
        "weights": worker.weights,
        "loading": worker.loading,
        "training": worker.training,
    }
    corrections = {split.entry.name: split.corrections for split in training if split.corrections is not None}
    if corrections:
        inputs["corrections"] = {entry: found.digest for entry, found in corrections.items()}
    if record_labels:
        inputs["record_labels"] = list(record_labels)
    code = code_of(worker, judges=bool(worker.training.evaluate_every), records=bool(record_labels))
    folders = RunFolders.of(config.folder, inputs, code_digest(code), workflow)

    def execute(log: RunLog) -> Outputs:
        run_dir = folders.open(clean=not workflow.reuse.finished)
        training_worker = replace(worker, corrections=corrections)
        if record_labels:
            recording = LabelRecording(
                stores={entry: worker.stores[entry] for entry in record_labels},
                corrections=corrections,
                folder=str(run_dir / LABEL_LOSSES),
                settings=inference,
                judge=worker.evaluate,
            )
            training_worker = replace(training_worker, evaluate=recording)
        log.set_tags({f"posecore.{key}": value for key, value in folders.inputs.items()})
        log.log_params({"steps": worker.training.steps, "run_dir": run_dir})
        log_dataset_inputs(log, [split.use for split in training])
        for entry, found in corrections.items():
            log.log_dict(found.model_dump(mode="json"), f"corrections/{entry}.json")
        trained = train_with_ray(training_worker, run_dir, cluster, CurveLog(log, str(config.folder)))
        log_bad_samples(log, trained.checkpoint)
        model = training_worker.trained(trained.checkpoint)
        if worker.weights is not None:
            record = model.card.lineage["weights"]
            log.log_dict(record, "weights.json")
            copied, fresh = record["copied"], record["fresh"]
            columns = {
                "part": list(copied),
                "copied": list(copied.values()),
                "freshly initialised": [", ".join(fresh.get(part, ())) for part in copied],
            }
            log.log_table(columns, "warm_start.json")
        card = complete(model.card)
        if "recipe" in card.lineage:
            log.log_dict(card.lineage["recipe"], "recipe.json")
        lineage = {**card.lineage, "run_id": log.run_id, "step": worker.training.steps} | folders.inputs
        lineage["data"] = [split.use.portable for split in training]
        if corrections:
            lineage["corrections"] = inputs["corrections"]
        folder = model.save(run_dir / "model", card.model_copy(update={"lineage": lineage}))
        beside = training_worker.write_beside(trained.checkpoint, run_dir)
        files = vouched(folder / CARD_FILE, folder / WEIGHTS_FILE, *beside)
        log.set_tags(origin_tags(weights_in(lineage)))
        values = {"folder": str(folder), "run_dir": str(run_dir), "beside": [str(path) for path in beside]}
        return Outputs(values, files, made=made_of_training(files))

    return workflow.step(name, execute, inputs=inputs | folders.inputs, code=code, continues=True)


def code_of(worker: MultiDatasetWorker, *, judges: bool, records: bool = False) -> list[str]:
    """The modules that a training runs: the worker's, and those of what it is given.

    Args:
        worker: what each training process does.
        judges: whether its evaluation is ever called.
        records: whether losses of labels are recorded.
    """
    given: list[object] = [worker, worker.method]
    if worker.weights is not None:
        given.append(worker.weights)
    if judges and worker.evaluate is not None:
        given.append(worker.evaluate)
    modules = {type(each).__module__ for each in given}
    return sorted(modules | ({LabelRecording.__module__} if records else set()))


def judge_while_training(evaluation: Sequence[Split], settings: InferenceSettings) -> PeriodicEvaluation:
    """Each split by its own protocol and the head that answers for it, every ``training.evaluate_every`` steps."""
    return PeriodicEvaluation(
        stores={split.entry.name: split.location for split in evaluation},
        heads={split.entry.name: split.entry.answering_head for split in evaluation},
        settings=settings,
    )
