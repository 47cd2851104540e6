"""How long one crop takes, measured where the model is."""

import statistics
import time

import torch

from posecore.models.pose_model import PoseModel


@torch.no_grad()
def forward_seconds(model: PoseModel, dataset: str, repeats: int = 20) -> float:
    """Median time of one forward pass of one crop through backbone and one head, after two that warm up.

    Args:
        model: in evaluation mode.
        dataset: whose head.
        repeats: measured passes.
    """
    device = model.device
    images = torch.zeros(1, 3, *model.input_size, device=device)
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        model.predict(images, dataset)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])
