"""Whole pictures as training samples: one affine map for a picture and all its bodies, and what is not to be trained.

A picture is drawn as often as any other, with bodies or without: of one without, a model learns that there is nobody.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.config import Config
from posecore.geometry import apply_affine, fix_aspect_ratio
from posecore.loading.augment import AugmentConfig, LateAugmentConfig, Region
from posecore.loading.crop import CropPlan, crop_images, is_labelled, region_matrix
from posecore.loading.randomness import Purpose, Redrawn
from posecore.loading.samples import DecodedSample, UsableInstances
from posecore.loading.training_crops import change_pixels
from posecore.schema import KeypointState
from posecore.shards.regions import pixels
from posecore.shards.store import ShardStore


class SceneConfig(Config):
    """How a whole picture is turned, enlarged and moved; the defaults are HigherHRNet's (arXiv 1908.10357).

    Attributes:
        fit: the side of the picture that fills the input before anything is drawn: ``short`` cuts the longer side off,
            where ``shift`` says; ``long`` shows the whole picture, with black beside it. Predictions are made with the
            whole picture.
        least_zoom: smallest size of what is seen, as a multiple of that.
        most_zoom: largest.
        rotation_degrees: turned by up to this, either way.
        shift: moved by up to this share of the input's side, each way.
        flip_probability: of mirroring.
    """

    fit: Literal["short", "long"] = "short"
    least_zoom: float = Field(default=0.67, gt=0)
    most_zoom: float = Field(default=1.33, gt=0)
    rotation_degrees: float = Field(default=30.0, ge=0, le=180)
    shift: float = Field(default=0.08, ge=0, le=0.5)
    flip_probability: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.least_zoom > self.most_zoom:
            raise ValueError(f"least_zoom {self.least_zoom:g} is more than most_zoom {self.most_zoom:g}.")
        return self


class TrainingScenes:
    """The augmented pictures of one mixture entry. Never changes: may be used from several threads.

    Args:
        name: of the entry.
        store: its pictures.
        config: how they are turned, enlarged and moved.
        augment: what changes their pixels.
        late: the same of later passes.
        input_size: (height, width) of the input.
        seed: of the run.
    """

    def __init__(
        self,
        name: str,
        store: ShardStore,
        config: SceneConfig,
        augment: AugmentConfig,
        late: LateAugmentConfig | None,
        input_size: tuple[int, int],
        seed: int,
    ) -> None:
        self.name = name
        self.definition = store.manifest.definition
        self.instances = UsableInstances.whole_images(store)
        self._store = store
        self._config = config
        self._augment, self._late = augment, late
        self._input_size = input_size
        self._seed = seed
        self._sides = np.stack([store.images[side].to_numpy() for side in ("height", "width")], axis=1)
        table = store.instances
        self._boxes = tuple(table[f"bbox_{side}"].to_numpy() for side in "xywh")
        image_row = table["image_row"].to_numpy()
        labelled = (table["num_labelled"].to_numpy() > 0) & ~table["is_crowd"].to_numpy()
        rows = np.flatnonzero(labelled)
        self._rows = rows[np.argsort(image_row[rows], kind="stable")]
        self._starts = np.searchsorted(image_row[self._rows], np.arange(store.num_images + 1))
        self._hides = np.zeros(store.num_images, np.bool_)
        self._hides[image_row[~labelled]] = True

    @property
    def num_keypoints(self) -> int:
        """Points of each body."""
        return self.definition.skeleton.num_keypoints

    @cached_property
    def num_rows(self) -> int:
        """M: the bodies of the fullest picture, and a row for points that no body of the set has a label of."""
        return int(np.diff(self._starts).max(initial=0)) + 1

    @cached_property
    def _never_labelled(self) -> NDArray[np.bool_]:
        """(K,) points that no body of the set has a label of: of where they are not, nothing is known, either."""
        labelled = np.zeros(self.num_keypoints, np.bool_)
        for start in range(0, len(self._rows), 1 << 16):
            labelled |= is_labelled(self._store.labels.state(self._rows[start : start + (1 << 16)])).any(axis=0)
        return ~labelled

    def plan(self, instances: NDArray[np.int64], number_of_pass: NDArray[np.int64], redrawn: Redrawn) -> CropPlan:
        """Plans n pictures; each is a function of seed, entry, pass and picture, whoever asks, when, and beside what.

        Args:
            instances: (n,) indices into :attr:`instances`, which are rows of ``images.parquet``.
            number_of_pass: (n,) how many times the dataset had been gone through before; every pass is augmented anew.
            redrawn: of the calling thread.
        """
        rows, count = self.instances.rows[instances].astype(np.int64), len(instances)
        draws = np.empty((count, 5))
        each = redrawn.each(Purpose.AUGMENTATION, self._seed, self.name, number_of_pass, rows)
        for random, of_scene in zip(each, draws, strict=True):
            random.random(out=of_scene)
        region = scene_regions(self._sides[rows], self._input_size, self._config, draws)
        matrix = region_matrix(region, self._sides[rows, 1], self._input_size, "udp")
        keypoints = np.zeros((count, self.num_rows, self.num_keypoints, 2), np.float32)
        state = np.zeros((count, self.num_rows, self.num_keypoints), np.uint8)
        boxes = np.tile(np.array([0, 0, -1, -1], np.float32), (count, self.num_rows, 1))
        for place, row in enumerate(rows.tolist()):
            bodies = self._rows[self._starts[row] : self._starts[row + 1]]
            self._put_bodies(bodies, matrix[place], keypoints[place], state[place], boxes[place])
        flipped = np.flatnonzero(region.flipped)
        partners = self.definition.skeleton.flip_indices
        keypoints[flipped] = keypoints[flipped][:, :, partners]
        state[flipped] = state[flipped][:, :, partners]
        if self._never_labelled.any():
            height, width = self._input_size
            of_set = np.where(self._never_labelled, KeypointState.UNLABELLED, KeypointState.ABSENT).astype(np.uint8)
            state[:, -1] = of_set
            state[flipped, -1] = of_set[partners]
            boxes[:, -1] = (0, 0, width - 1, height - 1)
        height, width = self._input_size
        return CropPlan(
            rows=rows,
            number_of_pass=number_of_pass,
            region=region,
            matrix=matrix,
            keypoints_crop=keypoints,
            state=state,
            answers=[None] * count,
            ignored=np.zeros((count, height // 2, width // 2), np.uint8),
            bbox_crop=boxes,
        )

    def _put_bodies(
        self,
        bodies: NDArray[np.int64],
        matrix: NDArray[np.float64],
        keypoints: NDArray[np.float32],
        state: NDArray[np.uint8],
        boxes: NDArray[np.float32],
    ) -> None:
        """Writes the bodies of one picture into the first rows of its arrays."""
        count = len(bodies)
        if not count:
            return
        points, states = self._store.labels.keypoints(bodies), self._store.labels.state(bodies)
        labelled = is_labelled(states)
        mapped = apply_affine(points.reshape(-1, 2).astype(np.float64), matrix).reshape(points.shape)
        keypoints[:count] = np.where(labelled[..., None], mapped, 0.0)
        state[:count] = states
        x, y, w, h = (side[bodies] for side in self._boxes)
        corners = np.stack([np.stack([x, x + w, x, x + w], 1), np.stack([y, y, y + h, y + h], 1)], axis=2)
        outline = apply_affine(corners.reshape(-1, 2), matrix).reshape(count, 4, 2)
        outline = np.concatenate([outline, np.where(labelled[..., None], mapped, outline[:, :1])], axis=1)
        boxes[:count] = np.concatenate([outline.min(axis=1), outline.max(axis=1)], axis=1)

    def cut(
        self,
        plan: CropPlan,
        crops: Sequence[int],
        sample: DecodedSample,
        redrawn: Redrawn,
        outs: Sequence[NDArray[np.uint8]],
        depth_outs: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        """Cuts some of the planned pictures, of one image, and completes their plan by what is to be ignored.

        Args:
            plan: of :meth:`plan`.
            crops: indices within it.
            sample: their image.
            redrawn: of the calling thread.
            outs: each (h, w, 3) uint8 contiguous, receive the pixels.
            depth_outs: not written to: whole pictures are trained without depth.
        """
        crop_images(sample.image, [plan.matrix[index] for index in crops], outs)
        row = int(plan.rows[crops[0]])
        ignored = self._store.read_masks(row).ignore_rle if self._hides[row] else None
        hidden = None if ignored is None else pixels(ignored).astype(np.uint8)
        for index, out in zip(crops, outs, strict=True):
            if hidden is not None:
                assert plan.ignored is not None
                _cut_mask(hidden, plan.matrix[index], self._input_size, plan.ignored[index])
            number_of_pass = int(plan.number_of_pass[index])
            change_pixels(self.name, out, self._augment_of(number_of_pass), self._random(redrawn, number_of_pass, row))

    def _random(self, redrawn: Redrawn, number_of_pass: int, row: int) -> Callable[[Purpose], np.random.Generator]:
        return lambda purpose: redrawn.generator(purpose, self._seed, self.name, number_of_pass, row)

    def _augment_of(self, number_of_pass: int) -> AugmentConfig:
        if self._late is not None and number_of_pass >= self._late.from_pass:
            return self._late.augment
        return self._augment


def scene_regions(
    image_sizes: NDArray[np.int64],
    input_size: tuple[int, int],
    config: SceneConfig,
    draws: NDArray[np.float64],
) -> Region:
    """Augmented regions of n pictures.

    Args:
        image_sizes: (n, 2) height, width in pixels.
        input_size: (height, width) of the input.
        config: how they are turned, enlarged and moved.
        draws: (n, 5) uniform, for zoom, angle, shift along x and y, and mirroring.
    """
    zoom, angle, x, y, flip = draws.T
    whole = whole_regions(image_sizes, input_size, config.fit)
    scale = whole.scale / (config.least_zoom + zoom * (config.most_zoom - config.least_zoom))[:, None]
    moves = config.shift * (2.0 * np.stack([x, y], axis=1) - 1.0)
    return Region(
        center=whole.center + moves * scale,
        scale=scale,
        rotation=config.rotation_degrees * (2.0 * angle - 1.0),
        flipped=flip < config.flip_probability,
    )


def whole_regions(
    image_sizes: NDArray[np.int64], input_size: tuple[int, int], fit: Literal["short", "long"] = "long"
) -> Region:
    """The regions that show n pictures as they are, the centres of their outermost pixels on those of the input.

    Args:
        image_sizes: (n, 2) height, width in pixels.
        input_size: (height, width) of the input.
        fit: the side that fills the input.
    """
    extent = np.maximum(image_sizes[:, ::-1].astype(np.float64) - 1.0, 1.0)
    ratio = (input_size[1] - 1.0) / (input_size[0] - 1.0)
    scale = fix_aspect_ratio(extent, ratio)
    if fit == "short":
        scale = scale * (extent / scale).min(axis=1, keepdims=True)
    center = (image_sizes[:, ::-1].astype(np.float64) - 1.0) / 2.0
    return Region(center=center, scale=scale)


def _cut_mask(
    mask: NDArray[np.uint8], matrix: NDArray[np.float64], input_size: tuple[int, int], out: NDArray[np.uint8]
) -> None:
    """Cuts a mask of the picture at half the input's size, the outermost pixels' centres on each other.

    Args:
        mask: (H, W) of the picture.
        matrix: (2, 3) from image pixels to input pixels.
        input_size: (height, width) of the input.
        out: (h, w) receives it.
    """
    ratio = [(half - 1) / (side - 1) for half, side in zip(out.shape[::-1], input_size[::-1], strict=True)]
    halved = matrix * np.array(ratio)[:, None]
    cv2.warpAffine(mask, halved, out.shape[::-1], dst=out, flags=cv2.INTER_NEAREST)
