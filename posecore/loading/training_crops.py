"""How the instances of one dataset become training crops: planned many at a time, cut one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posecore.conventions import Conventions, HeadConventions
from posecore.errors import ConfigError
from posecore.geometry import bbox_to_center_scale
from posecore.loading.appearance import change_appearance
from posecore.loading.augment import (
    AugmentConfig,
    LateAugmentConfig,
    Region,
    RegionDraws,
    RunJitter,
    augment_regions,
    center_jitter,
)
from posecore.loading.blanket import draw_blanket
from posecore.loading.camera import change_camera
from posecore.loading.crop import CropPlan, crop_depth, crop_images, instance_regions, is_labelled, plan_crops
from posecore.loading.precut import refuse_beyond
from posecore.loading.randomness import Purpose, Redrawn, generator
from posecore.loading.samples import DecodedSample, UsableInstances
from posecore.schema import KeypointState
from posecore.shards.answers import AnswerStore, Bodies, CropTerms, refuse_other_terms
from posecore.shards.precut import PrecutStore
from posecore.shards.store import ShardStore


@dataclass(frozen=True, slots=True, eq=False)
class _Phase:
    """An augmentation and how it moves box centres.

    Attributes:
        augment: how crops change.
        run_jitter: where they are moved once per run.
        jitters: whether they are moved in every sample.
    """

    augment: AugmentConfig
    run_jitter: RunJitter | None
    jitters: bool


class TrainingCrops:
    """The augmented crops of one mixture entry. Never changes: may be used from several threads.

    Args:
        name: of the entry.
        store: its instances.
        augment: its augmentation.
        input_size: (height, width) of the crops.
        seed: of the run.
        conventions: of the head to be trained; None for the usual ones, on the dataset's labels.
        bodies: what is cropped.
        late: the augmentation of later passes.
        answers: a teacher's, to be delivered with the crops.
        labels: whether labels are delivered, or may decide anything about a crop. Whole images have none.
        precut: the bodies' own pictures, to be read instead of images.

    Raises:
        ConfigError: the answers are to other crops than these, the pictures were cut for others, or blankets are wanted
            on a skeleton that does not say which points are the body's upper ones.
    """

    def __init__(
        self,
        name: str,
        store: ShardStore,
        augment: AugmentConfig,
        input_size: tuple[int, int],
        seed: int,
        conventions: Conventions | None = None,
        bodies: Bodies = "labelled",
        late: LateAugmentConfig | None = None,
        answers: AnswerStore | None = None,
        labels: bool = True,
        precut: PrecutStore | None = None,
    ) -> None:
        self.name = name
        self.precut = precut
        self.instances = UsableInstances.chosen(store, bodies)
        self._labels = store.labels if labels and bodies != "images" else None
        self._image_widths = store.images["width"].to_numpy()
        self._input_size = input_size
        self.definition = store.manifest.definition
        self._conventions = conventions or HeadConventions().on(self.definition.conventions)
        self._aspect_ratio = input_size[1] / input_size[0]
        self._seed = seed
        skeleton = self.definition.skeleton
        covers = any(phase.blanket_probability for phase in _phases(augment, late))
        if covers and not (skeleton.body_mask & skeleton.upper_body_mask).any():
            raise ConfigError(
                f"mixture entry {name}: a blanket lies below the upper body, and skeleton {skeleton.name} says of no "
                "point that it is (part: upper); say so there, or set augment.blanket_probability to 0."
            )
        self._of_boxes = self._conventions.box_source == "bbox" or bodies == "images"
        self._stored = None
        if not self._of_boxes:
            rows = self.instances.rows.astype(np.int64)
            region = instance_regions(store, rows, self._aspect_ratio, self._conventions)
            self._stored = region, store.labels.center_scale(rows)[1] * self._conventions.padding
        self._early = self._phase(augment)
        self._late = None if late is None else (late.from_pass, self._phase(late.augment))
        if precut is not None:
            refuse_beyond(precut, store, augment, late, input_size, self._conventions, bodies)
        self._paints = any(phase.paints for phase in _phases(augment, late))
        self.answers = answers
        if answers is not None:
            refuse_displacing(name, augment, late)
            wanted = crop_terms(store, augment, late, input_size, self._conventions, bodies)
            refuse_other_terms(answers.folder, answers.manifest.terms.crops, wanted)

    def _phase(self, augment: AugmentConfig) -> _Phase:
        how = augment.center_jitter if self._conventions.center_jitter else "off"
        jitter = None
        if how == "per_run" and self._of_boxes:
            random = generator(Purpose.CENTER_JITTER, self._seed, self.name)
            jitter = RunJitter(len(self.instances.rows), augment, random)
        return _Phase(augment, jitter, how == "per_sample")

    @property
    def num_keypoints(self) -> int:
        """Points of each crop."""
        return self.definition.skeleton.num_keypoints

    def plan(self, instances: NDArray[np.int64], number_of_pass: NDArray[np.int64], redrawn: Redrawn) -> CropPlan:
        """Plans n crops; each is a function of seed, entry, pass and instance, whoever asks, when, and beside what.

        Args:
            instances: (n,) indices into :attr:`instances`.
            number_of_pass: (n,) how many times the dataset had been gone through before; every pass is augmented anew.
            redrawn: of the calling thread.
        """
        rows, count = self.instances.rows[instances].astype(np.int64), len(instances)
        if self._labels is None:
            keypoints = np.zeros((count, self.num_keypoints, 2), np.float32)
            state = np.full((count, self.num_keypoints), KeypointState.UNLABELLED, np.uint8)
        else:
            keypoints, state = self._labels.keypoints(rows), self._labels.state(rows)
        labelled = is_labelled(state)
        region = Region(np.empty((count, 2)), np.empty((count, 2)), np.empty(count), np.empty(count, np.bool_))
        for phase, chosen in self._phases_of(number_of_pass):
            part = self._regions(
                phase, instances[chosen], number_of_pass[chosen], keypoints[chosen], labelled[chosen], redrawn
            )
            region.center[chosen], region.scale[chosen] = part.center, part.scale
            region.rotation[chosen], region.flipped[chosen] = part.rotation, part.flipped
        plan = plan_crops(
            rows,
            number_of_pass,
            region,
            self._image_widths[self.instances.image_rows_of(instances)],
            keypoints,
            state,
            self.definition.skeleton,
            self._conventions.codec,
            self._input_size,
        )
        if self.precut is not None:
            plan.matrix[:] = self.precut.from_image(rows, plan.matrix)
        return plan

    def cut(
        self,
        plan: CropPlan,
        crops: Sequence[int],
        sample: DecodedSample,
        redrawn: Redrawn,
        outs: Sequence[NDArray[np.uint8]],
        depth_outs: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        """Cuts some of the planned crops, of one image, and completes their plan.

        A blanket changes states; stored answers are read.

        Args:
            plan: of :meth:`plan`.
            crops: indices within it.
            sample: their image.
            redrawn: of the calling thread.
            outs: each (h, w, 3) uint8 contiguous, receive the pixels.
            depth_outs: each (h, w), receive the depth, which a blanket leaves as it is: a thin one follows the body.
        """
        crop_images(sample.image, [plan.matrix[index] for index in crops], outs)
        if depth_outs is not None or self._paints:
            for place, (index, out) in enumerate(zip(crops, outs, strict=True)):
                self._finish(plan, index, sample, redrawn, out, None if depth_outs is None else depth_outs[place])
        if self.answers is not None:
            for index in crops:
                plan.answers[index] = self.answers.read(int(plan.rows[index]), bool(plan.region.flipped[index]))

    def _finish(
        self,
        plan: CropPlan,
        index: int,
        sample: DecodedSample,
        redrawn: Redrawn,
        out: NDArray[np.uint8],
        depth_out: NDArray[np.float32] | None,
    ) -> None:
        """Depth, then the pixels: what lies on the body, the camera that sees both, what training adds."""
        row, number_of_pass = int(plan.rows[index]), int(plan.number_of_pass[index])
        ((phase, _),) = self._phases_of(plan.number_of_pass[index : index + 1])
        augment = phase.augment

        def random(purpose: Purpose) -> np.random.Generator:
            return redrawn.generator(purpose, self._seed, self.name, number_of_pass, row)

        if depth_out is not None:
            is_shown = not augment.depth_dropout or random(Purpose.DEPTH).random() >= augment.depth_dropout
            crop_depth(sample.depth if is_shown else None, plan.matrix[index], depth_out)
        if augment.blanket_probability:
            skeleton, points, state = self.definition.skeleton, plan.keypoints_crop[index], plan.state[index]
            plan.state[index] = draw_blanket(out, points, state, skeleton, augment, random(Purpose.BLANKET))
        change_pixels(self.name, out, augment, random)

    def _phases_of(self, number_of_pass: NDArray[np.int64]) -> list[tuple[_Phase, NDArray[np.int64]]]:
        """The phases that crops are in, and which of them."""
        if self._late is None:
            return [(self._early, np.arange(len(number_of_pass)))]
        is_late = number_of_pass >= self._late[0]
        phases = [(self._early, np.flatnonzero(~is_late)), (self._late[1], np.flatnonzero(is_late))]
        return [(phase, chosen) for phase, chosen in phases if len(chosen)]

    def _regions(
        self,
        phase: _Phase,
        instances: NDArray[np.int64],
        number_of_pass: NDArray[np.int64],
        keypoints: NDArray[np.float32],
        labelled: NDArray[np.bool_],
        redrawn: Redrawn,
    ) -> Region:
        """The regions of n crops of one phase."""
        rows, moves = self.instances.rows[instances].astype(np.int64), None
        if self._stored is None:
            boxes = self.instances.bbox_xywh_of(instances)
            center, scale = bbox_to_center_scale(boxes, self._aspect_ratio, self._conventions.padding)
            padded_size = boxes[:, 2:] * self._conventions.padding
        else:
            region, padded_sizes = self._stored
            center, scale, padded_size = region.center[instances], region.scale[instances], padded_sizes[instances]
        if phase.run_jitter is not None:
            center = center + phase.run_jitter.moves(instances) * boxes[:, 2:]
        if phase.jitters:
            draws = np.empty((len(rows), 3))
            each = redrawn.each(Purpose.CENTER_JITTER, self._seed, self.name, number_of_pass, rows)
            for random, of_crop in zip(each, draws, strict=True):
                random.random(out=of_crop)
            moves = center_jitter(draws, phase.augment)
            if phase.augment.center_jitter_distribution != "truncated":  # which moves what is cropped, a half body too
                if self._of_boxes:
                    center = center + moves * boxes[:, 2:]
                moves = None
        each = redrawn.each(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, rows)
        return augment_regions(
            Region(center, scale),
            padded_size,
            keypoints,
            labelled,
            self.definition.skeleton,
            self._conventions.half_body_min_keypoints,
            self._aspect_ratio,
            phase.augment,
            RegionDraws.of(each, len(rows)),
            moves,
        )


def change_pixels(
    name: str, crop: NDArray[np.uint8], augment: AugmentConfig, random: Callable[[Purpose], np.random.Generator]
) -> None:
    """What augmentation does to the pixels of a crop, or of a whole picture, and moves no point.

    Args:
        name: of the mixture entry.
        crop: (h, w, 3), changed.
        augment: how.
        random: the crop's generator for a purpose.

    Raises:
        ConfigError: an augmentation of one's own gives another shape or type.
    """
    if augment.infrared_probability or augment.grey_probability:
        change_camera(crop, augment, random(Purpose.CAMERA))
    if augment.appearance is not None:
        change_appearance(crop, augment.appearance, random(Purpose.APPEARANCE))
    if augment.further:
        further = random(Purpose.FURTHER)
        for change in augment.further:
            changed = change(crop, further)
            if changed.shape != crop.shape or changed.dtype != np.uint8:
                raise ConfigError(
                    f"mixture entry {name}: augmentation {change.kind} made a crop of {crop.shape} uint8 one of "
                    f"{changed.shape} {changed.dtype}; it has to keep both."
                )
            if changed is not crop:
                crop[:] = changed


def crop_terms(
    store: ShardStore,
    augment: AugmentConfig,
    late: LateAugmentConfig | None,
    input_size: tuple[int, int],
    conventions: Conventions,
    bodies: Bodies,
) -> CropTerms:
    """What a teacher's stored answers must be to, if they are to be delivered with these crops.

    Args:
        store: the split.
        augment: of the crops; decides, with ``late``, whether there are mirrored ones.
        late: of later passes.
        input_size: (height, width) of the crops.
        conventions: the crops are cut by.
        bodies: what is cropped.
    """
    return CropTerms(
        dataset=store.manifest.digest,
        bodies=bodies,
        input_size=input_size,
        conventions=conventions,
        mirrored=any(phase.flip_probability > 0 for phase in _phases(augment, late)),
    )


def refuse_displacing(entry: str, augment: AugmentConfig, late: LateAugmentConfig | None = None) -> None:
    """Refuses augmentation that stored answers know nothing of.

    Args:
        entry: whose augmentation it is, as the run file names it.
        augment: the augmentation.
        late: of later passes.

    Raises:
        ConfigError: a crop would be turned, resized, moved or otherwise changed.
    """
    displacing = {name: None for phase in _phases(augment, late) for name in phase.displacing}  # in order, once each
    if displacing:
        raise ConfigError(
            f"{entry}: a teacher's stored answers are to the crops that boxes cut, mirrored at most, but "
            f"{', '.join(displacing)} of its augment change them; set those to 0, center_jitter to 'off', or "
            "leave the cache out, so that the teacher is asked in every step."
        )


def _phases(augment: AugmentConfig, late: LateAugmentConfig | None) -> tuple[AugmentConfig, ...]:
    return (augment,) if late is None else (augment, late.augment)
