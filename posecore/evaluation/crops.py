"""From crops to keypoints in the image: forward, mirror and forward again, decode, back to image pixels.

Evaluation of a split and serving of single photos both end here, so a served model answers as it was judged.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from posecore.geometry import covariance_to_image, heatmap_to_image
from posecore.methods.batch import normalise
from posecore.models.export.backends import Precision
from posecore.models.pose_model import HeatmapPath, PoseModel


class Answers(NamedTuple):
    """What a head says of a batch of crops.

    Attributes:
        keypoints: (n, K, 2) x, y in image pixels, float64.
        scores: (n, K) the outputs' maxima, float64.
        covariances: (n, K, 2, 2) of x and y in image px², float64, NaN where there is no point; None if not asked for.
    """

    keypoints: Float[np.ndarray, "n k 2"]
    scores: Float[np.ndarray, "n k"]
    covariances: Float[np.ndarray, "n k 2 2"] | None = None


Network: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""(B, 3, H, W) normalised RGB to what the codec of each head decodes."""


def predict_crops(
    model: PoseModel,
    head: str,
    images: UInt8[np.ndarray, "n h w 3"],
    center: Float[np.ndarray, "n 2"],
    scale: Float[np.ndarray, "n 2"],
    *,
    flip_test: bool,
    precision: Precision = "float32",
    points: Int[np.ndarray, " k"] | None = None,
    path: HeatmapPath = "regression",
    device: torch.device | None = None,
    depth: Float[np.ndarray, "n h w"] | None = None,
    uncertainty: bool = False,
) -> Answers:
    """Keypoints of a batch of un-augmented crops, read by the conventions of the head.

    Args:
        model: in evaluation mode.
        head: name of one of the model's heads.
        images: RGB crops of the model's input size.
        center: x, y of the crops in image pixels.
        scale: width, height of the crops in image pixels.
        flip_test: average the outputs for crop and mirrored crop, before decoding.
        precision: ``bfloat16`` runs the network under autocast; decoding is always in float32.
        points: which of the head's points are wanted, in this order; None for all.
        path: the dataset's head, its prototypes, or both averaged.
        device: where; the model must be there already. None takes the model's.
        depth: of the same crops in metres, 0 where not known, for a model that takes it.
        uncertainty: say how far off points may be, too.

    Raises:
        ConfigError: the head's outputs do not say how far off points may be.
    """
    outputs = _outputs(model, (head,), images, flip_test, precision, path, device, depth)[head]
    if points is not None:
        outputs = outputs[:, torch.from_numpy(points).to(outputs.device)]
    return _decode(model, head, outputs, center, scale, uncertainty)


def predict_heads(
    model: PoseModel,
    heads: Sequence[str],
    images: UInt8[np.ndarray, "n h w 3"],
    center: Float[np.ndarray, "n 2"],
    scale: Float[np.ndarray, "n 2"],
    *,
    flip_test: bool,
    precision: Precision = "float32",
    path: HeatmapPath = "regression",
    depth: Float[np.ndarray, "n h w"] | None = None,
    network: Network | None = None,
    uncertainty: bool = False,
) -> dict[str, Answers]:
    """As :func:`predict_crops` for several heads whose conventions cut the same crops.

    The backbone runs once for all of them, unless it has experts, whose features differ from head to head. A
    ``network`` runs instead of the model's own backbone and heads.
    """
    outputs = _outputs(model, heads, images, flip_test, precision, path, depth=depth, network=network)
    return {head: _decode(model, head, outputs[head], center, scale, uncertainty) for head in heads}


def _outputs(
    model: PoseModel,
    heads: Sequence[str],
    images: UInt8[np.ndarray, "n h w 3"],
    flip_test: bool,
    precision: Precision,
    path: HeatmapPath,
    device: torch.device | None = None,
    depth: Float[np.ndarray, "n h w"] | None = None,
    network: Network | None = None,
) -> dict[str, Tensor]:
    """Per head what its codec decodes, float32, averaged with the mirrored crop's where wanted."""
    device = device or model.device
    pixels = torch.from_numpy(images)
    if network is not None:  # which wants colour by colour; torch takes whatever order pixels have
        pixels = pixels.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    batch = normalise(pixels.to(device))
    beside = None if depth is None else torch.from_numpy(depth).to(device)
    in_bfloat16 = precision == "bfloat16" and network is None
    with torch.autocast(device.type, torch.bfloat16) if in_bfloat16 else nullcontext():
        outputs = _forward(model, heads, batch, path, beside, network)
        if flip_test:
            turned = None if beside is None else beside.flip(-1)
            for head, mirrored in _forward(model, heads, batch.flip(-1), path, turned, network).items():
                partners = torch.from_numpy(model.skeletons[head].flip_indices).to(device)
                shift = model.conventions[head].flip_shift
                outputs[head] = (outputs[head] + model.codec(head).flip_back(mirrored, partners, shift)) * 0.5
    return outputs


def _forward(
    model: PoseModel,
    heads: Sequence[str],
    batch: Tensor,
    path: HeatmapPath,
    depth: Tensor | None,
    network: Network | None,
) -> dict[str, Tensor]:
    if network is not None:
        return network(batch)
    if len(heads) == 1 or any(".experts." in name for name, _ in model.backbone.named_parameters()):
        return {head: model.predict(batch, head, path, depth).float() for head in heads}
    with torch.no_grad():
        features = model.features(batch, [(heads[0], 0, len(batch))], depth)
        return {head: model.heatmaps(features, head, path).float() for head in heads}


def _decode(
    model: PoseModel,
    head: str,
    outputs: Tensor,
    center: Float[np.ndarray, "n 2"],
    scale: Float[np.ndarray, "n 2"],
    uncertainty: bool,
) -> Answers:
    codec = model.codec(head)
    found, scores = codec.decode(outputs)
    found_image = heatmap_to_image(
        found.cpu().numpy().astype(np.float64),
        center.astype(np.float64),
        scale.astype(np.float64),
        codec.frame_size,
        codec.crop,
    )
    covariances = None
    if uncertainty:
        spread = codec.covariances(outputs, found).cpu().numpy().astype(np.float64)
        covariances = covariance_to_image(spread, scale.astype(np.float64), codec.frame_size, codec.crop)
    return Answers(found_image, scores.cpu().numpy().astype(np.float64), covariances)
