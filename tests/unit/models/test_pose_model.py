import math

import pytest
import torch

from posecore.config import parse_config
from posecore.conventions import Conventions
from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.groups import Group
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.pose_model import HeadStatistics, build_model
from posecore.models.presets import PRESETS
from tests.support.tiny_training import INPUT_SIZE, tiny_model


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(0))


def test_every_head_sees_its_own_rows_only() -> None:
    model = tiny_model().eval()
    images = _images(4)
    heatmaps = model(images, [("people", 0, 3), ("dogs", 3, 4)])
    assert heatmaps["people"].shape == (3, 5, 16, 12)
    assert heatmaps["dogs"].shape == (1, 7, 16, 12)
    torch.testing.assert_close(heatmaps["people"], model.predict(images[:3], "people"))
    torch.testing.assert_close(heatmaps["dogs"], model.predict(images[3:], "dogs"))


def test_an_empty_slice_gives_zero_gradients_and_leaves_statistics_alone() -> None:
    model = tiny_model(drop_path=0.0).train()
    before = {name: buffer.clone() for name, buffer in model.heads["dogs"].named_buffers()}
    heatmaps = model(_images(2), [("people", 0, 2), ("dogs", 2, 2)])
    assert heatmaps["dogs"].shape == (0, 7, 16, 12)
    (heatmaps["people"].square().sum() + heatmaps["dogs"].square().sum()).backward()
    for parameter in model.heads["dogs"].parameters():
        assert parameter.grad is not None, "under ZeRO-3 every rank must reduce every gradient"
        assert not parameter.grad.any()
    for name, buffer in model.heads["dogs"].named_buffers():
        assert torch.equal(buffer, before[name])
    assert all(module.training for module in model.modules())


def test_mixed_statistics_see_all_datasets() -> None:
    def running_mean(groups: list[Group], statistics: HeadStatistics) -> torch.Tensor:
        torch.manual_seed(0)
        model = tiny_model(drop_path=0.0).train()
        heatmaps = model(_images(4), groups, statistics)
        assert len(heatmaps["people"]) == groups[0][2]
        return model.heads["people"].deconv_layers[1].running_mean

    both: list[Group] = [("people", 0, 3), ("dogs", 3, 4)]
    everyone = running_mean([("people", 0, 4)], "own")
    torch.testing.assert_close(running_mean(both, "mixed"), everyone)
    assert not torch.allclose(running_mean(both, "own"), everyone)


def test_a_preset_may_be_named_and_changed() -> None:
    config = parse_config({"backbone": "vitpose-small"}, ModelConfig, "test")
    assert config.backbone == PRESETS["vitpose-small"]["backbone"]
    assert config.heatmap_size == (64, 48)
    changed = parse_config({"backbone": {"preset": "vitpose-small", "drop_path": 0.0}}, ModelConfig, "test")
    assert changed.backbone.embed_dim == 384
    assert changed.backbone.drop_path == 0.0
    with pytest.raises(ConfigError, match=r"no backbone preset is called 'vit-smal'\. Did you mean vitpose-small\?"):
        parse_config({"backbone": "vit-smal"}, ModelConfig, "test")
    with pytest.raises(ConfigError, match="input_size"):
        parse_config({"backbone": "vitpose-small", "input_size": [250, 192]}, ModelConfig, "test")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("backbone", {"preset": []}, "no backbone preset is called"),
        ("input_size", 256, "input_size: Input should be a valid tuple"),
        ("input_size", {}, "input_size: Input should be a valid tuple"),
        ("input_size", [math.inf, 192], r"input_size\.0: Input should be a finite number"),
        ("input_size", ["tall", 192], r"input_size\.0: Input should be a valid integer"),
        ("conventions", 1.5, "conventions are fields with values, .* not 1.5"),
        ("conventions", "", "conventions are fields with values, .* not ''"),
        ("conventions_of", True, "conventions are fields with values, .* not True"),
        ("conventions_of", {"dogs": ["x"]}, r"conventions are fields with values, .* not \['x'\]"),
    ],
)
def test_what_a_preset_cannot_take_over_is_one_sentence(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"backbone": "vitpose-small", field: value}, ModelConfig, "test")


def test_sizes_in_quotes_are_sizes() -> None:
    quoted = parse_config({"backbone": "vitpose-small", "input_size": ["512", "384"]}, ModelConfig, "test")
    assert quoted == parse_config({"backbone": "vitpose-small", "input_size": [512, 384]}, ModelConfig, "test")


def test_shared_heads_need_the_same_points() -> None:
    people = tiny_model().skeletons["people"]
    dogs = tiny_model().skeletons["dogs"]
    config = ModelConfig(
        backbone="vit-nano", head=SimpleHeadConfig(), input_size=INPUT_SIZE, shared_heads={"infants": "people"}
    )
    model = build_model(config, {"people": people, "infants": people})
    assert set(model.heads) == {"people"}
    assert model.head("infants") is model.head("people")
    with pytest.raises(ConfigError, match="its points are not those of 'people'"):
        build_model(config, {"people": people, "infants": dogs})
    with pytest.raises(ConfigError, match="'people' has no head of its own"):
        build_model(config, {"infants": people})


def test_every_dataset_keeps_its_own_codec() -> None:
    skeletons = tiny_model().skeletons
    config = ModelConfig(backbone="vit-nano", input_size=(256, 192))
    model = build_model(config, skeletons, {"dogs": Conventions(codec="msra", flip_shift=True)})
    assert model.codec("people").kind == "udp"
    assert model.codec("dogs").kind == "msra"
    assert model.codec("dogs").heatmap_size == (64, 48)
    assert model.conventions["dogs"].flip_shift


@pytest.mark.parametrize("expert_share", [0.0, 0.25])
def test_a_dataset_that_the_model_does_not_know_is_refused_wherever_it_is_named(expert_share: float) -> None:
    model = tiny_model(expert_share=expert_share).eval()
    images = _images(2)
    features = model.features(images, [("dogs", 0, 2)])
    for ask in (
        lambda: model.predict(images, "cats"),
        lambda: model.features(images, [("people", 0, 1), ("cats", 1, 2)]),
        lambda: model(images, [("cats", 0, 2)]),
        lambda: model.heatmaps(features, "cats"),
    ):
        with pytest.raises(ConfigError, match=r"^the model knows no dataset 'cats', .* it knows people, dogs\.$"):
            ask()


@pytest.mark.parametrize("name", ["a.b", "", "keys", "training", "type"])
def test_a_dataset_that_torch_cannot_name_a_head_after_is_refused(name: str) -> None:
    people = tiny_model().skeletons["people"]
    with pytest.raises(ConfigError, match="torch cannot call a head so"):
        build_model(ModelConfig(backbone="vit-nano", input_size=INPUT_SIZE), {"people": people, name: people})
