"""How much of the hardware's arithmetic a training run uses: model FLOPs utilisation, MFU.

Numerator: the FLOPs the model asks for, three forward passes per crop (the backward pass counts two); what
checkpointing recomputes does not count. Denominator: the maker's dense peak where the GPU is known, otherwise the rate
of a large matrix product measured here, so that 1 means "as fast as this machine multiplies".
"""

import time
from functools import cache

import torch
from torch import nn

from posecore.models.cost import model_cost
from posecore.models.pose_model import PoseModel
from posecore.training.engine import AUTOCAST, Precision
from posecore.training.gpus import present_gpu

_SIDE = {"cpu": 1024, "cuda": 8192}
_TRIES = 3


def flops_per_crop(method: nn.Module) -> float | None:
    """FLOPs of one training step per crop, or None for a method without a pose model that has heads.

    Args:
        method: as for :func:`posecore.training.loop.train`.
    """
    model = getattr(method, "model", None)
    if not isinstance(model, PoseModel) or not model.skeletons:
        return None
    keypoints = {dataset: skeleton.num_keypoints for dataset, skeleton in model.skeletons.items()}
    return 3 * model_cost(model.config, keypoints).flops


def peak_flops(device: torch.device, precision: Precision) -> float:
    """FLOP/s that utilisation is measured against: the GPU's dense peak, or a measured rate (a tenth of a second)."""
    gpu = present_gpu(device) if device.type == "cuda" else None
    if gpu is not None:
        return gpu.peak_flops(precision)
    return measured_flops(device, AUTOCAST.get(precision, torch.float32))


@cache
def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few products of square matrices, measured once per process."""
    side = _SIDE.get(device.type, 1024)
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best_s = float("inf")
    for _ in range(_TRIES + 1):  # the first one warms up
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - began)
    return 2 * side**3 / best_s
