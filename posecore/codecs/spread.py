"""What codecs share that say how blurred an output is around the point that was found."""

import torch
from torch import Tensor

REACH = 4.0
"""Sigmas of the drawn target to each side of a point within which its output is looked at."""
ROUNDED = 1 / 12
"""Variance of a place that is known to a pixel of the frame: that of the uniform distribution over one."""


def second_moments(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(…, 2, 2) sums of offsets in x and y, squared and multiplied, by weights.

    Args:
        weights: (…, h, w).
        x: (…, w) offsets of the columns.
        y: (…, h) offsets of the rows.
    """
    columns, rows = weights.sum(dim=-2), weights.sum(dim=-1)
    mixed = ((weights * x[..., None, :]).sum(dim=-1) * y).sum(dim=-1)
    parts = [(columns * x**2).sum(dim=-1), mixed, mixed, (rows * y**2).sum(dim=-1)]
    return torch.stack(parts, dim=-1).unflatten(-1, (2, 2))


def at_least(matrices: Tensor, least: float) -> Tensor:
    """The nearest symmetric matrices whose eigenvalues are at least ``least``.

    Args:
        matrices: (..., 2, 2), symmetric.
        least: a positive number.
    """
    middle = (matrices[..., 0, 0] + matrices[..., 1, 1]) / 2
    half = torch.hypot((matrices[..., 0, 0] - matrices[..., 1, 1]) / 2, matrices[..., 0, 1])
    high, low = (middle + half).clamp(min=least), (middle - half).clamp(min=least)
    shrunk = torch.where(half > 0, (high - low) / 2 / half.clamp(min=torch.finfo(half.dtype).tiny), 0.0)
    identity = torch.eye(2, dtype=matrices.dtype, device=matrices.device)
    apart = matrices - middle[..., None, None] * identity
    return ((high + low) / 2)[..., None, None] * identity + shrunk[..., None, None] * apart
