"""Named architectures: a backbone and what was published with it, to be named as ``backbone: <preset>``.

A preset holds fields of :class:`~posecore.models.architecture.ModelConfig`; what a configuration leaves out is taken
from its preset, so that the head, the input size and the target's spread fit the backbone. ``vit-nano``, ``vit-micro``
and ``vit-tiny`` are ours, for tests, laptops and demonstrations; the others are published architectures.

Note that ``vitpose-small`` is not DeiT-S: it has 12 attention heads of 32 channels
(ViTAE-Transformer/ViTPose @ c050ed2, ``ViTPose_small_coco_256x192.py``). The layer-wise learning-rate decay published
with small, base, large and huge is 0.8, 0.75, 0.8 and 0.85.
"""

from collections.abc import Mapping
from typing import TypedDict

from posecore.models.backbones import BackboneConfig
from posecore.models.heads import HeadConfig
from posecore.models.vit import VitConfig


class Preset(TypedDict, total=False):
    """Fields of a :class:`~posecore.models.architecture.ModelConfig`."""

    backbone: BackboneConfig
    head: HeadConfig
    input_size: tuple[int, int]
    heatmap_sigma: float
    blur_kernel: int


PRESETS: Mapping[str, Preset] = {
    "vit-nano": {"backbone": VitConfig(embed_dim=64, depth=2, num_heads=2)},
    "vit-micro": {"backbone": VitConfig(embed_dim=128, depth=4, num_heads=4)},
    "vit-tiny": {"backbone": VitConfig(embed_dim=192, depth=12, num_heads=12, drop_path=0.1)},
    "vitpose-small": {"backbone": VitConfig(embed_dim=384, depth=12, num_heads=12, drop_path=0.1)},
    "vitpose-base": {"backbone": VitConfig(embed_dim=768, depth=12, num_heads=12, drop_path=0.3)},
    "vitpose-large": {"backbone": VitConfig(embed_dim=1024, depth=24, num_heads=16, drop_path=0.5)},
    "vitpose-huge": {"backbone": VitConfig(embed_dim=1280, depth=32, num_heads=16, drop_path=0.55)},
}
