"""Tensors under the names, and with the shapes, of the files that Sapiens and Sapiens2 are published in.

Their values come from a formula, so that the published code can be given the same ones anywhere: the tensor of rank i
among the sorted names holds 0.2·sin(0.37 j² + i) at its flat position j, plus 1 if it is the weight of a norm.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

_NORMS = ("ln1.weight", "ln2.weight", "q_norm.weight", "k_norm.weight")
Shapes = dict[str, tuple[int, ...]]


def wave(shape: Sequence[int], phase: float) -> Tensor:
    """Float32 sin(0.37 j² + phase) over the flat positions j."""
    position = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(0.37 * position * position + phase).reshape(shape).astype(np.float32))


def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A tensor for every name, from the formula above."""
    tensors = {}
    for rank, name in enumerate(sorted(shapes)):
        position = np.arange(np.prod(shapes[name]), dtype=np.float64)
        values = 0.2 * np.sin(0.37 * position * position + rank) + name.endswith(_NORMS)
        tensors[name] = torch.from_numpy(values.reshape(shapes[name]).astype(np.float32))
    return tensors


def image(rows: int, columns: int, count: int = 1) -> Tensor:
    """(count, 3, rows, columns) pixels from the formula, phase 0.5."""
    return wave((count, 3, rows, columns), 0.5)


def sapiens_encoder(dim: int, depth: int, positions: int, prefix: str = "backbone.") -> Shapes:
    """Shapes of a Sapiens encoder's tensors.

    Args:
        dim: embedding width.
        depth: blocks.
        positions: rows of the positional embedding.
        prefix: before every name; empty in pre-training.
    """
    shapes: Shapes = {
        "pos_embed": (1, positions, dim),
        "patch_embed.projection.weight": (dim, 3, 16, 16),
        "patch_embed.projection.bias": (dim,),
        "ln1.weight": (dim,),
        "ln1.bias": (dim,),
    }
    for i in range(depth):
        for part, rows, columns in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("ffn.layers.0.0", 4 * dim, dim),
            ("ffn.layers.1", dim, 4 * dim),
        ):
            shapes |= {f"layers.{i}.{part}.weight": (rows, columns), f"layers.{i}.{part}.bias": (rows,)}
        for norm in ("ln1", "ln2"):
            shapes |= {f"layers.{i}.{norm}.{kind}": (dim,) for kind in ("weight", "bias")}
    return {prefix + name: shape for name, shape in shapes.items()}


def head(prefix: str, last: str, widths: Sequence[int], deconvolutions: int, outputs: int) -> Shapes:
    """Shapes of a decoder's tensors; the norms have none.

    Args:
        prefix: before every name.
        last: name of the last layer.
        widths: channels of the features, of every transposed convolution, then of every 1×1 convolution.
        deconvolutions: number of transposed convolutions.
        outputs: channels of the last layer.
    """
    shapes: Shapes = {f"{last}.weight": (outputs, widths[-1], 1, 1), f"{last}.bias": (outputs,)}
    for i, (before, after) in enumerate(pairwise(widths)):
        if i < deconvolutions:
            shapes[f"deconv_layers.{3 * i}.weight"] = (before, after, 4, 4)
        else:
            index = 3 * (i - deconvolutions)
            shapes |= {
                f"conv_layers.{index}.weight": (after, before, 1, 1),
                f"conv_layers.{index}.bias": (after,),
            }
    return {prefix + name: shape for name, shape in shapes.items()}


def sapiens2_encoder(
    dim: int, depth: int, num_heads: int, full_blocks: int = 8, tokenizer: int = 0, prefix: str = "backbone."
) -> Shapes:
    """Shapes of a Sapiens2 encoder's tensors but the rotation's periods, which are no weights.

    Args:
        dim: embedding width.
        depth: blocks.
        num_heads: query heads; the blocks in the middle have half as many key/value heads.
        full_blocks: blocks at either end with as many key/value heads as query heads.
        tokenizer: blocks of the tokenizer.
        prefix: before every name; empty in pre-training.
    """
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "storage_tokens": (1, 8, dim),
        "patch_embed.projection.weight": (dim, 3, 16, 16),
        "patch_embed.projection.bias": (dim,),
        "ln1.weight": (dim,),
    }
    for i in range(depth):
        is_full = i < full_blocks or i >= depth - full_blocks
        shapes |= _block(f"blocks.{i}.", dim, dim if is_full else dim // 2)
        shapes |= {f"blocks.{i}.attn.{norm}.weight": (dim // num_heads,) for norm in ("q_norm", "k_norm")}
        shapes[f"blocks.{i}.attn.gamma.weight"] = (dim,)
    if tokenizer:
        shapes |= {"tokenizer.w_cls": (1, 1, dim), "tokenizer.local_pos_embed": (1, 17, dim)}
        for i in range(tokenizer):
            shapes |= _block(f"tokenizer.blocks.{i}.", dim, dim)
    return {prefix + name: shape for name, shape in shapes.items()}


def _block(prefix: str, dim: int, keys: int) -> Shapes:
    shapes: Shapes = {f"{prefix}ln1.weight": (dim,), f"{prefix}ln2.weight": (dim,)}
    for part, rows, columns in (
        ("attn.wq", dim, dim),
        ("attn.wk", keys, dim),
        ("attn.wv", keys, dim),
        ("attn.proj", dim, dim),
        ("ffn.w12", 8 * dim, dim),
        ("ffn.w3", dim, 4 * dim),
    ):
        shapes |= {f"{prefix}{part}.weight": (rows, columns), f"{prefix}{part}.bias": (rows,)}
    return shapes
