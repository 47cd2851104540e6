"""What every strategy changes, and what it leaves alone to the last bit."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import nn

from posecore.errors import CheckpointError, ConfigError
from posecore.methods.adaptation import Adaptation, AdaptationConfig, AdaptationTerms
from posecore.methods.strategies import Roles, StrategyConfig, own_modules
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.low_rank import save_adapter
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder
from posecore.models.warm_start import warm_start
from posecore.models.weights.write import write_weights
from posecore.training.context import LocalContext
from posecore.training.ema import AverageConfig, WeightAverage
from posecore.training.engine import TorchEngineConfig
from posecore.training.optimizer import OptimizerConfig, parameter_groups
from tests.support.checkpoints import averaged
from tests.support.low_rank import merge_low_rank
from tests.support.tiny_training import (
    INPUT_SIZE,
    POINTS,
    Stopped,
    stop_at,
    tiny_adaptation,
    tiny_model,
    tiny_parent,
    tiny_training,
)

CPU = torch.device("cpu")
D, F, DEPTH, C, K, PEOPLE = 32, 128, 2, 8, POINTS["dogs"], POINTS["people"]
BLOCK = 2 * D + D * 3 * D + 3 * D + D * D + D + 2 * D + D * F + F + F * D + D
EMBEDDINGS = 3 * 16 * 16 * D + D + (1 + 4 * 3) * D
BACKBONE = EMBEDDINGS + DEPTH * BLOCK + 2 * D
BIASES = D + DEPTH * (D + 3 * D + D + D + F + D) + D  # patches; norm, qkv, proj, norm, fc1, fc2; last norm


def _head(points: int) -> int:
    return D * C * 16 + 2 * C + C * C * 16 + 2 * C + C * points + points


LINEARS = ((D, 3 * D), (D, D), (D, F), (F, D))
LOW_RANK = DEPTH * 4 * sum(fan_in + fan_out for fan_in, fan_out in LINEARS)
HEADS = _head(K) + _head(PEOPLE)
EMBEDDING = (D * 256 * 16 + 512) + (256 * 256 * 16 + 512)
EMBEDDING += (256 * 64 * 9 + 64) + 128 + (64 * 64 * 9 + 64) + 128 + 256 * 64 + 128
EMBEDDING += (64 * 64 * 9 + 64) + 128 + (64 * 64 + 64)
TARGET = r"heads\.dogs\."
TRAINED_HEADS = r"heads\.(dogs|people)\."

# strategy, fields of the parent, learning parameters, their number
CASES: list[tuple[Any, dict[str, Any], str, int]] = [
    ("full", {}, rf"backbone\.|{TRAINED_HEADS}", BACKBONE + HEADS),
    ("frozen-backbone", {}, TARGET, _head(K)),
    ({"kind": "last-n", "blocks": 1}, {}, rf"backbone\.(blocks\.1|last_norm)\.|{TRAINED_HEADS}", BLOCK + 2 * D + HEADS),
    ("bitfit", {}, rf"backbone\..*bias$|{TARGET}", BIASES + _head(K)),
    ({"kind": "lora", "rank": 4}, {}, rf".*\.lora_|{TARGET}", LOW_RANK + _head(K)),
    ({"kind": "dora", "rank": 4}, {}, rf".*\.lora_|{TARGET}", LOW_RANK + DEPTH * (3 * D + D + F + D) + _head(K)),
    ({"kind": "adapter", "width": 5}, {}, rf".*\.adapter\.|{TARGET}", DEPTH * (2 * D * 5 + 5 + D) + _head(K)),
    ("expert", {}, rf".*\.experts\.dogs\.|{TARGET}", DEPTH * (F * D // 4 + D // 4) + _head(K)),
    (
        "expert",
        {"expert_share": 0.25},
        rf".*\.experts\.dogs\.|{TARGET}",
        DEPTH * (F * D // 4 + D // 4) + _head(K),
    ),
    ("prototypes", {}, rf"embedding_head\.|{TARGET}", EMBEDDING + _head(K)),
    (
        {"kind": "prototypes", "rest": "trained"},
        {"embedding": EmbeddingConfig(dim=16, channels=8)},
        rf"backbone\.|{TRAINED_HEADS}",
        BACKBONE + HEADS,
    ),
    ("two-stage", {}, rf"backbone\.|{TRAINED_HEADS}", BACKBONE + HEADS),
]
IDS = [f"{case[0] if isinstance(case[0], str) else case[0]['kind']}-{number}" for number, case in enumerate(CASES)]


def _keeps_old(strategy: Any) -> bool:
    name = strategy if isinstance(strategy, str) else strategy["kind"]
    return name in ("frozen-backbone", "expert") or strategy == "prototypes"


def _adaptation(strategy: Any, **fields: Any) -> Adaptation:
    kept = () if _keeps_old(strategy) else ("people",)
    return tiny_adaptation(strategy, replayed=kept, **fields)


@pytest.mark.parametrize("strategy", [case[0] for case in CASES], ids=IDS)
def test_whatever_is_not_the_targets_own_may_be_forgotten(strategy: Any) -> None:
    config: StrategyConfig = TypeAdapter(StrategyConfig).validate_python(
        strategy if isinstance(strategy, dict) else {"kind": strategy}
    )
    assert config.touches_shared is (not _keeps_old(strategy))


def _train(method: Adaptation, folder: Path, strategy: Any, **changes: Any) -> None:
    datasets = ("dogs",) if _keeps_old(strategy) else ("people", "dogs")
    tiny_training(LocalContext(folder), TorchEngineConfig(), method=method, datasets=datasets, **changes)


@pytest.mark.parametrize(("strategy", "parent", "learning", "count"), CASES, ids=IDS)
def test_what_learns_changes_and_nothing_else_does(
    strategy: Any, parent: dict[str, Any], learning: str, count: int, tmp_path: Path
) -> None:
    method = _adaptation(strategy, drop_path=0.2, **parent)
    model, pattern = method.model, re.compile(learning)
    parameters = dict(model.named_parameters())
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert trainable == {name for name in parameters if pattern.match(name)}
    assert sum(parameters[name].numel() for name in trainable) == count

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _train(method, tmp_path, strategy, steps=4)
    after = model.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert trainable - changed <= {  # a bias before BatchNorm has no gradient but rounding errors
        name for name in trainable if re.match(r"embedding_head\.(neck\.conv\d|head\.0)\.bias", name)
    }
    moving = changed - trainable
    expected = {
        name
        for name, _ in model.named_buffers()
        if re.match(TRAINED_HEADS if "people" in learning else TARGET, name)
        or (name.startswith("embedding_head.") and "embedding" not in parent)
        or re.match(r"prototypes\.(dogs|people)" if "people" in learning else r"prototypes\.dogs", name)
    }
    assert moving == expected


@pytest.mark.parametrize(("strategy", "parent"), [case[:2] for case in CASES], ids=IDS)
def test_before_it_has_learned_the_child_says_what_the_parent_says(strategy: Any, parent: dict[str, Any]) -> None:
    child = _adaptation(strategy, **parent).model.eval()
    elder = tiny_parent(**parent).eval()
    images = torch.randn(2, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(5))
    for head in ("people", "horses"):
        torch.testing.assert_close(child.predict(images, head), elder.predict(images, head))


def test_an_experts_parent_keeps_every_answer_to_the_last_bit(tmp_path: Path) -> None:
    method = _adaptation("expert", expert_share=0.25)
    _train(method, tmp_path, "expert")
    child, elder = method.model.eval(), tiny_parent(expert_share=0.25).eval()
    images = torch.randn(2, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(5))
    for head in ("people", "horses"):
        assert torch.equal(child.predict(images, head), elder.predict(images, head))


@pytest.mark.parametrize(("strategy", "learns"), [("frozen-backbone", False), ("full", True)])
def test_drop_path_rests_with_the_backbone(strategy: str, learns: bool) -> None:
    model = _adaptation(strategy, drop_path=0.9).model.train()
    images = torch.randn(4, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(5))
    first, second = (model.features(images, [("dogs", 0, 4)]) for _ in range(2))
    assert torch.equal(first, second) is not learns


def test_only_the_upper_blocks_drop_paths_when_only_they_learn() -> None:
    model = _adaptation({"kind": "last-n", "blocks": 1}).model.train()
    assert [block.drop_path.training for block in model.backbone.blocks] == [False, True]


def test_layers_of_an_adapted_model_keep_their_learning_rates() -> None:
    method = _adaptation("lora")
    names = {parameter: name for name, parameter in method.named_parameters()}
    for group in parameter_groups(method, OptimizerConfig(layer_decay=0.5)):
        for parameter in group["params"]:
            name = names[parameter]
            scale = 1.0 if ".heads." in name else 0.5 if ".blocks.1." in name else 0.25
            assert group["lr_scale"] == scale, name
    upper = _adaptation({"kind": "last-n", "blocks": 1})
    assert {g["lr_scale"] for g in parameter_groups(upper, OptimizerConfig(layer_decay=0.5))} == {1.0, 0.5}


def test_the_head_comes_first_and_then_everything(tmp_path: Path) -> None:
    method = _adaptation({"kind": "two-stage", "backbone_from": 0.5})
    before = {name: tensor.clone() for name, tensor in method.model.state_dict().items()}

    def frozen_yet(step: int) -> None:
        same = all(
            torch.equal(tensor, before[name])
            for name, tensor in method.model.state_dict().items()
            if name.startswith("backbone.")
        )
        assert same is (step <= 4), step

    tiny_training(LocalContext(tmp_path), TorchEngineConfig(), method=method, before_step=frozen_yet, steps=8)


@pytest.mark.parametrize("strategy", ["two-stage", "dora"])
def test_a_stopped_run_ends_bit_for_bit_like_one_left_alone(strategy: str, tmp_path: Path) -> None:
    whole, stopped, resumed = (_adaptation(strategy, drop_path=0.2) for _ in range(3))
    _train(whole, tmp_path / "whole", strategy)
    with pytest.raises(Stopped):
        _train(stopped, tmp_path / "other", strategy, before_step=stop_at(5))
    _train(resumed, tmp_path / "other", strategy)
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def _learned(strategy: Any, **fields: Any) -> PoseModel:
    """A child whose updates are large."""
    model = _adaptation(strategy, **fields).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model.eval()


@pytest.mark.parametrize("parent", [{}, {"expert_share": 0.25}], ids=["dense", "experts"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_is_unmerged_and_the_files_are_pefts_own(kind: str, parent: dict[str, Any], tmp_path: Path) -> None:
    model = _learned(kind, **parent)
    images = torch.randn(3, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = {head: model.predict(images, head) for head in model.heads}
    elder = tiny_parent(**parent).eval().predict(images, "people")
    assert (expected["people"] - elder).abs().max() > 0.01
    save_adapter(model, tmp_path / "adapter", own_modules(model, Roles("dogs")), "models:/body/1")
    merge_low_rank(model)
    for head, answer in expected.items():
        torch.testing.assert_close(model.predict(images, head), answer, rtol=1e-5, atol=1e-5)
    read = load_model(save_model(model, tmp_path / "model"))
    assert torch.equal(read.predict(images, "dogs"), model.predict(images, "dogs"))

    from peft import PeftModel

    base = build_model(read.config, read.skeletons)
    warm_start(base, tiny_parent(**parent))
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    for head, answer in expected.items():
        with torch.no_grad():
            torch.testing.assert_close(loaded.base_model.model.predict(images, head), answer, rtol=1e-5, atol=1e-5)


def test_depth_that_the_parent_reads_already_is_as_frozen_as_the_rest() -> None:
    """It is the parent's, unlike in a child that is the first to read depth."""
    for new_depth in (False, True):
        model = tiny_model(depth_input=True)
        TypeAdapter(StrategyConfig).validate_python("lora").apply(model, Roles("dogs", new_depth=new_depth))
        assert model.backbone.patch_embed.depth_proj.weight.requires_grad is new_depth
        own = own_modules(model, Roles("dogs", new_depth=new_depth))
        assert ("backbone.patch_embed.depth_proj" in own) is new_depth


