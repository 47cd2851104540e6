"""From crops to keypoints in the image: forward, mirror and forward again, decode, back to image pixels.

Evaluation of a split and serving of single photos both end here, so a served model answers as it was judged.
"""

from contextlib import nullcontext
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from posecore.geometry import heatmap_to_image
from posecore.methods.batch import normalise
from posecore.models.pose_model import PoseModel

Precision: TypeAlias = Literal["float32", "bfloat16"]


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
    device: torch.device | None = None,
) -> tuple[Float[np.ndarray, "n k 2"], Float[np.ndarray, "n k"]]:
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
        device: where; the model must be there already. None takes the model's.

    Returns:
        x, y in image pixels and the outputs' maxima as scores, both float64.
    """
    device = device or next(model.parameters()).device
    codec = model.codec(head)
    batch = normalise(torch.from_numpy(images).to(device))
    with torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext():
        outputs = model.predict(batch, head).float()
        if flip_test:
            mirrored = model.predict(batch.flip(-1), head).float()
            partners = torch.from_numpy(model.skeletons[head].flip_indices).to(device)
            shift = model.conventions[head].flip_shift
            outputs = (outputs + codec.flip_back(mirrored, partners, shift)) * 0.5
    if points is not None:
        outputs = outputs[:, torch.from_numpy(points).to(device)]
    found, scores = codec.decode(outputs)
    found_image = heatmap_to_image(
        found.cpu().numpy().astype(np.float64),
        center.astype(np.float64),
        scale.astype(np.float64),
        codec.frame_size,
        codec.crop,
    )
    return found_image, scores.cpu().numpy().astype(np.float64)
