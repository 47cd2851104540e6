"""Crops for pre-training: any part of a body's surroundings, or of a whole image, with no label needed."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config
from posecore.conventions import HeadConventions
from posecore.loading.augment import Region
from posecore.loading.crop import Crop, instance_region
from posecore.loading.randomness import Purpose, Redrawn
from posecore.loading.samples import ImageKey, SampleCache, UsableInstances
from posecore.shards.store import ShardStore


class UnlabelledConfig(Config):
    """What is cropped, and how much of it.

    The defaults are those of masked autoencoders (arXiv 2111.06377, appendix A.1) and of Sapiens.

    Attributes:
        unit: ``bodies`` crops around every annotated body, labelled or not, crowd regions excepted, within the region
            that fine-tuning would cut; ``images`` crops from whole images, those without any body as well.
        least_area: smallest share of that area a crop covers; the largest is 1.
        aspect_distortion: a crop's width over height differs from the input's by at most this factor, either way.
        flip_probability: of mirroring.
    """

    unit: Literal["bodies", "images"] = "bodies"
    least_area: float = Field(default=0.2, gt=0, le=1)
    aspect_distortion: float = Field(default=4 / 3, ge=1)
    flip_probability: float = Field(default=0.5, ge=0, le=1)


class UnlabelledCrops:
    """The crops of one mixture entry for pre-training. Never changes: may be used from several threads.

    Args:
        name: of the entry.
        store: its images.
        config: what is cropped.
        input_size: (height, width) of the crops.
        seed: of the run.
    """

    num_keypoints = 0

    def __init__(
        self, name: str, store: ShardStore, config: UnlabelledConfig, input_size: tuple[int, int], seed: int
    ) -> None:
        self.name = name
        of_bodies = config.unit == "bodies"
        self.instances = UsableInstances.bodies(store) if of_bodies else UsableInstances.whole_images(store)
        self._conventions = HeadConventions().on(store.manifest.definition.conventions)
        self._config = config
        self._aspect_ratio = input_size[1] / input_size[0]
        self._seed = seed

    def image(self, instance: int) -> ImageKey:
        """The image that an instance is on, or is.

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
        """Cuts one crop; a function of seed, entry, pass and instance, as :meth:`TrainingCrops.crop`.

        Shrinking averages the pixels: a photograph of twelve megapixels would otherwise become noise.

        Args:
            instance: index into :attr:`instances`.
            number_of_pass: how many times the dataset had been gone through before.
            cache: of the calling thread.
            redrawn: of the calling thread.
            out: (h, w, 3) uint8 contiguous, receives the pixels.
            depth_out: not written to: there is no depth in pre-training.
        """
        sample = cache.get(self.image(instance))
        row = int(self.instances.rows[instance])
        random = redrawn.generator(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, row)
        size = (sample.image.shape[0], sample.image.shape[1])
        if self._config.unit == "images":
            extent = np.array(size[::-1], np.float64)
            area = Region(extent / 2, extent)
        else:
            body = sample.instances[int(self.instances.instance_indices[instance])]
            area = instance_region(body, size, self._aspect_ratio, self._conventions)
        left, top, right, bottom = draw_window(area, size, self._aspect_ratio, self._config, random)
        flipped = bool(random.random() < self._config.flip_probability)
        window = sample.image[top:bottom, left:right]
        shrinks = window.shape[0] >= out.shape[0] and window.shape[1] >= out.shape[1]
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(window, (out.shape[1], out.shape[0]), dst=out, interpolation=way)
        if flipped:
            cv2.flip(out, 1, dst=out)
        region = Region(
            center=np.array([left + right, top + bottom]) / 2,
            scale=np.array([right - left, bottom - top], np.float64),
            flipped=flipped,
        )
        return Crop(region, np.zeros((0, 2), np.float32), np.zeros(0, np.uint8))


def draw_window(
    area: Region,
    image_size: tuple[int, int],
    aspect_ratio: float,
    config: UnlabelledConfig,
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws a window inside an area and the image.

    Its share of the area is uniform, its shape log-uniform, its place uniform. A shape that does not fit at that size
    is made smaller, not distorted, so that nothing is ever drawn again.

    Args:
        area: center and scale are read; what lies outside the image does not belong to it.
        image_size: (height, width) of the image.
        aspect_ratio: width over height of the crop.
        config: how much is cropped.
        random: of this crop; four draws.

    Returns:
        left, top, right, bottom in image pixels, at least one pixel each way.
    """
    share, shape, across, down = random.random(4).tolist()
    extent = np.array(image_size[::-1], np.float64)
    start = np.clip(area.center - area.scale / 2, 0, extent - 1)
    stop = np.clip(area.center + area.scale / 2, start + 1, extent)
    available = stop - start
    ratio = aspect_ratio * config.aspect_distortion ** (2 * shape - 1)
    wanted = (config.least_area + (1 - config.least_area) * share) * available.prod()
    size = np.sqrt(wanted * np.array([ratio, 1 / ratio]))
    size *= min(1.0, (available / size).min())
    corner = start + np.array([across, down]) * (available - size)
    low = np.floor(corner + 0.5).astype(int)
    high = np.maximum(np.floor(corner + size + 0.5).astype(int), low + 1)
    low = np.minimum(low, extent.astype(int) - 1)
    high = np.minimum(high, extent.astype(int))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
