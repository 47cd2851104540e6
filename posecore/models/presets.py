"""Named architectures: a backbone and what was published with it, to be named as ``backbone: <preset>``.

A preset holds fields of :class:`~posecore.models.architecture.ModelConfig`; what a configuration leaves out is taken
from its preset, so that the head, the input size, the target's spread and the conventions of heads fit the backbone.
``vit-nano``, ``vit-micro`` and ``vit-tiny`` are ours, for tests, laptops and demonstrations; the others are published
architectures. How they were trained: :mod:`posecore.training.recipes`.

Note that ``vitpose-small`` is not DeiT-S: it has 12 attention heads of 32 channels
(ViTAE-Transformer/ViTPose @ c050ed2, ``ViTPose_small_coco_256x192.py``).

``vitpose-plus-*`` have one expert per dataset of the model, any number. The share of 1/4 is that of the released
weights at every size; the published configuration of ``small`` says 192 channels, but its weights have 96.

``vitpose-giant`` stands for the ViTAE-G of the ViTPose paper, of which neither code nor weights were published.
Published are: about one billion parameters, input 576×432, drop path 0.55, layer decay 0.85. Width, depth, heads and
hidden width are not; they are those of the plain ViT-g of that size (arXiv 2106.04560, table 2). Sigma and blur are
scaled with the heatmap, from 2 and 11 at 64×48.

``rtmpose-*`` serve RTMPose and DWPose, which differ in their weights only, at 256×192 or, with ``input_size:
[384, 288]``, at the other published size.
"""

from collections.abc import Mapping
from typing import Literal, TypedDict

from posecore.conventions import HeadConventions
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.door import BackboneConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.door import HeadConfig
from posecore.models.heads.instance_norm import InstanceNormHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig


class Preset(TypedDict, total=False):
    """Fields of a :class:`~posecore.models.architecture.ModelConfig`."""

    backbone: BackboneConfig
    head: HeadConfig
    input_size: tuple[int, int]
    heatmap_sigma: float
    blur_kernel: int
    blur_border: Literal["mirror", "zero"]
    conventions: HeadConventions
    conventions_of: Mapping[str, HeadConventions]


UDP = HeadConventions()
"""Crops and maps measured between pixel centres, nothing shifted; Sapiens and Sapiens2, and our own presets."""
_MSRA = HeadConventions(codec="msra", flip_shift=True)
VITPOSE_CONVENTIONS: Mapping[str, HeadConventions] = {
    "coco": UDP,
    "aic": _MSRA,
    "mpii": HeadConventions(half_body_min_keypoints=None, center_jitter=False),
    "crowdpose": HeadConventions(codec="msra", flip_shift=True, half_body_min_keypoints=6),
    "ap10k": _MSRA,
    "apt36k": _MSRA,
    "coco_wholebody": _MSRA,
}
"""By dataset, how heads of ViTPose and ViTPose++ were trained (ViTAE-Transformer/ViTPose @ c050ed2, each set's own
configuration): only COCO and MPII are UDP, whatever ``_udp`` in the name of ViTPose++'s file says."""


def _sapiens(embed_dim: int, depth: int, num_heads: int) -> Preset:
    """As in ``pose/configs/sapiens_pose`` of facebookresearch/sapiens @ 3e829ac; the same head for 17, 133 or 308."""
    return {
        "backbone": VitConfig(embed_dim=embed_dim, depth=depth, num_heads=num_heads, position="plain"),
        "head": InstanceNormHeadConfig(deconv_channels=(768, 768), conv_channels=(768, 768)),
        "input_size": (1024, 768),
        "heatmap_sigma": 6.0,
        "blur_kernel": 11,
        "blur_border": "zero",
        "conventions": UDP,
    }


def _sapiens2(backbone: Sapiens2Config, deconv: tuple[int, int], conv: tuple[int, int, int]) -> Preset:
    """Heads as in ``sapiens/pose/configs/keypoints308`` of facebookresearch/sapiens2 @ 3098c14."""
    side = 4 if backbone.tokenizer_depth else 1
    return {
        "backbone": backbone,
        "head": InstanceNormHeadConfig(deconv_channels=deconv, conv_channels=conv, initialisation="kaiming"),
        "input_size": (1024 * side, 768 * side),
        "heatmap_sigma": 6.0,
        "blur_kernel": 11,
        "blur_border": "zero",
        "conventions": UDP,
    }


_SMALL = VitConfig(embed_dim=384, depth=12, num_heads=12, drop_path=0.1)
_BASE = VitConfig(embed_dim=768, depth=12, num_heads=12, drop_path=0.3)
_LARGE = VitConfig(embed_dim=1024, depth=24, num_heads=16, drop_path=0.5)
_HUGE = VitConfig(embed_dim=1280, depth=32, num_heads=16, drop_path=0.55)
_GIANT = VitConfig(embed_dim=1408, depth=40, num_heads=16, mlp_ratio=6144 / 1408, drop_path=0.55)


