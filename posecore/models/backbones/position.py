"""Fitting a learned positional embedding to another grid of tokens, once, when weights are loaded."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.counting import counted


@torch.no_grad()
def resize_position_embedding(
    embedding: Tensor, grid: tuple[int, int], source_grid: tuple[int, int] | None = None
) -> Tensor:
    """Resamples the rows of the tokens bicubically; a class-token slot in front of them is kept as it is.

    Source: ViTAE-Transformer/ViTPose @ c050ed2, ``mmcv_custom/checkpoint.py`` (``align_corners=False``, no
    antialiasing), computed in float32 whatever the type. The published code takes every source for a square; here a
    source may be any grid.

    Args:
        embedding: (1, N, D) or, with a slot, (1, 1 + N, D).
        grid: (rows, columns) of the result.
        source_grid: (rows, columns) of the N tokens; None takes them for a square.

    Returns:
        (1, rows·columns, D), or one more with a slot, of the embedding's type; the embedding itself if nothing changes.

    Raises:
        ValueError: N is not the source grid's number of tokens, or not a square where none is given.
    """
    length = embedding.shape[1]
    rows, columns = source_grid or _square(length)
    slots = length - rows * columns
    if slots not in (0, 1):
        raise ValueError(
            f"a positional embedding of {counted(length, 'row')} does not belong to "
            f"{rows}×{counted(columns, 'token')}, class token or not."
        )
    if (rows, columns) == grid:
        return embedding
    image = embedding[:, slots:].float().transpose(1, 2).unflatten(2, (rows, columns))
    resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :slots], resized.flatten(2).transpose(1, 2).to(embedding.dtype)], dim=1)


def _square(length: int) -> tuple[int, int]:
    for tokens in (length, length - 1):
        side = math.isqrt(tokens)
        if side * side == tokens:
            return side, side
    raise ValueError(
        f"a positional embedding of {counted(length, 'row')} is not that of a square; say which grid it has."
    )
