"""Judging a model on ingested splits: metrics, result files, an HTML report.

Predictions are made by processes that hold the model once. The batches do not depend on how many there
are, so the numbers are those of :func:`posecore.evaluation.inference.predict_store` in one process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import orjson
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from posecore import __version__
from posecore.datasets.judgeable import labels_problem
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.clinical import ClinicalResult, ClinicalSettings, can_judge, evaluate_clinic, require_torso
from posecore.evaluation.inference import InferenceSettings, PredictionTask, finish, predict_rows
from posecore.evaluation.keypoint_errors import KeypointError
from posecore.evaluation.label_counts import label_counts
from posecore.evaluation.prediction_files import PREDICTIONS_FILE, PredictionOrigin, write_predictions
from posecore.evaluation.protocols import evaluate, meant_answers
from posecore.evaluation.results import coco_results, read_boxes
from posecore.evaluation.traits import Traits
from posecore.evaluation.uncertainty import UncertaintyResult, is_answered, judge_uncertainty
from posecore.models.architecture import ModelCard
from posecore.models.saving import load_model, read_card
from posecore.models.uncertainty import HeadUncertainty
from posecore.shards.manifest import read_manifest
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath, as_path, for_all_nodes, make_writable, write_atomically
from posecore.training.recipe import recipe_facts
from posecore.viz.close_ups import ShownBody
from posecore.viz.encoded import contact_sheet, encode_jpeg
from posecore.viz.report import EvaluationSection, write_report
from posecore.workflows.machines import ActorSettings, Machines

_BATCHES_AT_ONCE = 16
_PIECES_EACH = 3
WORST_FILE, SAMPLES_FILE, _CELL_PX = "worst.jpg", "samples.jpg", 480
CLINICAL_FILE = "clinical.json"
"""What a clinic wants to know of a split, beside its results."""
UNCERTAINTY_FILE = "uncertainty.json"
"""Whether the model knows how far off it is, beside them."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What :func:`evaluate_stores` found and wrote.

    Attributes:
        metrics: name of the split → metric → value: those of its protocol, of one with OKS also how many bodies were
            missed, redundant and swapped, and, where it was judged for clinics or the model is calibrated, the headline
            of that.
        errors: name of the split → the error of each keypoint.
        report: the HTML file.
        clinical: name of the split → what a clinic wants to know, for splits that were judged so.
        clinical_files: name of the split → the file with it.
        pictures: name of the split → pictures of its worst cases and of held-out bodies, for splits that have any.
        uncertainty: name of the split → whether the model knows how far off it is, where it was calibrated to say.
        uncertainty_files: name of the split → the file with it.
        predictions: name of the split → the file of what was said of it.
        bodies: name of the split → labelled bodies that were judged, crowds excepted.
        subjects: name of the split → named people or animals among them.
    """

    metrics: dict[str, dict[str, float]]
    errors: dict[str, list[KeypointError]]
    report: AnyPath
    clinical: dict[str, ClinicalResult]
    clinical_files: dict[str, AnyPath]
    uncertainty: dict[str, UncertaintyResult]
    uncertainty_files: dict[str, AnyPath]
    pictures: dict[str, list[AnyPath]]
    predictions: dict[str, AnyPath]
    bodies: dict[str, int]
    subjects: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Split:
    """One split to judge; small, and sent to every actor."""

    location: AnyPath
    head: str | None
    boxes: AnyPath | None
    settings: InferenceSettings
    whole_scenes: bool

    def promising(self, card: ModelCard) -> "_Split":
        """The same, to be answered with how far off each point may be where the model was calibrated to say so."""
        head = self.head or read_manifest(self.location).dataset
        known = _promised(card, head, self.settings) is not None
        return replace(self, settings=self.settings.model_copy(update={"uncertainty": known}))

    def task(self) -> PredictionTask:
        store = open_store(self.location)
        return PredictionTask(
            store=store,
            head=self.head or store.manifest.dataset,
            settings=self.settings,
            boxes=None if self.boxes is None else read_boxes(self.boxes),
            whole_scenes=self.whole_scenes,
        )


def evaluate_stores(
    machines: Machines,
    model_folder: str | AnyPath,
    stores: Mapping[str, str | AnyPath],
    settings: InferenceSettings | None = None,
    *,
    out: str | AnyPath,
    heads: Mapping[str, str] | None = None,
    boxes: Mapping[str, str | AnyPath] | None = None,
    worst_cases: int = 12,
    actors: ActorSettings | None = None,
    clinic: bool | None = None,
    clinical: ClinicalSettings | None = None,
) -> EvaluationResult:
    """Predicts and judges splits.

    Writes ``<out>/<name>/results.json`` (the official results format), ``<out>/<name>/predictions.parquet`` (for
    ``posecore view`` and comparisons), ``<out>/<name>/worst.jpg`` and ``samples.jpg``, ``<out>/<name>/clinical.json``
    for splits judged for clinics, ``<out>/<name>/uncertainty.json`` of calibrated models, ``<out>/metrics.json`` and
    ``<out>/report.html``.

    Args:
        machines: who predicts.
        model_folder: a saved model; every node must reach it.
        stores: name → folder of an ingested split; every node must reach them.
        settings: how predictions are made.
        out: where the files go.
        heads: name of the split → the model's head that answers; default the dataset's own.
        boxes: name of the split → COCO detection list to judge on instead of annotated boxes.
        worst_cases: pictures per split in the report.
        actors: how the work is spread.
        clinic: judge for clinics: always, never, or (None) where the protocol is ``torso`` or subjects or films are
            named, and any body has a torso.
        clinical: thresholds and intervals of that.

    Raises:
        EvaluationError: a head or boxes do not fit a split, ``clinic`` asks for what the data does not have, or nothing
            in a split can be judged by its labels.
        PreflightError: ``out`` cannot be written.
        CheckpointError: there is no whole model in the folder.
        IntegrityError: a split or the model is damaged.
    """
    settings, out, folder = settings or InferenceSettings(), as_path(out), for_all_nodes(model_folder)
    card = read_card(folder)  # now: before the work, as what is written after it
    splits = {
        name: _Split(
            location=for_all_nodes(location),
            head=(heads or {}).get(name),
            boxes=for_all_nodes(boxes[name]) if boxes and name in boxes else None,
            settings=settings,
            whole_scenes=card.architecture.whole_scenes,
        ).promising(card)
        for name, location in stores.items()
    }
    tasks = {name: split.task() for name, split in splits.items()}
    wanted = _Clinic(clinic, clinical or ClinicalSettings())
    for name, task in tasks.items():
        wanted.check(task)
        problem = labels_problem(task.store.manifest.definition.evaluation.protocol, label_counts(task.store))
        if problem is not None:
            raise EvaluationError(f"{name} cannot be judged: {problem}")
    make_writable(out, "the results' folder")
    input_size = card.architecture.input_size
    parts = _predicted(machines, folder, splits, tasks, input_size, actors or ActorSettings())
    origin = str(folder)
    sections = [
        _judge(name, task, finish(task, parts[name]), out, worst_cases, wanted, origin, card)
        for name, task in tasks.items()
    ]
    trusted = {section.name: section.uncertainty for section in sections if section.uncertainty is not None}
    clinical_results = {section.name: section.clinical for section in sections if section.clinical is not None}
    metrics = {
        section.name: {**section.metrics, **(section.bodies.headline() if section.bodies is not None else {})}
        for section in sections
    }
    for name, result in clinical_results.items():
        metrics[name] |= result.headline()
    for name, found in trusted.items():
        metrics[name] |= found.headline()
    write_atomically(out / "metrics.json", orjson.dumps(metrics, option=orjson.OPT_INDENT_2))
    facts = {"model": str(folder), "posecore": __version__, "inference": settings.model_dump_json()}
    facts |= recipe_facts(card.lineage)
    report = write_report(out / "report.html", f"Evaluation of {folder.parent.name}/{folder.name}", sections, facts)
    return EvaluationResult(
        metrics=metrics,
        errors={section.name: list(section.errors) for section in sections},
        report=report,
        clinical=clinical_results,
        clinical_files={name: out / name / CLINICAL_FILE for name in clinical_results},
        uncertainty=trusted,
        uncertainty_files={name: out / name / UNCERTAINTY_FILE for name in trusted},
        pictures={
            section.name: [out / section.name / file for file, cases in _sheets(section) if cases]
            for section in sections
        },
        predictions={name: out / name / PREDICTIONS_FILE for name in tasks},
        bodies={section.name: section.num_instances for section in sections},
        subjects={name: _subjects(task.store) for name, task in tasks.items()},
    )


def _subjects(store: ShardStore) -> int:
    """How many people or animals the bodies are named as, crowds excepted."""
    named = store.instances.filter(pc.invert(store.instances["is_crowd"]))["subject_id"]
    return int(pc.count_distinct(named, mode="only_valid").as_py())


@dataclass(frozen=True)
class _Clinic:
    """Whether splits are judged for clinics (None: where it makes sense), and how."""

    wanted: bool | None
    settings: ClinicalSettings

    def check(self, task: PredictionTask) -> None:
        """Refuses what is demanded and cannot be had, before anything is predicted."""
        if self.wanted:
            if task.whole_scenes:
                raise EvaluationError(
                    "clinic: it compares every annotated body with the one answer to it, and a model of whole pictures "
                    "may find more or fewer; leave it out, or judge a model of crops."
                )
            definition = task.store.manifest.definition
            require_torso(definition.evaluation, definition.skeleton)

    def judge(self, task: PredictionTask, truth: GroundTruth, predictions: Predictions) -> ClinicalResult | None:
        if task.whole_scenes:
            return None
        store = task.store
        definition = store.manifest.definition
        if self.wanted is None:
            named = any(store.instances[who].null_count < len(store) for who in ("subject_id", "video_id"))
            sensible = definition.evaluation.protocol == "torso" or named
            wanted = sensible and can_judge(truth, definition.skeleton, definition.evaluation)
        else:
            wanted = self.wanted
        if not wanted:
            return None
        traits = Traits.from_store(store)
        return evaluate_clinic(truth, predictions, traits, definition.skeleton, definition.evaluation, self.settings)


def _judge(
    name: str,
    task: PredictionTask,
    predictions: Predictions,
    out: AnyPath,
    worst: int,
    clinic: _Clinic,
    model: str,
    card: ModelCard,
) -> EvaluationSection:
    manifest = task.store.manifest
    definition = manifest.definition
    truth = GroundTruth.from_store(task.store)
    parts_of = definition.skeleton if definition.evaluation.protocol == "wholebody" else None
    write_atomically(out / name / "results.json", orjson.dumps(coco_results(predictions, parts_of)))
    origin = PredictionOrigin(store=str(task.store.location), digest=manifest.digest, model=model, head=task.head)
    write_predictions(out / name / PREDICTIONS_FILE, predictions, origin)
    clinical = clinic.judge(task, truth, predictions)
    if clinical is not None:
        write_atomically(out / name / CLINICAL_FILE, clinical.to_json())
    trusted = _trusted(task, truth, predictions, card)
    if trusted is not None:
        write_atomically(out / name / UNCERTAINTY_FILE, trusted.to_json())
    metrics = evaluate(definition.evaluation, definition.skeleton, truth, predictions)
    section = EvaluationSection.of(
        name, task.store, truth, predictions, metrics, worst=worst, clinical=clinical, uncertainty=trusted
    )
    for file, cases in _sheets(section):
        if cases:
            sheet = contact_sheet([case.picture_rgb for case in cases], columns=2, cell_px=_CELL_PX)
            write_atomically(out / name / file, encode_jpeg(sheet))
    return section


def _promised(card: ModelCard, head: str, settings: InferenceSettings) -> HeadUncertainty | None:
    return card.uncertainty_of(head, settings.flip_test, settings.path, settings.reading)


def _trusted(
    task: PredictionTask, truth: GroundTruth, predictions: Predictions, card: ModelCard
) -> UncertaintyResult | None:
    promised = _promised(card, task.head, task.settings)
    if promised is None or not (truth.visibility > 0).any() or not len(predictions):
        return None
    definition = task.store.manifest.definition
    points = card.points_of(task.head, definition.skeleton.union_names)
    pairs = None
    if task.whole_scenes or (task.boxes is not None and definition.skeleton.oks_sigmas is not None):
        pairs = meant_answers(definition.evaluation, definition.skeleton, truth, predictions)
    if not is_answered(truth, predictions, pairs):
        return None
    return judge_uncertainty(truth, predictions, Traits.from_store(task.store), promised, points, pairs)


def _sheets(section: EvaluationSection) -> tuple[tuple[str, Sequence[ShownBody]], ...]:
    return (WORST_FILE, section.worst), (SAMPLES_FILE, section.samples)


def _predicted(
    machines: Machines,
    model_folder: AnyPath,
    splits: Mapping[str, _Split],
    tasks: Mapping[str, PredictionTask],
    input_size: tuple[int, int],
    actors: ActorSettings,
) -> dict[str, list[Predictions]]:
    """Name of the split → predictions of its rows in order."""
    works = [(name, rows) for name, task in tasks.items() for rows in _portions(task, input_size, machines, actors)]
    done: dict[int, Predictions] = {}
    rows = sum(len(task.rows) for task in tasks.values())
    unit = "picture" if any(task.whole_scenes for task in tasks.values()) else "crop"
    with tqdm(total=rows, unit=unit, desc="evaluate") as bar:
        build = partial(_Predictor, model_folder, dict(splits))
        for position, predictions in machines.work(build, works, actors):
            done[position] = predictions
            bar.update(len(works[position][1]))
    return {name: [done[place] for place, work in enumerate(works) if work[0] == name] for name in tasks}


def _portions(
    task: PredictionTask, input_size: tuple[int, int], machines: Machines, actors: ActorSettings
) -> list[NDArray[np.int64]]:
    """A task's rows in pieces of whole batches: several batches each, and several pieces for each process."""
    batches = task.batches(input_size)
    processes = machines.room(actors, max(len(batches), 1))
    each = min(_BATCHES_AT_ONCE, -(-len(batches) // (_PIECES_EACH * processes)))
    return [np.concatenate(batches[start : start + each]) for start in range(0, len(batches), each)]


class _Predictor:
    """Loads the model and opens each split once."""

    def __init__(self, model_folder: AnyPath, splits: Mapping[str, _Split]) -> None:
        self._model = load_model(model_folder).to("cuda" if torch.cuda.is_available() else "cpu")
        self._splits = splits
        self._tasks: dict[str, PredictionTask] = {}

    def __call__(self, work: tuple[str, NDArray[np.int64]]) -> Predictions:
        name, rows = work
        if name not in self._tasks:
            self._tasks[name] = self._splits[name].task()
        return predict_rows(self._model, self._tasks[name], rows)
