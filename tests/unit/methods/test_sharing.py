"""The word in a run file that decides what is shared."""

import pytest

from posecore.config import Config, parse_config
from posecore.errors import ConfigError
from posecore.methods.heads import ExpertsConfig, HeadsConfig
from posecore.methods.sharing import MethodConfig
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.vit import VitConfig


class _Job(Config):
    method: MethodConfig = HeadsConfig()


def test_a_name_is_enough_and_a_wrong_one_lists_the_right_ones():
    assert parse_config({"method": "experts"}, _Job, "job").method == ExpertsConfig()
    assert parse_config({"method": {"kind": "experts", "expert_share": 0.5}}, _Job, "job").method.expert_share == 0.5
    assert parse_config({"method": {"kind": "heads", "loss_weights": {"a": 2}}}, _Job, "job").method.factor("a") == 2


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("expert", "'expert'"),
        ({"kind": "head"}, "'head'"),
        ({"expert_share": 0.5}, "nothing"),
        (None, "nothing"),
        (3, "3"),
    ],
)
def test_a_wrong_method_is_refused_with_the_right_ones(given, named):
    with pytest.raises(ConfigError) as refusal:
        parse_config({"method": given}, _Job, "job")
    assert str(refusal.value).partition(" Did you")[0] == (
        f"job: method: {named} is none of heads, experts, prototypes; give one of these words, or "
        "{kind: word, field: other value}."
    )


def test_experts_change_the_backbone_only_where_it_has_none():
    dense = ModelConfig(backbone=VitConfig(embed_dim=64, depth=2, num_heads=2))
    assert HeadsConfig().architecture(dense) == dense
    assert ExpertsConfig().architecture(dense).backbone.expert_dim == 16, "a quarter, as published"
    shared = ExpertsConfig(expert_share=0.5).architecture(dense)
    assert shared.backbone == dense.backbone.model_copy(update={"expert_share": 0.5})
    assert ExpertsConfig().architecture(shared) == shared


def test_a_share_that_cuts_a_channel_is_refused():
    with pytest.raises(ConfigError, match=r"^method: experts: expert_share 0\.3 of embed_dim 64 is not a whole number"):
        ExpertsConfig(expert_share=0.3).architecture(
            ModelConfig(backbone=VitConfig(embed_dim=64, depth=2, num_heads=2))
        )


def test_a_convolutional_backbone_has_no_experts():
    model = ModelConfig(backbone=CspnextConfig(deepen=0.1, widen=0.125))
    with pytest.raises(ConfigError, match="cspnext has no such form"):
        ExpertsConfig().architecture(model)
