"""How deep in a backbone a parameter lies; learning rates and the choice of what learns go by it."""

import re

_BACKBONE = re.compile(r"(?:^|\.)backbone\.(?:model\.)?(.+)$")  # a wrapped network of others is called model
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_EMBEDDINGS = ("pos_embed", "cls_token", "storage_tokens", "mask_token", "patch_embed.", "tokenizer.")
_STARTS_AT_ZERO = "patch_embed.depth_proj."


def in_backbone(name: str) -> str:
    """A parameter's name within the backbone, or "" if it is in none."""
    inside = _BACKBONE.search(name)
    return inside.group(1) if inside else ""


def block_index(name: str) -> int:
    """The 0-based block a parameter belongs to, or -1."""
    block = _BLOCK.match(in_backbone(name))
    return int(block.group(1)) if block else -1


def starts_at_zero(name: str) -> bool:
    """Whether a parameter of the backbone begins as zero in a model that was trained without it."""
    return in_backbone(name).startswith(_STARTS_AT_ZERO)


def layer_index(name: str, depth: int) -> int:
    """0 for embeddings, i + 1 for block i, depth + 1 for everything above, and for weights that start from nothing.

    Layer decay spares what a trained model knows; the projection of depth knows nothing yet, and at the pace of the
    embeddings (0.02 of the peak rate in a base model) it would not learn either.

    Args:
        name: of a parameter, ``…backbone.*`` or of a head.
        depth: number of blocks.
    """
    if starts_at_zero(name):
        return depth + 1
    if in_backbone(name).startswith(_EMBEDDINGS):
        return 0
    block = block_index(name)
    return block + 1 if block >= 0 else depth + 1