def _vitpose(backbone: VitConfig) -> Preset:
    """Crops of 256×192, maps of 64×48 (``ViTPose_*_coco_256x192.py``)."""
    return {
        "backbone": backbone,
        "input_size": (256, 192),
        "heatmap_sigma": 2.0,
        "blur_kernel": 11,
        "conventions": UDP,
        "conventions_of": VITPOSE_CONVENTIONS,
    }


def _rtmpose(deepen: float, widen: float) -> Preset:
    """``configs/*/rtmpose`` of open-mmlab/mmpose @ 759b39c; the conventions of every SimCC head."""
    return {"backbone": CspnextConfig(deepen=deepen, widen=widen), "head": RtmccHeadConfig()}


def _with_experts(backbone: VitConfig) -> VitConfig:
    return backbone.model_copy(update={"expert_share": 0.25})


PRESETS: Mapping[str, Preset] = {
    "vit-nano": {"backbone": VitConfig(embed_dim=64, depth=2, num_heads=2)},
    "vit-micro": {"backbone": VitConfig(embed_dim=128, depth=4, num_heads=4)},
    "vit-tiny": {"backbone": VitConfig(embed_dim=192, depth=12, num_heads=12, drop_path=0.1)},
    "vitpose-small": _vitpose(_SMALL),
    "vitpose-base": _vitpose(_BASE),
    "vitpose-large": _vitpose(_LARGE),
    "vitpose-huge": _vitpose(_HUGE),
    "vitpose-giant": {**_vitpose(_GIANT), "input_size": (576, 432), "heatmap_sigma": 4.5, "blur_kernel": 25},
    "vitpose-plus-small": _vitpose(_with_experts(_SMALL)),
    "vitpose-plus-base": _vitpose(_with_experts(_BASE)),
    "vitpose-plus-large": _vitpose(_with_experts(_LARGE)),
    "vitpose-plus-huge": _vitpose(_with_experts(_HUGE)),
    "rtmpose-t": _rtmpose(0.167, 0.375),
    "rtmpose-s": _rtmpose(0.33, 0.5),
    "rtmpose-m": _rtmpose(0.67, 0.75),
    "rtmpose-l": _rtmpose(1.0, 1.0),
    "rtmpose-x": _rtmpose(1.33, 1.25),
    "sapiens-0.3b": _sapiens(embed_dim=1024, depth=24, num_heads=16),
    "sapiens-0.6b": _sapiens(embed_dim=1280, depth=32, num_heads=16),
    "sapiens-1b": _sapiens(embed_dim=1536, depth=40, num_heads=24),
    "sapiens-2b": _sapiens(embed_dim=1920, depth=48, num_heads=32),
    "sapiens2-0.1b": _sapiens2(Sapiens2Config(embed_dim=768, depth=12, num_heads=12), (1024, 768), (512, 512, 256)),
    "sapiens2-0.4b": _sapiens2(Sapiens2Config(embed_dim=1024, depth=24, num_heads=16), (1024, 768), (512, 512, 256)),
    "sapiens2-0.8b": _sapiens2(Sapiens2Config(embed_dim=1280, depth=32, num_heads=16), (1024, 768), (512, 512, 256)),
    "sapiens2-1b": _sapiens2(Sapiens2Config(embed_dim=1536, depth=40, num_heads=24), (1536, 1024), (768, 512, 256)),
    "sapiens2-5b": _sapiens2(Sapiens2Config(embed_dim=2432, depth=56, num_heads=32), (1024, 768), (512, 512, 256)),
    "sapiens2-1b-4k": _sapiens2(
        Sapiens2Config(embed_dim=1536, depth=40, num_heads=24, tokenizer_depth=4), (1536, 1024), (768, 512, 256)
    ),
}

_SIDE_FIELDS = {
    "activation_checkpointing",
    "adapter_dim",
    "depth_input",
    "drop_path",
    "global_blocks",
    "knowledge_tokens",
    "knowledge_width",
    "layer_norm_eps",
    "patch_padding",
    "rope_dtype",
    "window",
}
"""Fields of a backbone that do not change which preset it is."""


def preset_of(backbone: BackboneConfig) -> str | None:
    """Name of the preset that a backbone is of, whatever is added to it or frozen in it; None for none."""
    shape = backbone.model_dump(exclude=_SIDE_FIELDS)
    names = (name for name, preset in PRESETS.items() if preset["backbone"].model_dump(exclude=_SIDE_FIELDS) == shape)
    return next(names, None)
