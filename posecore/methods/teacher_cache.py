"""Asking a teacher once for its answers to all crops of a split, shard by shard, by whatever executes the shards.

A crop is cut as training cuts it, and the teacher is asked as training asks it, so a stored answer is the one that the
step would have got, to the rounding of another batch and of the stored precision.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.errors import ConfigError
from posecore.image_header import MAX_PIXELS
from posecore.ingest.write import no_space_is_an_ingest_error
from posecore.loading.augment import mirrored_only
from posecore.loading.crop import CropPlan, group_crops
from posecore.loading.randomness import Redrawn
from posecore.loading.samples import SampleCache
from posecore.loading.training_crops import TrainingCrops
from posecore.methods.batch import to_device
from posecore.methods.feature_alignment import averaged_onto
from posecore.methods.teacher import Lesson, Teacher
from posecore.models.sources import ModelFolder
from posecore.schema import CropBatch
from posecore.shards.answers import (
    Answer,
    AnswerCommit,
    AnswerManifest,
    AnswerTerms,
    CropAnswer,
    finished_shard,
    publish_answers,
    write_answers,
)
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import ShardStore, open_store

_CACHE_BYTES = 256 << 20
_NAME = "crops"  # of the group; a crop without augmentation does not depend on it


@dataclass(frozen=True, kw_only=True)
class AnswerJob:
    """One split whose answers are to be stored; small, and sent to every worker.

    Attributes:
        terms: whose answers to which crops.
        teacher: where it lies.
        store: location of the split.
        folder: of the answers.
        code: version of the code that asks; what another one stored is made again.
        instances_per_shard: of a tar.
        batch_size: crops per forward pass; a tar's bytes may depend on it, never on who writes it.
    """

    terms: AnswerTerms
    teacher: ModelFolder
    store: str
    folder: Path
    code: str
    instances_per_shard: int = 256
    batch_size: int = 32

    @property
    def views(self) -> tuple[bool, ...]:
        """Whether mirrored, for every crop of an instance."""
        return (False, True) if self.terms.crops.mirrored else (False,)


def shard_writer(job: AnswerJob) -> Callable[[int], AnswerCommit]:
    """What writes one shard after the other in a process of its own; see :meth:`AnswerWriter.write`."""
    return AnswerWriter(job).write


class AnswerWriter:
    """Writes any shard of a job; opens the split and reads the teacher once, and only if there is something to do."""

    def __init__(self, job: AnswerJob) -> None:
        self.job = job

    @property
    def num_shards(self) -> int:
        """Shards of the job."""
        return -(-len(self.rows) // self.job.instances_per_shard)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Instances with an answer, as rows of ``index.parquet``."""
        return self._crops(False).instances.rows.astype(np.int64)

    def write(self, number: int) -> AnswerCommit:
        """Writes a shard, or keeps the one that is there if it is whole and made from the same.

        Raises:
            ConfigError: the teacher says something that the stored precision cannot hold.
            IngestError: the disk is full; nothing is left under the shard's name.
            IntegrityError: an image or the teacher is damaged.
        """
        job = self.job
        first = number * job.instances_per_shard
        instances = range(first, min(first + job.instances_per_shard, len(self.rows)))
        crops = [(instance, mirrored) for instance in instances for mirrored in job.views]
        rows = [int(self.rows[instance]) for instance, _ in crops]
        kept = finished_shard(job.folder, number, job.terms, job.code, rows)
        if kept is not None:
            return kept
        with no_space_is_an_ingest_error(job.folder):
            return write_answers(job.folder, number, job.terms, job.code, self._answers(crops))

    def _answers(self, crops: list[tuple[int, bool]]) -> Iterator[CropAnswer]:
        size = self.job.batch_size
        batches = [crops[start : start + size] for start in range(0, len(crops), size)]
        cache = SampleCache({_NAME: self._store}, _CACHE_BYTES, MAX_PIXELS)
        with ThreadPoolExecutor(1, "answers-cut") as pool:
            ahead = pool.submit(self._cut, batches[0], cache)
            for number, batch in enumerate(batches):
                cut = ahead.result()
                if number + 1 < len(batches):
                    ahead = pool.submit(self._cut, batches[number + 1], cache)
                outputs, features = self._ask(cut)
                for place, (instance, mirrored) in enumerate(batch):
                    answer = Answer(*(None if part is None else part[place] for part in (outputs, features)))
                    yield CropAnswer(int(self.rows[instance]), mirrored, answer)

    def _cut(self, batch: list[tuple[int, bool]], cache: SampleCache) -> CropBatch:
        images = np.empty((len(batch), *self.job.terms.crops.input_size, 3), np.uint8)
        redrawn = Redrawn()
        plans, order = [], []
        for mirrored in self.job.views:
            crops = self._crops(mirrored)
            places = [place for place, crop in enumerate(batch) if crop[1] == mirrored]
            instances = np.array([batch[place][0] for place in places], np.int64)
            plan = crops.plan(instances, np.zeros_like(instances), redrawn)
            for index, (place, image_row) in enumerate(
                zip(places, crops.instances.image_rows_of(instances).tolist(), strict=True)
            ):
                crops.cut(plan, [index], cache.get((_NAME, image_row)), redrawn, [images[place]])
            plans.append(plan)
            order += places
        plan = CropPlan.joined(plans, np.argsort(order))
        return CropBatch(images=images, groups=(group_crops(_NAME, 0, plan),), step=0, epoch=0)

    def _ask(self, batch: CropBatch) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
        lesson = self.job.terms.lesson
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        answer = self._teacher.answer(to_device(batch, device))
        outputs = features = None
        if lesson.points:
            outputs = self._stored(answer.outputs[_NAME][:, lesson.points])
        if lesson.feature_size is not None:
            assert answer.features is not None, "a teacher that is asked has features"
            features = self._stored(averaged_onto(answer.features.float(), lesson.feature_size))
        return outputs, features

    def _stored(self, said: Tensor) -> NDArray[np.floating]:
        precision = self.job.terms.precision
        with np.errstate(over="ignore"):  # looked for below
            array = said.float().cpu().numpy().astype(precision)
        if not np.isfinite(array).all():
            raise ConfigError(
                f"cache.precision: the teacher says {said.abs().max().item():.3g}, which {precision} cannot hold; "
                "choose float32, or leave the cache out."
            )
        return array

    def _crops(self, mirrored: bool) -> TrainingCrops:
        return self._mirrored if mirrored else self._plain

    @cached_property
    def _plain(self) -> TrainingCrops:
        return self._training_crops(0)

    @cached_property
    def _mirrored(self) -> TrainingCrops:
        return self._training_crops(1)

    def _training_crops(self, flip_probability: float) -> TrainingCrops:
        terms = self.job.terms.crops
        return TrainingCrops(
            _NAME,
            self._store,
            mirrored_only(flip_probability),
            terms.input_size,
            seed=0,
            conventions=terms.conventions,
            bodies=terms.bodies,
        )

    @cached_property
    def _store(self) -> ShardStore:
        store = open_store(self.job.store)
        if store.manifest.digest != self.job.terms.crops.dataset:
            raise ConfigError(
                f"{self.job.store}: its digest is {store.manifest.digest}, and the answers are to those of "
                f"{self.job.terms.crops.dataset}; ingest it again."
            )
        return store

    @cached_property
    def _teacher(self) -> Teacher:
        lesson = self.job.terms.lesson
        return Teacher(self.job.teacher.read(), {_NAME: Lesson(lesson.head, (), lesson.points)})


Executor = Callable[[AnswerWriter, range], Iterable[AnswerCommit]]
"""Runs :meth:`AnswerWriter.write` for every number and yields the results in that order."""


def in_process(writer: AnswerWriter, numbers: range) -> Iterator[AnswerCommit]:
    """The executor without any cluster: one shard after the other."""
    for number in numbers:
        yield writer.write(number)


def store_answers(job: AnswerJob, execute: Executor = in_process) -> AnswerManifest:
    """Stores a teacher's answers to all crops of a split; what is already whole is kept, what is damaged is made again.

    Args:
        job: the split and the teacher.
        execute: who writes the shards.

    Raises:
        ConfigError: the split is not the stated one, nothing in it can be cropped, or the precision does not suffice.
        IngestError: the disk is full.
        IntegrityError: an image or the teacher is damaged.
    """
    writer = AnswerWriter(job)
    if not writer.num_shards:
        raise ConfigError(f"{job.store}: nothing in it can be cropped, so a teacher has nothing to answer.")
    (job.folder / MANIFEST_NAME).unlink(missing_ok=True)  # from now on the shards beside it may change
    commits = list(execute(writer, range(writer.num_shards)))
    return publish_answers(job.folder, job.terms, job.code, commits)
