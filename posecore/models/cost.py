"""What a model costs: exact parameters, and the arithmetic of one forward pass.

Both are counted on the real modules, which are built on PyTorch's ``meta`` device: no memory is taken and nothing is
computed, so the largest published model takes about a second.

Two units are in use for arithmetic. A **MAC** is one multiplication with its addition; papers on vision models call it
a "FLOP" (ViT-B at 256×192 is "17.1 GFLOPs", Sapiens-1B "4.647 TFLOPs"). Makers of hardware count the two operations,
and so do we wherever we say FLOPs: 1 MAC = 2 FLOPs. Matrix products, convolutions and attention count; element-wise
work does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from posecore.models.architecture import ModelConfig
from posecore.models.groups import Group
from posecore.models.outline import without_memory


@dataclass(frozen=True)
class PartCost:
    """A backbone or a head.

    Attributes:
        parameters: exact number.
        macs: multiply-accumulates of the forward pass of one crop.
    """

    parameters: int
    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the forward pass of one crop; 2 per MAC."""
        return 2 * self.macs


@dataclass(frozen=True)
class ModelCost:
    """A backbone and its heads.

    Attributes:
        backbone: runs once per crop.
        heads: by dataset; each runs on its own dataset's crops only.
    """

    backbone: PartCost
    heads: Mapping[str, PartCost]

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.backbone.parameters + sum(head.parameters for head in self.heads.values())

    @property
    def macs(self) -> float:
        """Multiply-accumulates per crop, forward; the mean over the heads."""
        return self.backbone.macs + sum(head.macs for head in self.heads.values()) / max(1, len(self.heads))

    @property
    def flops(self) -> float:
        """Floating-point operations per crop, forward; 2 per MAC."""
        return 2 * self.macs


def model_cost(config: ModelConfig, keypoints: Mapping[str, int]) -> ModelCost:
    """Counts a model that need not fit in memory, once in a process.

    Args:
        config: the architecture.
        keypoints: number of points by head; none counts the backbone alone, which then must not have experts.
    """
    described = (config.fingerprint(), *keypoints.items())
    if described not in _known:
        _known[described] = _model_cost(config, keypoints)
    return _known[described]


_known: dict[tuple[object, ...], ModelCost] = {}


def _model_cost(config: ModelConfig, keypoints: Mapping[str, int]) -> ModelCost:
    with without_memory():
        backbone, heads = build_parts(config, keypoints)
        images = torch.empty(1, 3, *config.input_size)
    groups: list[Group] = [(name, 0, 1) for name in keypoints][:1]
    backbone_macs, features = _counted(backbone, images, groups)
    return ModelCost(
        backbone=PartCost(count_parameters(backbone), backbone_macs),
        heads={name: PartCost(count_parameters(head), _counted(head, features)[0]) for name, head in heads.items()},
    )


def build_parts(config: ModelConfig, keypoints: Mapping[str, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Backbone and heads for given numbers of points, whose skeletons need not exist, on the current default device."""
    backbone = config.backbone.build(config.input_size, tuple(keypoints))
    heads: dict[str, nn.Module] = {
        name: config.head.build(backbone.num_features, number, config.feature_size, config.input_size)
        for name, number in keypoints.items()
        if name not in config.shared_heads
    }
    return backbone, heads


def count_parameters(module: nn.Module) -> int:
    """Parameters, trainable or not; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _counted(module: nn.Module, *inputs: object) -> tuple[int, Tensor]:
    module.eval()
    with FlopCounterMode(display=False) as counter:
        output = module(*inputs)
    return counter.get_total_flops() // 2, output
