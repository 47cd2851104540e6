"""Small models in the shape of the published ones, and presets that recognise them."""

from collections.abc import Mapping, Sequence

import pytest
import torch

from posecore.conventions import Conventions
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel
from posecore.models.presets import PRESETS, VITPOSE_CONVENTIONS, Preset
from posecore.models.weights.published_heads import SKELETONS
from posecore.skeletons.library import load_skeleton

SIX = ("coco", "aic", "mpii", "ap10k", "apt36k", "coco_wholebody")
COCO = {"coco": load_skeleton("coco17")}
"""What is stated of a file with one head of 17 points, which does not say whose they are."""
HEAD = {"kind": "classic", "channels": 8}


def only_presets(monkeypatch: pytest.MonkeyPatch, presets: Mapping[str, Preset]) -> None:
    """Deleted from the last to the first, as what is deleted comes back in reverse, and messages list them in order."""
    for name in reversed(list(PRESETS)):
        monkeypatch.delitem(PRESETS, name)
    for name, preset in presets.items():
        monkeypatch.setitem(PRESETS, name, preset)


def add_tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` is dense, ``tiny-plus`` has experts; they stand in for the large presets, which take time to try."""
    dense = VitConfig(embed_dim=32, depth=2, num_heads=2)
    kept = {name: preset for name, preset in PRESETS.items() if name.startswith("vit-")}
    tiny = {"tiny": dense, "tiny-plus": dense.model_copy(update={"expert_share": 0.25})}
    added: dict[str, Preset] = {
        name: {"backbone": backbone, "conventions_of": VITPOSE_CONVENTIONS} for name, backbone in tiny.items()
    }
    only_presets(monkeypatch, kept | added)


def tiny_model(preset: str = "tiny", heads: Sequence[str] = ("coco",), **changes: object) -> PoseModel:
    """Every value different, BatchNorm statistics included, so that no mix-up of tensors goes unnoticed."""
    config = ModelConfig.model_validate(
        {"backbone": {"preset": preset}, "head": HEAD, "input_size": (64, 48), **changes}
    )
    card = ModelCard(
        architecture=config,
        skeletons={dataset: load_skeleton(SKELETONS[dataset]) for dataset in heads},
        conventions={dataset: Conventions() for dataset in heads},
    )
    model = PoseModel(card).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.05 + 0.1 * torch.rand(tensor.shape, generator=generator))
    return model