@pytest.mark.parametrize("strategy", ["full", {"kind": "last-n", "blocks": 1}, "bitfit", "lora", "adapter"], ids=str)
def test_a_child_learns_to_read_depth_that_its_parent_never_had(strategy: Any, tmp_path: Path) -> None:
    method = _adaptation(strategy, new_depth=True)
    model = method.model.eval()
    reads_depth = model.backbone.patch_embed.depth_proj.weight
    random = torch.Generator().manual_seed(5)
    images = torch.randn(3, 3, *INPUT_SIZE, generator=random)
    depth = 1 + 0.1 * torch.rand(3, *INPUT_SIZE, generator=random)
    elder = tiny_parent().eval().predict(images, "people")
    for given in (None, depth):
        assert torch.equal(model.predict(images, "people", depth=given), elder)
    assert reads_depth.requires_grad
    assert not reads_depth.any()

    _train(method, tmp_path, strategy, steps=4)
    model = method.model.eval()
    assert reads_depth.any()
    with torch.no_grad():
        assert not torch.equal(model.predict(images, "dogs", depth=depth), model.predict(images, "dogs"))
    if strategy == "lora":
        save_adapter(model, tmp_path / "adapter", own_modules(model, Roles("dogs", new_depth=True)), "models:/body/1")
        assert "base_model.model.backbone.patch_embed.depth_proj.weight" in load_file(
            tmp_path / "adapter" / "adapter_model.safetensors"
        )


