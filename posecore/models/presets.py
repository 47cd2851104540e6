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
from posecore.models.instance_norm_head import InstanceNormHeadConfig
from posecore.models.sapiens2 import Sapiens2Config
from posecore.models.vit import VitConfig


class Preset(TypedDict, total=False):
    """Fields of a :class:`~posecore.models.architecture.ModelConfig`."""

    backbone: BackboneConfig
    head: HeadConfig
    input_size: tuple[int, int]
    heatmap_sigma: float
    blur_kernel: int


def _sapiens2(backbone: Sapiens2Config, deconv: tuple[int, int], conv: tuple[int, int, int]) -> Preset:
    """Heads as in ``sapiens/pose/configs/keypoints308`` of facebookresearch/sapiens2 @ 3098c14."""
    side = 4 if backbone.tokenizer_depth else 1
    return {
        "backbone": backbone,
        "head": InstanceNormHeadConfig(deconv_channels=deconv, conv_channels=conv, initialisation="kaiming"),
        "input_size": (1024 * side, 768 * side),
        "heatmap_sigma": 6.0,
        "blur_kernel": 11,
    }


PRESETS: Mapping[str, Preset] = {
    "vit-nano": {"backbone": VitConfig(embed_dim=64, depth=2, num_heads=2)},
    "vit-micro": {"backbone": VitConfig(embed_dim=128, depth=4, num_heads=4)},
    "vit-tiny": {"backbone": VitConfig(embed_dim=192, depth=12, num_heads=12, drop_path=0.1)},
    "vitpose-small": {"backbone": VitConfig(embed_dim=384, depth=12, num_heads=12, drop_path=0.1)},
    "vitpose-base": {"backbone": VitConfig(embed_dim=768, depth=12, num_heads=12, drop_path=0.3)},
    "vitpose-large": {"backbone": VitConfig(embed_dim=1024, depth=24, num_heads=16, drop_path=0.5)},
    "vitpose-huge": {"backbone": VitConfig(embed_dim=1280, depth=32, num_heads=16, drop_path=0.55)},
    "sapiens2-0.1b": _sapiens2(Sapiens2Config(embed_dim=768, depth=12, num_heads=12), (1024, 768), (512, 512, 256)),
    "sapiens2-0.4b": _sapiens2(Sapiens2Config(embed_dim=1024, depth=24, num_heads=16), (1024, 768), (512, 512, 256)),
    "sapiens2-0.8b": _sapiens2(Sapiens2Config(embed_dim=1280, depth=32, num_heads=16), (1024, 768), (512, 512, 256)),
    "sapiens2-1b": _sapiens2(Sapiens2Config(embed_dim=1536, depth=40, num_heads=24), (1536, 1024), (768, 512, 256)),
    "sapiens2-5b": _sapiens2(Sapiens2Config(embed_dim=2432, depth=56, num_heads=32), (1024, 768), (512, 512, 256)),
    "sapiens2-1b-4k": _sapiens2(
        Sapiens2Config(embed_dim=1536, depth=40, num_heads=24, tokenizer_depth=4), (1536, 1024), (768, 512, 256)
    ),
}
