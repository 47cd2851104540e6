"""The step that trains a model on ingested splits, of every job that trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self, cast

from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.code.extensions import EXTENSIONS, with_extensions
from posecore.lineage.code.version import code_digest
from posecore.lineage.jobs.contents import origin_tags
from posecore.lineage.jobs.steps import Outputs, StepResult
from posecore.lineage.store.curve import CurveLog
from posecore.lineage.store.parameters import flat_parameters
from posecore.lineage.store.sample_pictures import SamplePictureLog
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import log_dataset_inputs
from posecore.lineage.versions.weights_use import weights_in
from posecore.loading.decoders import KEY as DECODERS
from posecore.loading.decoders import decoders
from posecore.loading.loader import LoadingConfig, drawn_shares
from posecore.models.architecture import ModelCard
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE
from posecore.schema import Json
from posecore.shards.corrections import Corrections
from posecore.shards.store import open_store
from posecore.storage import AnyPath
from posecore.training.loop import Evaluate
from posecore.training.trained import LoadedModel, TrainedModel
from posecore.workflows.bad_samples import log_bad_samples
from posecore.workflows.data_steps import Split, made_of_training, vouched
from posecore.workflows.datasets_job import DatasetsJob
from posecore.workflows.job import JobWorkflow
from posecore.workflows.machines import Worker, WorkersConfig
from posecore.workflows.periodic_evaluation import LabelRecording, PeriodicEvaluation
from posecore.workflows.progress import log_progress
from posecore.workflows.run_folder import LABEL_LOSSES, Begun, RunFolders
from posecore.workflows.sample_pictures import SamplePictures

SAMPLES = "samples"
"""Folder of the pictures of predictions beside the model."""


class Judge(Protocol):
    """A periodic evaluation that may say which checkpoint is best."""

    def decided_by(self) -> dict[str, Json]:
        """What decides what it finds beside the model: digests of the data, and settings."""
        ...


class TrainingWorker(Worker, Protocol):
    """What each training process does, and what comes of it; picklable."""

    @property
    def stores(self) -> Mapping[str, str]:
        """By name of the set, the location of its ingested split."""
        ...

    @property
    def loading(self) -> LoadingConfig:
        """What is drawn of them."""
        ...

    @property
    def evaluate(self) -> Evaluate | None:
        """Periodic evaluation."""
        ...

    def decided_by(self) -> dict[str, Any]:
        """What decides the result beside the data: configurations, for the fingerprint."""
        ...

    def given(self) -> Sequence[object]:
        """What it is given beside configurations of the loop, and whose modules it runs therefore."""
        ...

    def refined(self, corrections: Mapping[str, Corrections], evaluate: Evaluate | None) -> Self:
        """The worker that reads corrected labels and judges so."""
        ...

    def trained(self, checkpoint: AnyPath) -> TrainedModel | LoadedModel:
        """The model of a checkpoint of this worker, to be written a tensor at a time."""
        ...

    def kept_files(self, checkpoint: AnyPath, run_dir: AnyPath) -> tuple[AnyPath, ...]:
        """What later steps read beside the model, written if it is not there."""
        ...


def train_step(
    workflow: JobWorkflow,
    name: str,
    config: DatasetsJob,
    cluster: WorkersConfig,
    worker: TrainingWorker,
    training: Sequence[Split],
    complete: Callable[[ModelCard], ModelCard] = lambda card: card,
    evaluation: Sequence[Split] = (),
    record_labels: Sequence[str] = (),
    inference: InferenceSettings = InferenceSettings(),  # noqa: B008 (it is immutable)
    begun: Begun | None = None,
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
        evaluation: what the worker's periodic evaluation looks at.
        record_labels: sets of which the loss of every label is recorded whenever evaluation is due.
        inference: batch size and threads of that.
        begun: a training of the same model on the same sets, which this one carries on; None starts anew.

    Returns:
        ``folder`` of the model, ``checkpoint`` it was read from, ``run_dir``, which later steps write beside them,
        files ``beside`` the model, and ``shares`` of the sets in the crops.
    """
    data = {split.entry.name: split.digest for split in training}
    inputs: dict[str, Any] = {"data": data, **worker.decided_by()}
    corrections = {split.entry.name: split.corrections for split in training if split.corrections is not None}
    if corrections:
        inputs["corrections"] = {entry: found.digest for entry, found in corrections.items()}
    if begun is not None:
        inputs["begun"] = dict(begun.made_by)
    if record_labels:
        inputs["record_labels"] = list(record_labels)
    if worker.training.best is not None:
        inputs["judged"] = cast(Judge, worker.evaluate).decided_by()
    inputs = with_extensions(inputs)
    code = code_of(worker, judges=bool(worker.training.evaluate_every), records=bool(record_labels))
    folders = RunFolders.of(config.folder, inputs, code_digest(code), workflow)

    def execute(log: RunLog) -> Outputs:
        run_dir = folders.open(clean=not workflow.reuse.finished, begun=None if begun is None else begun.folder)
        samples, evaluate = run_dir / SAMPLES, worker.evaluate
        if isinstance(evaluate, PeriodicEvaluation):
            evaluate = replace(evaluate, show=SamplePictures(folder=str(samples)))
        if record_labels:
            evaluate = LabelRecording(
                stores={entry: worker.stores[entry] for entry in record_labels},
                corrections=corrections,
                folder=str(run_dir / LABEL_LOSSES),
                settings=inference,
                judge=evaluate,
            )
        working = worker.refined(corrections, evaluate)
        log.set_tags({f"posecore.{key}": value for key, value in folders.inputs.items()})
        log.log_params({**flat_parameters(worker.decided_by()), "run_dir": str(run_dir)})
        shares = _shares(worker, corrections)
        uses = [split.use_in(shares) for split in training]
        looked_at = evaluation if worker.training.evaluate_every else ()
        log_dataset_inputs(log, [*uses, *(split.use for split in looked_at if split.role == "evaluation")])
        for entry, found in corrections.items():
            log.log_dict(found.model_dump(mode="json"), f"corrections/{entry}.json")
        curve = CurveLog(log, str(config.folder), str(samples))
        trained = workflow.machines.train(working, run_dir, cluster, curve)
        SamplePictureLog(log, samples).send(log.tracking.ask)
        log_bad_samples(log, trained.last)
        progress = log_progress(log, trained)
        model = working.trained(trained.checkpoint)
        _log_weights(log, model.card)
        card = complete(model.card)
        if "recipe" in card.lineage:
            log.log_dict(card.lineage["recipe"], "recipe.json")
        lineage = {**card.lineage, "run_id": log.run_id, "step": progress.step} | folders.inputs
        lineage["data"] = [use.portable for use in uses]
        lineage[DECODERS] = decoders()
        if EXTENSIONS in inputs:
            lineage[EXTENSIONS] = inputs[EXTENSIONS]
        if corrections:
            lineage["corrections"] = inputs["corrections"]
        folder = model.save(run_dir / "model", card.model_copy(update={"lineage": lineage}))
        beside = working.kept_files(trained.checkpoint, run_dir)
        files = vouched(folder / CARD_FILE, folder / WEIGHTS_FILE, *beside)
        log.set_tags(origin_tags(weights_in(lineage)))
        values: dict[str, Json] = {"folder": str(folder), "beside": [str(path) for path in beside]}
        values |= {"run_dir": str(run_dir), "checkpoint": str(trained.checkpoint), "shares": shares}
        return Outputs(values, files, made=made_of_training(files))

    return workflow.step(name, execute, inputs=inputs | folders.inputs, code=code, continues=True)


def _shares(worker: TrainingWorker, corrections: Mapping[str, Corrections]) -> dict[str, float]:
    stores = {name: open_store(place, corrections=corrections.get(name)) for name, place in worker.stores.items()}
    return drawn_shares(worker.loading, stores)


def _log_weights(log: RunLog, card: ModelCard) -> None:
    """What a model started from, as the run shows it."""
    record = card.lineage.get("weights")
    if record is None:
        return
    log.log_dict(record, "weights.json")
    copied, fresh = record["copied"], record["fresh"]
    columns = {
        "part": list(copied),
        "copied": list(copied.values()),
        "freshly initialised": [", ".join(fresh.get(part, ())) for part in copied],
    }
    log.log_table(columns, "warm_start.json")


def code_of(worker: TrainingWorker, *, judges: bool, records: bool = False) -> list[str]:
    """The modules that a training runs: the worker's, and those of what it is given.

    Args:
        worker: what each training process does.
        judges: whether its evaluation is ever called.
        records: whether losses of labels are recorded.
    """
    given = [worker, *worker.given()]
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