def test_an_adapter_is_the_published_formula() -> None:
    model = _learned({"kind": "adapter", "width": 5})
    block = model.backbone.blocks[0]
    x = torch.randn(2, 12, D, generator=torch.Generator().manual_seed(5))
    after_attention = x + block.attn(block.norm1(x))
    down, up = block.adapter.down_proj, block.adapter.up_proj
    bottleneck = (after_attention @ down.weight.T + down.bias).clamp(min=0) @ up.weight.T + up.bias
    expected = after_attention + block.mlp(block.norm2(after_attention), ()) + 0.1 * bottleneck
    torch.testing.assert_close(block(x), expected)


def test_adapters_travel_with_the_model_and_go_on_learning_in_a_grandchild(tmp_path: Path) -> None:
    model = _learned({"kind": "adapter", "width": 5})
    read = load_model(save_model(model, tmp_path / "model"))
    images = torch.randn(2, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(5))
    assert torch.equal(read.predict(images, "dogs"), model.predict(images, "dogs"))
    grandchild = build_model(model.config, model.skeletons)
    warm_start(grandchild, read)
    torch.testing.assert_close(grandchild.eval().predict(images, "dogs"), model.predict(images, "dogs"))
    plain = build_model(tiny_parent().config, model.skeletons)
    with pytest.raises(ConfigError, match="adapters are 5 wide, the model's 0; set adapter_dim to 5"):
        warm_start(plain, read)


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ({"kind": "last-n", "blocks": 3}, "3 blocks cannot learn, for the backbone has 2 blocks"),
        ({"kind": "last-n", "blocks": 0}, "greater than 0"),
        ("lorra", "lora"),
    ],
)
def test_what_cannot_be_is_said(strategy: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_adaptation(strategy)


def _adaptation_to_dogs(strategy: Any) -> AdaptationConfig:
    terms = AdaptationTerms.model_validate({"strategy": strategy})
    return AdaptationConfig(terms=terms, roles=Roles("dogs"), parent=ModelFolder(source="nowhere"))


@pytest.mark.parametrize("strategy", ["lora", "adapter", "expert", {"kind": "last-n", "blocks": 1}])
def test_convolutional_backbones_say_what_they_can_do_instead(strategy: Any) -> None:
    config = ModelConfig(
        backbone=CspnextConfig(deepen=0.1, widen=0.1),
        head=RtmccHeadConfig(token_dim=16, attention_dim=8),
        input_size=(64, 64),
    )
    adaptation = _adaptation_to_dogs(strategy)
    with pytest.raises(ConfigError, match=r"strategy(\.blocks)?: |method: experts"):
        adaptation.build(build_model(adaptation.architecture(config), {"dogs": tiny_parent().skeletons["people"]}))


def test_a_convolutional_backbone_keeps_its_statistics_while_biases_learn() -> None:
    config = ModelConfig(
        backbone=CspnextConfig(deepen=0.1, widen=0.1),
        head=RtmccHeadConfig(token_dim=16, attention_dim=8),
        input_size=(64, 64),
    )
    model = build_model(config, {"dogs": tiny_parent().skeletons["people"]})
    method = _adaptation_to_dogs("bitfit").build(model)
    before = {name: buffer.clone() for name, buffer in method.model.backbone.named_buffers()}
    method.train()
    method.model.features(torch.randn(2, 3, 64, 64), [("dogs", 0, 2)])
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.model.backbone.named_buffers())


