"""One trial: a strategy is trained to a rung and judged there; called again, it goes on exactly where it was.

The same function serves this process, the processes of a cluster and Ray Tune. What it finds lies in the trial's
folder, so that a search that was killed asks nothing twice.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from posecore.config import Config
from posecore.errors import DivergenceError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.bootstrap import Estimate, bootstrap_by_subject
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.keypoint_errors import grouped, relative_distances
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.traits import Traits
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model
from posecore.shards.corrections import Corrections
from posecore.shards.store import open_store
from posecore.storage import AnyPath, as_path, remove_folder, write_atomically
from posecore.training.checkpoint import step_of
from posecore.training.context import LocalContext, default_device
from posecore.workflows.adaptation.worker import AdaptationWorker

PARENT = "parent"
"""What the parent's own errors are asked for by, instead of a trial's name."""
MEASURED = "measured"
"""Folder of a trial's first steps, within its own, while they are measured."""
_MEASURED_STEPS = 4


class SetErrors(Config):
    """What a model got wrong on one set, as sums that a bootstrap draws.

    Attributes:
        points: labelled points of each subject, or of what stands for one.
        error: sum over them of the distance, as a share of √(w·h) of the body's box.
    """

    points: tuple[int, ...]
    error: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean distance of a labelled point."""
        return sum(self.error) / max(sum(self.points), 1)

    def change_from(self, other: "SetErrors") -> Estimate:
        """By how much the mean distance is larger than another model's on the same bodies."""
        sums = np.column_stack([self.points, other.error, self.error]).astype(np.float64)
        return bootstrap_by_subject(sums, _difference)[0]


class Score(Config):
    """A trial at a rung.

    Attributes:
        name: of the trial.
        step: of the rung.
        validation: on the subjects that were held out.
        kept: on each set of the parent.
        train_s: seconds this piece of training took.
        judge_s: seconds judging took.
        trained: parameters that learn.
        curve: steps, and what training recorded at them.
    """

    name: str
    step: int
    validation: SetErrors
    kept: dict[str, SetErrors]
    train_s: float
    judge_s: float
    trained: int = 0
    curve: tuple[tuple[int, dict[str, float]], ...] = ()

    @property
    def error(self) -> float:
        """What trials are ranked by: the mean distance on the held-out subjects."""
        return self.validation.mean

    @property
    def told(self) -> str:
        """Nothing: it goes on."""
        return ""

    def forgotten(self, parent: "Score") -> dict[str, Estimate]:
        """By set of the parent, by how much its error rose."""
        return {name: errors.change_from(parent.kept[name]) for name, errors in self.kept.items()}

    def forgetting(self, parent: "Score") -> float:
        """The mean of that over the sets, 0 where none of them got worse or there are none."""
        lost = [change.value for change in self.forgotten(parent).values()]
        return max(0.0, sum(lost) / len(lost)) if lost else 0.0


class Failure(Config):
    """A trial that will reach no further rung.

    Attributes:
        name: of the trial.
        step: of the rung that it was on its way to.
        told: what ended it, as a sentence.
    """

    name: str
    step: int
    told: str

    @property
    def error(self) -> float:
        """Worse than any."""
        return math.inf


class Pace(Config):
    """What a trial's first steps took.

    Attributes:
        name: of the trial.
        step_s: seconds a step, with its share of recording the losses of labels, where they are.
        start_s: seconds before the first one.
        spent_s: seconds all of it took.
    """

    name: str
    step_s: float
    start_s: float
    spent_s: float


