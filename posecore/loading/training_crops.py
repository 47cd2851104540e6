"""How one instance of one dataset becomes a training crop."""

import numpy as np
from numpy.typing import NDArray

from posecore.loading.augment import AugmentConfig, Region, augment_region, jitter_center
from posecore.loading.crop import Crop, crop_instance, instance_box, instance_region, is_labelled
from posecore.loading.randomness import Purpose, generator
from posecore.loading.samples import DecodedSample, SampleCache, UsableInstances
from posecore.shards.store import ShardStore


class TrainingCrops:
    """The augmented crops of one mixture entry. Holds no state: may be used from several threads.

    Args:
        name: of the entry.
        store: its instances.
        augment: its augmentation.
        seed: of the run.
    """

    def __init__(self, name: str, store: ShardStore, augment: AugmentConfig, seed: int) -> None:
        self.name = name
        self.instances = UsableInstances.of(store)
        self.definition = store.manifest.definition
        self._augment = augment
        self._seed = seed

    def crop(self, instance: int, number_of_pass: int, cache: SampleCache, out: NDArray[np.uint8]) -> Crop:
        """Cuts one crop; a function of seed, entry, pass and instance, whoever asks and whenever.

        Args:
            instance: index into :attr:`instances`.
            number_of_pass: how many times the dataset had been gone through before; every pass is augmented anew.
            cache: of the calling thread.
            out: (h, w, 3) uint8 contiguous, receives the pixels.
        """
        sample = cache.get(self.name, int(self.instances.image_rows[instance]))
        index = int(self.instances.instance_indices[instance])
        return crop_instance(
            sample.image,
            sample.instances[index].keypoints[:, :2],
            sample.state[index],
            self._region(
                sample, index, int(self.instances.rows[instance]), number_of_pass, out.shape[1] / out.shape[0]
            ),
            self.definition.skeleton,
            self.definition.conventions.codec,
            out,
        )

    def _region(self, sample: DecodedSample, index: int, row: int, number_of_pass: int, aspect_ratio: float) -> Region:
        conventions, augment = self.definition.conventions, self._augment
        instance, image_size = sample.instances[index], (sample.image.shape[0], sample.image.shape[1])
        region = instance_region(instance, image_size, aspect_ratio, conventions)
        if conventions.center_jitter and augment.center_jitter != "off":
            major = 0 if augment.center_jitter == "per_run" else number_of_pass
            random = generator(Purpose.CENTER_JITTER, self._seed, self.name, major, row)
            region = jitter_center(region, instance_box(instance, image_size, conventions)[2:], augment, random)
        return augment_region(
            region,
            instance.keypoints[:, :2],
            is_labelled(sample.state[index]),
            self.definition.skeleton,
            conventions.half_body_min_keypoints,
            aspect_ratio,
            augment,
            generator(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, row),
        )