@pytest.mark.parametrize("strategy", ["lora", "dora"])
def test_sapiens2_has_layers_for_low_rank_updates(strategy: str) -> None:
    backbone = Sapiens2Config(embed_dim=8, depth=2, num_heads=2, tokenizer_depth=1).build((64, 64), ())
    model = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict({"dogs": nn.Conv2d(8, 3, 1)})}).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    before = backbone(images, [])
    TypeAdapter(StrategyConfig).validate_python(strategy).apply(model, Roles("dogs"))
    torch.testing.assert_close(backbone(images, []), before)
    updated = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert updated == {
        f"backbone.blocks.{block}.{layer}"
        for block in range(2)
        for layer in ("attn.wq", "attn.wk", "attn.wv", "attn.proj", "ffn.w12", "ffn.w3")
    }
    merge_low_rank(model)
    torch.testing.assert_close(backbone(images, []), before)


def test_a_moving_average_leaves_what_is_frozen_alone() -> None:
    method = _adaptation("lora")
    average = WeightAverage(method, AverageConfig(momentum=0.1, warmup=0))
    average.update(method)
    first = averaged(average)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    average.update(method)
    learns = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in method.named_parameters()} & averaged(average).keys() == learns
    for name in learns:
        moved = averaged(average)[name] - first[name]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.1))


def test_what_has_no_place_in_a_published_file_is_not_written_into_one(tmp_path: Path) -> None:
    model = _adaptation("adapter").model
    with pytest.raises(CheckpointError, match="no place for adapters"):
        write_weights(model, "vitpose", tmp_path / "x.pth")