@dataclass(frozen=True, kw_only=True)
class JudgedOn:
    """What trials are judged on.

    Attributes:
        location: of the target's train split.
        head: that answers for it.
        held_out: drops the labels of whoever is learned from.
        kept: name of a set of the parent to the location of its split and the head that answers.
        settings: how predictions are made.
    """

    location: str
    head: str
    held_out: Corrections
    kept: Mapping[str, tuple[str, str]]
    settings: InferenceSettings

    def errors(self, model: PoseModel) -> tuple[SetErrors, dict[str, SetErrors]]:
        """On the held-out subjects, and on each set of the parent."""
        kept = {name: self._errors(model, place, head) for name, (place, head) in self.kept.items()}
        return self._errors(model, self.location, self.head, self.held_out), kept

    def _errors(self, model: PoseModel, location: str, head: str, corrections: Corrections | None = None) -> SetErrors:
        store = open_store(location, corrections=corrections)
        truth, units = GroundTruth.from_store(store), Traits.from_store(store).units()
        distances = paired_distances(truth, predict_store(model, store, self.settings, head=head))
        relative = relative_distances(truth, distances)
        rows_of = grouped([units[row] for row in distances.truth_row])
        points, error = np.isfinite(relative).sum(axis=1), np.nansum(relative, axis=1)
        order = sorted(rows_of)
        return SetErrors(
            points=tuple(int(points[rows_of[unit]].sum()) for unit in order),
            error=tuple(float(error[rows_of[unit]].sum()) for unit in order),
        )


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Does the pieces of a search: ``(name, step)`` trains that trial to that step and judges it.

    ``(PARENT, 0)`` judges the parent.

    Attributes:
        workers: by name, what trains; one process of it.
        folder: holds a folder per trial.
        judged_on: what decides.
        parent: folder of the model that stands for the parent.
    """

    workers: Mapping[str, AdaptationWorker]
    folder: str
    judged_on: JudgedOn
    parent: str

    def __call__(self, work: tuple[str, int]) -> Score | Failure:
        """The score, made or read; a failure where it is the strategy that cannot be trained, not kept."""
        name, step = work
        path = as_path(self.folder) / name / f"score_{step}.json"
        if path.exists() and (name == PARENT or LocalContext(path.parent).store.newest() is not None):
            return Score.model_validate_json(path.read_bytes())
        if name == PARENT:
            score = self._parent()
        else:
            try:
                score = self._climb(name, step, path.parent)
            except _UNTRAINABLE as error:
                return Failure(name=name, step=step, told=_told(error))
        write_atomically(path, score.model_dump_json().encode())
        return score

    def _parent(self) -> Score:
        began = time.perf_counter()
        validation, kept = self.judged_on.errors(load_model(self.parent).to(default_device()))
        seconds = time.perf_counter() - began
        return Score(name=PARENT, step=0, validation=validation, kept=kept, train_s=0.0, judge_s=seconds)

    def _climb(self, name: str, step: int, folder: AnyPath) -> Score:
        worker = self.workers[name]
        began = time.perf_counter()
        curve: list[tuple[int, dict[str, float]]] = []
        checkpoint = train_to(worker, folder, step, curve)
        trained = time.perf_counter()
        child = worker.trained_model(checkpoint)
        learning = sum(p.numel() for p in child.parameters() if p.requires_grad)
        validation, kept = self.judged_on.errors(child.to(default_device()))
        return Score(
            name=name,
            step=step,
            validation=validation,
            kept=kept,
            train_s=trained - began,
            judge_s=time.perf_counter() - trained,
            trained=learning,
            curve=tuple(curve),
        )


@dataclass(frozen=True, kw_only=True)
class FirstSteps:
    """Measures how long a trial's steps take, in a folder of its own.

    Attributes:
        workers: see :class:`Trials`; what one does every ``evaluate_every`` steps is measured as well, once.
        folder: likewise.
    """

    workers: Mapping[str, AdaptationWorker]
    folder: str

    def __call__(self, name: str) -> Pace | Failure:
        """The pace, measured or read; a failure where it is the strategy that cannot be trained, not kept."""
        folder = as_path(self.folder) / name
        path = folder / "pace.json"
        if path.exists():
            return Pace.model_validate_json(path.read_bytes())
        began = time.perf_counter()
        context = _Pausing(folder / MEASURED, _MEASURED_STEPS, 0, [])
        worker = self.workers[name]
        every = worker.training.evaluate_every
        once = worker.training.model_copy(update={"evaluate_every": _MEASURED_STEPS if every else 0})
        try:
            replace(worker, training=once)(context)
        except _UNTRAINABLE as error:
            return Failure(name=name, step=_MEASURED_STEPS, told=_told(error))
        ends = context.ends
        pace = Pace(
            name=name,
            step_s=seconds_of_step(ends, every),
            start_s=max(0.0, ends[0] - began),
            spent_s=time.perf_counter() - began,
        )
        remove_folder(folder / MEASURED)
        write_atomically(path, pace.model_dump_json().encode())
        return pace


def seconds_of_step(ends: Sequence[float], every: int) -> float:
    """Seconds a step takes in a long run.

    Args:
        ends: when each of the first ones ended, at least three, in seconds.
        every: so many steps have what the last of them had besides; 0 if it had nothing.
    """
    taken = np.diff(ends)
    usual = float(np.median(taken))
    return usual + max(0.0, float(taken[-1]) - usual) / every if every else usual


_UNTRAINABLE = (DivergenceError, torch.OutOfMemoryError)


def _told(error: Exception) -> str:
    """Why a strategy cannot be trained, as a sentence."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"there was not enough memory on the device ({str(error).partition(chr(10))[0]})"
    return str(error)


def train_to(
    worker: AdaptationWorker, folder: AnyPath, step: int, curve: list[tuple[int, dict[str, float]]]
) -> AnyPath:
    """Trains from the newest checkpoint, or from the start, to a step of the run; returns that step's checkpoint.

    Args:
        worker: whose run may be longer.
        folder: of the run.
        step: to stop after.
        curve: takes what is recorded.
    """
    while True:
        context = _Pausing(folder, step, 0, curve)
        newest = context.store.newest()
        reached = 0 if newest is None else step_of(newest.name) or 0
        if newest is not None and reached >= step:
            return context.store.of_step(step) or newest
        context.reached = reached
        worker(context)


class _Pausing(LocalContext):
    """A run of this process that is asked to stop after a step.

    Attributes:
        reached: steps that were made before.
        ends: when each step ended.
    """

    def __init__(self, folder: AnyPath, pause: int, reached: int, curve: list[tuple[int, dict[str, float]]]) -> None:
        super().__init__(folder, lambda metrics, step: curve.append((step, dict(metrics))))
        self.reached = reached
        self.ends: list[float] = []
        self._pause = pause

    def asked_to_stop(self) -> bool:
        """See :meth:`posecore.training.context.TrainContext.asked_to_stop`."""
        self.reached += 1
        self.ends.append(time.perf_counter())
        return self.reached >= self._pause


def _difference(sums: Float[np.ndarray, "B C"]) -> NDArray[np.float64]:
    points, first, second = sums.T
    return ((second - first) / points)[:, None]
