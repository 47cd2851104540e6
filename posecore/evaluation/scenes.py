"""From whole pictures to bodies in them: fit, forward, mirror and forward again, read, back to image pixels.

Evaluation of a split and serving of single photos both end here, as :mod:`posecore.evaluation.crops` is the end of both
for crops.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from posecore.codecs.grouping import SceneBodies
from posecore.codecs.scene import SceneCodec, SceneReading
from posecore.geometry import boxes_around, covariance_to_image, crop_matrix, heatmap_to_image
from posecore.image_header import MAX_PIXELS
from posecore.loading.augment import Region
from posecore.loading.samples import SampleCache
from posecore.loading.scene import whole_regions
from posecore.methods.batch import normalise
from posecore.models.export.backends import Precision
from posecore.models.pose_model import PoseModel
from posecore.shards.store import ShardStore

_PIXELS_OF_A_CROP = 256 * 192
_BYTES_OF_CACHE = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class FoundBodies:
    """The bodies that a model finds in one picture, the surest first.

    Attributes:
        keypoints: (m, K, 2) float64 x, y in image pixels.
        keypoint_scores: (m, K) float64, how sure the points are, 0 where there is no point.
        scores: (m,) float64, how sure the bodies are; see :class:`~posecore.codecs.grouping.SceneBodies`.
        said_xywh: (m, 4) float64 boxes; None of a head that says points alone.
        covariances: (m, K, 2, 2) float64 of x and y, image px², NaN where a point's is not known; None of a head that
            says none.
    """

    keypoints: Float[np.ndarray, "m K 2"]
    keypoint_scores: Float[np.ndarray, "m K"]
    scores: Float[np.ndarray, " m"]
    said_xywh: Float[np.ndarray, "m 4"] | None = None
    covariances: Float[np.ndarray, "m K 2 2"] | None = None

    @property
    def bbox_xywh(self) -> Float[np.ndarray, "m 4"]:
        """x, y, width, height, where none was said of the known points of each body, of which there is at least one."""
        return boxes_around(self.keypoints, self.keypoint_scores > 0) if self.said_xywh is None else self.said_xywh

    @property
    def areas(self) -> Float[np.ndarray, " m"]:
        """px² of :attr:`bbox_xywh`, at least one pixel each way."""
        areas: NDArray[np.float64] = np.maximum(self.bbox_xywh[:, 2:], 1.0).prod(axis=1)
        return areas


def scenes_per_pass(batch_size: int, input_size: tuple[int, int]) -> int:
    """Whole pictures in a pass: so many that they have no more pixels than so many crops of 256×192, and at least one.

    Args:
        batch_size: crops in a pass.
        input_size: (height, width) of the input in pixels.
    """
    return max(1, batch_size * _PIXELS_OF_A_CROP // (input_size[0] * input_size[1]))


def fit_scene(image: UInt8[np.ndarray, "H W 3"], input_size: tuple[int, int]) -> tuple[NDArray[np.uint8], Region]:
    """A whole picture in the input, black beside it, and where it lies."""
    height, width = input_size
    region = whole_regions(np.array([image.shape[:2]]), input_size)
    matrix = crop_matrix(region.center[0], region.scale[0], np.zeros(()), input_size, "udp")
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), region


def predict_scenes(
    model: PoseModel,
    heads: Sequence[str],
    images: UInt8[np.ndarray, "n h w 3"],
    center: Float[np.ndarray, "n 2"],
    scale: Float[np.ndarray, "n 2"],
    *,
    flip_test: bool,
    precision: Precision = "float32",
    reading: SceneReading | None = None,
    device: torch.device | None = None,
) -> dict[str, list[FoundBodies]]:
    """The bodies in n whole pictures, by each of some heads.

    Args:
        model: in evaluation mode, whose heads find bodies in whole pictures.
        heads: names of heads; without experts the backbone runs once for all.
        images: RGB, fitted by :func:`fit_scene`.
        center: x, y of what is shown, in image pixels.
        scale: width, height of it in image pixels.
        flip_test: show the mirrored picture, too, to heads of which both can be averaged.
        precision: ``bfloat16`` runs the network under autocast; outputs are always read in float32.
        reading: how.
        device: where; the model must be there already. None takes the model's.
    """
    device = device or model.device
    batch = normalise(torch.from_numpy(images).to(device))
    in_bfloat16 = precision == "bfloat16"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16) if in_bfloat16 else nullcontext():
        outputs = _outputs(model, heads, batch)
        codecs = {head: _scene_codec(model, head) for head in heads}
        twice = [head for head in heads if flip_test and codecs[head].mirrored]
        mirrored = _outputs(model, twice, batch.flip(-1)) if twice else {}
    return {
        head: [
            _in_picture(codec, bodies, center[place].astype(np.float64), scale[place].astype(np.float64))
            for place, bodies in enumerate(
                codec.bodies(outputs[head], mirrored.get(head), model.skeletons[head], reading or SceneReading())
            )
        ]
        for head, codec in codecs.items()
    }


def _scene_codec(model: PoseModel, head: str) -> SceneCodec:
    codec = model.codec(head)
    assert isinstance(codec, SceneCodec), codec.kind
    return codec


def _in_picture(
    codec: SceneCodec, bodies: SceneBodies, center: NDArray[np.float64], scale: NDArray[np.float64]
) -> FoundBodies:
    """Bodies of the frame in pixels of the picture of which it shows a region."""

    def moved(points: NDArray[np.float32]) -> NDArray[np.float64]:
        return heatmap_to_image(points.astype(np.float64), center, scale, codec.frame_size, codec.crop)

    boxes, covariances = None, None
    if bodies.bbox_xyxy is not None:
        corners = moved(bodies.bbox_xyxy.reshape(-1, 2, 2))
        boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)
    if bodies.covariances is not None:
        spread = bodies.covariances.astype(np.float64)
        each_scale = np.broadcast_to(scale, (len(spread), 2))
        covariances = covariance_to_image(spread, each_scale, codec.frame_size, codec.crop)
    point_scores, scores = (each.astype(np.float64) for each in (bodies.keypoint_scores, bodies.scores))
    return FoundBodies(moved(bodies.keypoints), point_scores, scores, boxes, covariances)


def _outputs(model: PoseModel, heads: Sequence[str], batch: Tensor) -> dict[str, Tensor]:
    if model.config.backbone.has_experts:
        return {head: model.predict(batch, head).float() for head in heads}
    features = model.features(batch, [(heads[0], 0, len(batch))])
    return {head: model.heatmaps(features, head).float() for head in heads}


def predict_images(
    model: PoseModel,
    store: ShardStore,
    head: str,
    image_rows: NDArray[np.int64],
    *,
    batch_size: int,
    flip_test: bool,
    precision: Precision = "float32",
    reading: SceneReading | None = None,
    device: torch.device | None = None,
) -> Iterator[FoundBodies]:
    """The bodies in some of a split's pictures, in order; arguments as :func:`predict_scenes`.

    Args:
        model: as there.
        store: the split.
        head: who answers.
        image_rows: rows of ``images.parquet``.
        batch_size: in crops; see :func:`scenes_per_pass`.
        flip_test: as there.
        precision: as there.
        reading: as there.
        device: as there.
    """
    cache = SampleCache({head: store}, _BYTES_OF_CACHE, max_pixels=MAX_PIXELS)
    size = scenes_per_pass(batch_size, model.input_size)
    for start in range(0, len(image_rows), size):
        fitted, regions = [], []
        for row in image_rows[start : start + size].tolist():
            image, region = fit_scene(cache.get((head, row)).image, model.input_size)
            fitted.append(image)
            regions.append(region)
        answers = predict_scenes(
            model,
            [head],
            np.stack(fitted),
            np.concatenate([region.center for region in regions]),
            np.concatenate([region.scale for region in regions]),
            flip_test=flip_test,
            precision=precision,
            reading=reading,
            device=device,
        )
        yield from answers[head]


def usual_category(store: ShardStore) -> int:
    """The number of the class that most of a split's bodies are of: no model of whole pictures says of which one is."""
    known, counts = np.unique(store.instances["category_id"].to_numpy(), return_counts=True)
    return int(known[counts.argmax()]) if len(known) else 1
