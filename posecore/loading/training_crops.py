"""How one instance of one dataset becomes a training crop."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from posecore.datasets.definition import Conventions
from posecore.errors import ConfigError
from posecore.geometry import bbox_to_center_scale
from posecore.loading.augment import AugmentConfig, Region, augment_region, center_jitter
from posecore.loading.blanket import draw_blanket
from posecore.loading.camera import change_camera
from posecore.loading.crop import Crop, crop_depth, crop_instance, instance_region, is_labelled
from posecore.loading.randomness import Purpose, Redrawn, generator
from posecore.loading.samples import DecodedSample, ImageKey, SampleCache, UsableInstances
from posecore.shards.store import ShardStore


class TrainingCrops:
    """The augmented crops of one mixture entry. Never changes: may be used from several threads.

    Args:
        name: of the entry.
        store: its instances.
        augment: its augmentation.
        input_size: (height, width) of the crops.
        seed: of the run.
        conventions: of the model to be trained; None for the dataset's own.
        unlabelled: crop bodies without a labelled point as well.

    Raises:
        ConfigError: blankets are wanted on a skeleton that does not say which points are the body's upper ones.
    """

    def __init__(
        self,
        name: str,
        store: ShardStore,
        augment: AugmentConfig,
        input_size: tuple[int, int],
        seed: int,
        conventions: Conventions | None = None,
        unlabelled: bool = False,
    ) -> None:
        self.name = name
        self.instances = UsableInstances.bodies(store) if unlabelled else UsableInstances.of(store)
        self.definition = store.manifest.definition
        self._conventions = conventions or self.definition.conventions
        self._augment = augment
        self._aspect_ratio = input_size[1] / input_size[0]
        self._seed = seed
        skeleton = self.definition.skeleton
        if augment.blanket_probability and not (skeleton.body_mask & skeleton.upper_body_mask).any():
            raise ConfigError(
                f"mixture entry {name}: a blanket lies below the upper body, and skeleton {skeleton.name} says of no "
                "point that it is (part: upper); say so there, or set augment.blanket_probability to 0."
            )
        boxes, padding = self.instances.bbox_xywh, self._conventions.padding
        self._center, self._scale = bbox_to_center_scale(boxes, self._aspect_ratio, padding)
        self._jitters = self._conventions.center_jitter and augment.center_jitter != "off"
        if self._jitters and augment.center_jitter == "per_run":
            random = generator(Purpose.CENTER_JITTER, seed, name)
            self._center = self._center + center_jitter(boxes[:, 2:], augment, random)

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
        keypoints, state = sample.instances[index].keypoints[:, :2], sample.state[index]
        row = int(self.instances.rows[instance])
        region = augment_region(
            self._region(instance, row, number_of_pass, sample, index, redrawn),
            keypoints,
            is_labelled(state),
            self.definition.skeleton,
            self._conventions.half_body_min_keypoints,
            self._aspect_ratio,
            self._augment,
            redrawn.generator(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, row),
        )
        codec = self._conventions.codec
        crop = crop_instance(sample.image, keypoints, state, region, self.definition.skeleton, codec, out)
        if depth_out is not None:
            crop_depth(sample.depth, region, codec, depth_out)
        return self._over_painted(crop, row, number_of_pass, redrawn, out)

    def _over_painted(
        self, crop: Crop, row: int, number_of_pass: int, redrawn: Redrawn, out: NDArray[np.uint8]
    ) -> Crop:
        """Changes the pixels: what lies on the body first, then the camera that sees both."""
        augment = self._augment
        if augment.blanket_probability:
            random = redrawn.generator(Purpose.BLANKET, self._seed, self.name, number_of_pass, row)
            state = draw_blanket(out, crop.keypoints_crop, crop.state, self.definition.skeleton, augment, random)
            crop = replace(crop, state=state)
        if augment.infrared_probability or augment.grey_probability:
            random = redrawn.generator(Purpose.CAMERA, self._seed, self.name, number_of_pass, row)
            change_camera(out, augment, random)
        return crop

    def _region(
        self, instance: int, row: int, number_of_pass: int, sample: DecodedSample, index: int, redrawn: Redrawn
    ) -> Region:
        if self._conventions.box_source == "center_scale":
            size = (sample.image.shape[0], sample.image.shape[1])
            return instance_region(sample.instances[index], size, self._aspect_ratio, self._conventions)
        center = self._center[instance]
        if self._jitters and self._augment.center_jitter == "per_sample":
            random = redrawn.generator(Purpose.CENTER_JITTER, self._seed, self.name, number_of_pass, row)
            center = center + center_jitter(self.instances.bbox_xywh[instance, None, 2:], self._augment, random)[0]
        return Region(center, self._scale[instance])
