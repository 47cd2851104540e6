"""Crops for pre-training: any part of a body's surroundings, or of a whole image, with no label needed."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config
from posecore.conventions import HeadConventions
from posecore.loading.augment import Region
from posecore.loading.crop import CropPlan, instance_regions
from posecore.loading.randomness import Purpose, Redrawn
from posecore.loading.samples import DecodedSample, UsableInstances
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
        self._config = config
        self._aspect_ratio = input_size[1] / input_size[0]
        self._seed = seed
        self._store = store
        self._of_bodies = of_bodies
        self._conventions = HeadConventions().on(store.manifest.definition.conventions)
        self._sides = [store.images[side].to_numpy() for side in ("height", "width")]
        if of_bodies and self._conventions.box_source == "center_scale":
            rows = self.instances.rows.astype(np.int64)
            instance_regions(store, rows, self._aspect_ratio, self._conventions)  # which refuses what has no centre

    def plan(self, instances: NDArray[np.int64], number_of_pass: NDArray[np.int64], redrawn: Redrawn) -> CropPlan:
        """Plans n crops; each is a function of seed, entry, pass and instance, whoever asks, when, and beside what.

        Args:
            instances: (n,) indices into :attr:`instances`.
            number_of_pass: (n,) how many times the dataset had been gone through before.
            redrawn: of the calling thread.
        """
        rows, count = self.instances.rows[instances].astype(np.int64), len(instances)
        image_rows = self.instances.image_rows_of(instances)
        sizes = np.stack([side[image_rows] for side in self._sides], axis=-1)
        if self._of_bodies:
            areas = instance_regions(self._store, rows, self._aspect_ratio, self._conventions)
        else:
            extent = sizes[:, ::-1].astype(np.float64)
            areas = Region(extent / 2, extent)
        windows, flips = np.empty((count, 4), np.int64), np.empty(count)
        each = redrawn.each(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, rows)
        for place, (random, (height, width)) in enumerate(zip(each, sizes.tolist(), strict=True)):
            area = Region(areas.center[place], areas.scale[place])
            windows[place] = draw_window(area, (height, width), self._aspect_ratio, self._config, random)
            flips[place] = random.random()
        start, stop = windows[:, :2], windows[:, 2:]
        return CropPlan(
            rows=rows,
            number_of_pass=number_of_pass,
            region=Region(
                center=(start + stop) / 2,
                scale=(stop - start).astype(np.float64),
                rotation=np.zeros(count),
                flipped=flips < self._config.flip_probability,
            ),
            matrix=np.empty((0, 2, 3)),
            keypoints_crop=np.zeros((count, 0, 2), np.float32),
            state=np.zeros((count, 0), np.uint8),
            answers=[None] * count,
        )

    def cut(
        self,
        plan: CropPlan,
        crops: Sequence[int],
        sample: DecodedSample,
        redrawn: Redrawn,
        outs: Sequence[NDArray[np.uint8]],
        depth_outs: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        """Cuts some of the planned crops, of one image.

        Shrinking averages the pixels: a photograph of twelve megapixels would otherwise become noise.

        Args:
            plan: of :meth:`plan`.
            crops: indices within it.
            sample: their image.
            redrawn: not drawn from: all is planned.
            outs: each (h, w, 3) uint8 contiguous, receive the pixels.
            depth_outs: not written to: there is no depth in pre-training.
        """
        for index, out in zip(crops, outs, strict=True):
            center, half = plan.region.center[index], plan.region.scale[index] / 2
            (left, top), (right, bottom) = ((center + way * half).astype(int).tolist() for way in (-1, 1))
            window = sample.image[top:bottom, left:right]
            shrinks = window.shape[0] >= out.shape[0] and window.shape[1] >= out.shape[1]
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            cv2.resize(window, (out.shape[1], out.shape[0]), dst=out, interpolation=way)
            if plan.region.flipped[index]:
                cv2.flip(out, 1, dst=out)


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
