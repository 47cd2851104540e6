"""Depth as a network sees it: relative within the crop, with what is not known told apart from what is far."""

import torch
from torch import Tensor

_LEAST_SPREAD_M = 0.01
_MOST_SPREADS = 3.0
NUM_DEPTH_CHANNELS = 2


def depth_channels(depth_BHW: Tensor) -> Tensor:
    """Distances to the two channels that a backbone with ``depth_input`` takes.

    The first is the distance relative to the crop's own mean, in units of its own standard deviation (at least a
    centimetre), cut at ± 3: cameras hang at any height, and bodies are of any size. The second is 1 where the distance
    is known. Both are 0 where it is not, so a crop without depth adds nothing to the picture.

    Args:
        depth_BHW: (B, H, W) float metres, 0 where not known.

    Returns:
        (B, 2, H, W) float32.
    """
    depth_BHW = depth_BHW.float()
    known_BHW = (depth_BHW > 0).float()
    count_B11 = known_BHW.sum((1, 2), keepdim=True).clamp(min=1.0)
    mean_B11 = depth_BHW.sum((1, 2), keepdim=True) / count_B11
    offset_BHW = (depth_BHW - mean_B11) * known_BHW
    spread_B11 = (offset_BHW.square().sum((1, 2), keepdim=True) / count_B11).sqrt().clamp(min=_LEAST_SPREAD_M)
    relative_BHW = (offset_BHW / spread_B11).clamp(-_MOST_SPREADS, _MOST_SPREADS)
    return torch.stack([relative_BHW, known_BHW], dim=1)
