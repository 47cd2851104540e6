"""How one instance of one dataset becomes a training crop."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posecore.conventions import Conventions, HeadConventions
from posecore.errors import ConfigError
from posecore.geometry import bbox_to_center_scale
from posecore.loading.appearance import change_appearance
from posecore.loading.augment import AugmentConfig, LateAugmentConfig, Region, augment_region, center_jitter
from posecore.loading.blanket import draw_blanket
from posecore.loading.camera import change_camera
from posecore.loading.crop import Crop, crop_depth, crop_instance, instance_region, is_labelled
from posecore.loading.randomness import Purpose, Redrawn, generator
from posecore.loading.samples import DecodedSample, ImageKey, SampleCache, UsableInstances
from posecore.schema import KeypointState
from posecore.shards.answers import AnswerStore, Bodies, CropTerms, refuse_other_terms
from posecore.shards.store import ShardStore


@dataclass(frozen=True, slots=True, eq=False)
class _Phase:
    """An augmentation and the box centres it starts from.

    Attributes:
        augment: how crops change.
        center: (n, 2) x, y in image pixels, moved where that is done once per run.
        jitters: whether they are moved in every sample.
    """

    augment: AugmentConfig
    center: NDArray[np.float64]
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

    Raises:
        ConfigError: the answers are to other crops than these, or blankets are wanted on a skeleton that does not say
            which points are the body's upper ones.
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
    ) -> None:
        self.name = name
        choose = {
            "labelled": UsableInstances.of,
            "all": UsableInstances.bodies,
            "images": UsableInstances.whole_images,
        }
        self.instances = choose[bodies](store)
        self._whole_images = bodies == "images"
        self._labels = labels and not self._whole_images
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
        boxes, padding = self.instances.bbox_xywh, self._conventions.padding
        center, self._scale = bbox_to_center_scale(boxes, self._aspect_ratio, padding)
        self._early = self._phase(augment, center)
        self._late = None if late is None else (late.from_pass, self._phase(late.augment, center))
        self.answers = answers
        if answers is not None:
            refuse_displacing(name, augment, late)
            wanted = crop_terms(store, augment, late, input_size, self._conventions, bodies)
            refuse_other_terms(answers.folder, answers.manifest.terms.crops, wanted)

    def _phase(self, augment: AugmentConfig, center: NDArray[np.float64]) -> _Phase:
        how = augment.center_jitter if self._conventions.center_jitter else "off"
        if how == "per_run":
            random = generator(Purpose.CENTER_JITTER, self._seed, self.name)
            sizes = self.instances.bbox_xywh[:, 2:]
            center = center + center_jitter(len(sizes), augment, random) * sizes
        return _Phase(augment, center, how == "per_sample")

    def _phase_of(self, number_of_pass: int) -> _Phase:
        if self._late is None or number_of_pass < self._late[0]:
            return self._early
        return self._late[1]

    @property
    def num_keypoints(self) -> int:
        """Points of each crop."""
        return self.definition.skeleton.num_keypoints

    def image(self, instance: int) -> ImageKey:
        """The image that an instance is on.

        Args:
            instance: index into :attr:`instances`.
        """
        return self.name, int(self.instances.image_rows[instance])

    def crop(
        self,
        instance: int,
        number_of_pass: int,
        cache: SampleCache,
        redrawn: Redrawn,
        out: NDArray[np.uint8],
        depth_out: NDArray[np.float32] | None = None,
    ) -> Crop:
        """Cuts one crop; a function of seed, entry, pass and instance, whoever asks and whenever.

        Args:
            instance: index into :attr:`instances`.
            number_of_pass: how many times the dataset had been gone through before; every pass is augmented anew.
            cache: of the calling thread.
            redrawn: of the calling thread.
            out: (h, w, 3) uint8 contiguous, receives the pixels.
            depth_out: (h, w) receives the depth, which a blanket leaves as it is: a thin one follows the body.
        """
        sample = cache.get(self.image(instance))
        index = int(self.instances.instance_indices[instance])
        if not self._labels:
            keypoints = np.zeros((self.num_keypoints, 2), np.float32)
            state = np.full(self.num_keypoints, KeypointState.UNLABELLED, np.uint8)
        else:
            keypoints, state = sample.instances[index].keypoints[:, :2], sample.state[index]
        row = int(self.instances.rows[instance])
        phase = self._phase_of(number_of_pass)
        moves = self._moves(phase, row, number_of_pass, redrawn)
        moves_last = phase.augment.center_jitter_distribution == "truncated"
        region, size = self._region(phase, instance, sample, index, None if moves_last else moves)
        region = augment_region(
            region,
            size,
            keypoints,
            is_labelled(state),
            self.definition.skeleton,
            self._conventions.half_body_min_keypoints,
            self._aspect_ratio,
            phase.augment,
            redrawn.generator(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, row),
            moves if moves_last else None,
        )
        convention = self._conventions.codec
        crop = crop_instance(sample.image, keypoints, state, region, self.definition.skeleton, convention, out)
        if depth_out is not None:
            is_shown = True
            if phase.augment.depth_dropout:
                random = redrawn.generator(Purpose.DEPTH, self._seed, self.name, number_of_pass, row)
                is_shown = random.random() >= phase.augment.depth_dropout
            crop_depth(sample.depth if is_shown else None, region, convention, depth_out)
        crop = self._over_painted(crop, row, number_of_pass, redrawn, out)
        return crop if self.answers is None else replace(crop, answer=self.answers.read(row, region.flipped))

    def _over_painted(
        self, crop: Crop, row: int, number_of_pass: int, redrawn: Redrawn, out: NDArray[np.uint8]
    ) -> Crop:
        """Changes the pixels: what lies on the body first, then the camera that sees both, then what training adds."""
        augment = self._phase_of(number_of_pass).augment

        def random(purpose: Purpose) -> np.random.Generator:
            return redrawn.generator(purpose, self._seed, self.name, number_of_pass, row)

        if augment.blanket_probability:
            skeleton = self.definition.skeleton
            state = draw_blanket(out, crop.keypoints_crop, crop.state, skeleton, augment, random(Purpose.BLANKET))
            crop = replace(crop, state=state)
        if augment.infrared_probability or augment.grey_probability:
            change_camera(out, augment, random(Purpose.CAMERA))
        if augment.appearance is not None:
            change_appearance(out, augment.appearance, random(Purpose.APPEARANCE))
        return crop

    def _moves(self, phase: _Phase, row: int, number_of_pass: int, redrawn: Redrawn) -> NDArray[np.float64] | None:
        """(2,) how far this sample's centre moves, in the unit that the augmentation says; None for not at all."""
        if not phase.jitters:
            return None
        random = redrawn.generator(Purpose.CENTER_JITTER, self._seed, self.name, number_of_pass, row)
        moves: NDArray[np.float64] = center_jitter(1, phase.augment, random)[0]
        return moves

    def _region(
        self,
        phase: _Phase,
        instance: int,
        sample: DecodedSample,
        index: int,
        moves: NDArray[np.float64] | None,
    ) -> tuple[Region, NDArray[np.float64]]:
        """What is cropped before it is augmented, and its (2,) w, h with padding before it fits the crop's shape."""
        padding = self._conventions.padding
        if self._conventions.box_source == "center_scale" and not self._whole_images:
            body, size = sample.instances[index], (sample.image.shape[0], sample.image.shape[1])
            region = instance_region(body, size, self._aspect_ratio, self._conventions)
            return region, np.array(body.scale, np.float64) * padding
        bbox_size = self.instances.bbox_xywh[instance, 2:]
        center = phase.center[instance]
        if moves is not None:
            center = center + moves * bbox_size
        return Region(center, self._scale[instance]), bbox_size * padding


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
