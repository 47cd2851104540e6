import pytest
import torch

from posecore.methods.supervised import SupervisedHeads
from posecore.models.backbones.door import BackboneConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.presets import PRESETS
from posecore.training.optimizer import OptimizerConfig, parameter_groups
from posecore.training.torch_engine import set_learning_rates
from tests.support.tiny_training import tiny_model


def _scales(module: torch.nn.Module, config: OptimizerConfig) -> dict[str, tuple[float, float]]:
    """Parameter name to (lr scale, weight decay)."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(module, config)
        for parameter in group["params"]
    }


class _Holder(torch.nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = config.build((256, 192), ())


@pytest.mark.parametrize(
    ("preset", "rate", "expected"),
    [
        ("vitpose-base", 0.75, {"pos_embed": 0.0238, "blocks.0.": 0.0317, "blocks.11.": 0.75, "last_norm": 1.0}),
        ("vitpose-huge", 0.85, {"patch_embed": 0.0047, "blocks.31.": 0.85}),
        ("vitpose-huge", 0.80, {"patch_embed": 0.00063}),
    ],
)
def test_published_layer_decay(preset: str, rate: float, expected: dict[str, float]) -> None:
    with torch.device("meta"):
        holder = _Holder(PRESETS[preset]["backbone"])
    scales = _scales(holder, OptimizerConfig(layer_decay=rate))
    for part, scale in expected.items():
        found = {value for name, (value, _) in scales.items() if name.startswith(f"backbone.{part}")}
        assert len(found) == 1
        assert found.pop() == pytest.approx(scale, abs=0.5 * 10 ** -(len(str(scale)) - 2)), part


def test_everything_before_the_blocks_of_sapiens2_is_layer_zero() -> None:
    """Class and storage tokens decay, as published, because they are no vectors; only positions do not."""
    config = Sapiens2Config(embed_dim=8, depth=2, num_heads=2, tokenizer_depth=3)
    scales = _scales(_Holder(config), OptimizerConfig(layer_decay=0.5, weight_decay=0.1))
    for name, (scale, decay) in scales.items():
        part = name.removeprefix("backbone.")
        if part.startswith("blocks."):
            assert scale == 0.5 ** (2 - int(part.split(".")[1])), name
        else:
            assert scale == (1 if part.startswith("ln1") else 0.5**3), name
        is_matrix = part.endswith((".weight", "token", "tokens", "w_cls")) and not any(
            part.endswith(vector) for vector in ("ln1.weight", "ln2.weight", "norm.weight", "gamma.weight")
        )
        assert decay == (0.1 if is_matrix else 0.0), name
    assert scales["backbone.cls_token"] == scales["backbone.storage_tokens"] == (0.125, 0.1)
    assert scales["backbone.tokenizer.local_pos_embed"] == (0.125, 0.0)


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    method = SupervisedHeads(tiny_model())
    scales = _scales(method, OptimizerConfig(weight_decay=0.1))
    assert set(scales) == {name for name, _ in method.named_parameters()}
    for name, parameter in method.named_parameters():
        decayed = parameter.dim() > 1 and "pos_embed" not in name
        assert scales[name][1] == (0.1 if decayed else 0.0), name
        if name.startswith("model.heads."):
            assert scales[name][0] == 1.0


def test_frozen_parameters_are_left_out() -> None:
    method = SupervisedHeads(tiny_model())
    method.model.backbone.requires_grad_(False)
    scales = _scales(method, OptimizerConfig())
    assert scales
    assert all(name.startswith("model.heads.") for name in scales)


def test_rtmpose_decays_the_parameters_of_its_attention_but_no_norm_and_no_bias() -> None:
    with torch.device("meta"):
        head = RtmccHeadConfig().build(8, 3, (3, 2), (96, 64))
        holder = torch.nn.ModuleDict({"backbone": torch.nn.BatchNorm2d(4), "head": head})
    decayed = {"head.gau.gamma", "head.gau.beta", "head.gau.res_scale.scale", "head.gau.ln.g", "head.mlp.0.g"}
    spared = {"backbone.weight", "backbone.bias", "head.final_layer.bias"}
    scales = _scales(holder, OptimizerConfig(weight_decay=0.05, undecayed="norms_and_biases", layer_decay=1.0))
    assert {name for name, (_, decay) in scales.items() if decay == 0} == spared
    assert decayed < {name for name, (_, decay) in scales.items() if decay == 0.05}


def test_no_norm_is_decayed_whatever_its_kind() -> None:
    """Every normalisation layer that torch has with weights; RMSNorm is Sapiens2's."""
    norms = {
        "batch": torch.nn.BatchNorm2d(4),
        "group": torch.nn.GroupNorm(2, 4),
        "layer": torch.nn.LayerNorm(4),
        "rms": torch.nn.RMSNorm(4),
        "instance": torch.nn.InstanceNorm2d(4, affine=True),
    }
    scales = _scales(
        torch.nn.ModuleDict(norms), OptimizerConfig(weight_decay=0.05, undecayed="norms_and_biases", layer_decay=1.0)
    )
    assert {name for name, (_, decay) in scales.items() if decay} == set()


def test_rates_are_the_peak_times_layer_times_schedule_and_none_for_what_rests() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizer = torch.optim.AdamW([
        {"params": [weights[0]], "lr_scale": 1.0, "part": "head"},
        {"params": [weights[1]], "lr_scale": 0.5, "part": "backbone"},
        {"params": [weights[2]], "lr_scale": 0.25, "part": "neck"},
    ])  # fmt: skip
    set_learning_rates(optimizer, 0.1, 0.5, {"backbone"})
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.0, 0.0125])
