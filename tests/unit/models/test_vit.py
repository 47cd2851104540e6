"""The backbone against a second implementation written out in plain linear algebra."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.attention import attend
from posecore.models.backbones.vit import DropPath, Vit, VitConfig
from posecore.models.presets import PRESETS

CONFIG = VitConfig(embed_dim=24, depth=2, num_heads=3)
INPUT_SIZE = (48, 32)


def _randomised(config: VitConfig, input_size: tuple[int, int] = INPUT_SIZE) -> Vit:
    """Weights far from their initial values, so that no term can hide."""
    torch.manual_seed(0)
    model = config.build(input_size).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def _reference(
    weights: dict[str, Tensor], image: Tensor, num_heads: int, depth: int, windows: tuple[int, int] = (0, 0)
) -> Tensor:
    """One image (3, H, W) through patches cut by hand, heads looped over, softmax spelled out, other windows masked."""
    rows, columns = image.shape[1] // 16, image.shape[2] // 16
    padded = torch.zeros(3, image.shape[1] + 4, image.shape[2] + 4, dtype=image.dtype)
    padded[:, 2:-2, 2:-2] = image
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    tokens = []
    for row in range(rows):
        for column in range(columns):
            patch = padded[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].flatten()
            tokens.append(kernel @ patch + weights["patch_embed.proj.bias"])
    position = weights["pos_embed"][0]
    x = torch.stack(tokens) + position[1:] + position[0]
    learned = weights.get("knowledge_tokens", torch.zeros(0, x.shape[1], dtype=image.dtype))
    if "knowledge_adapter.weight" in weights:
        learned = learned @ weights["knowledge_adapter.weight"].T + weights["knowledge_adapter.bias"]
    x = torch.cat([x, learned])  # without a position
    width = x.shape[1]
    size = width // num_heads
    for i in range(depth):
        part = {k.removeprefix(f"blocks.{i}."): w for k, w in weights.items() if k.startswith(f"blocks.{i}.")}
        y = _layer_norm(x, part["norm1.weight"], part["norm1.bias"])
        projected = y @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]
        outputs = []
        for head in range(num_heads):
            query, key, value = (projected[:, s * width + head * size :][:, :size] for s in range(3))
            scores = (query * size**-0.5) @ key.T
            if windows[i]:
                window = [(t // columns // windows[i], t % columns // windows[i]) for t in range(rows * columns)]
                scores[torch.tensor([[a != b for b in window] for a in window])] = -torch.inf
            exponent = (scores - scores.max(1, keepdim=True).values).exp()
            outputs.append(exponent / exponent.sum(1, keepdim=True) @ value)
        x = x + torch.cat(outputs, 1) @ part["attn.proj.weight"].T + part["attn.proj.bias"]
        y = _layer_norm(x, part["norm2.weight"], part["norm2.bias"])
        hidden = y @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]
    x = _layer_norm(x, weights["last_norm.weight"], weights["last_norm.bias"])
    return x[: rows * columns].T.reshape(width, rows, columns)


@pytest.mark.parametrize(
    "tokens",
    [{}, {"knowledge_tokens": 1}, {"knowledge_tokens": 3, "knowledge_width": 10}],
    ids=["patches alone", "a knowledge token", "three of another width"],
)
def test_equals_plain_linear_algebra(tokens: dict[str, int]) -> None:
    model = _randomised(CONFIG.model_copy(update=tokens))
    images = torch.randn(2, 3, *INPUT_SIZE, dtype=torch.float64)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    expected = torch.stack([_reference(weights, image, CONFIG.num_heads, CONFIG.depth) for image in images])
    assert model(images).shape == (2, 24, 3, 2)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-10)


def test_equals_plain_linear_algebra_within_windows() -> None:
    config, images = CONFIG.model_copy(update={"window": 2, "global_blocks": 1}), torch.randn(2, 3, 64, 96).double()
    assert config.windowed == (True, False), "the last block attends to the whole image"
    model = _randomised(config, (64, 96))
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    expected = torch.stack([_reference(weights, image, config.num_heads, 2, (2, 0)) for image in images])
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-10)
    everywhere = CONFIG.build((64, 96)).double().eval()
    everywhere.load_state_dict(weights)
    assert (everywhere(images) - expected).abs().max() > 1e-3, "the same weights without windows say something else"


@pytest.mark.parametrize(
    ("depth", "count", "whole"),
    [(12, 4, [2, 5, 8, 11]), (24, 4, [5, 11, 17, 23]), (32, 4, [7, 15, 23, 31]), (5, 2, [1, 4]), (3, 0, [])],
)
def test_blocks_that_attend_to_the_whole_image_are_spread_evenly(depth: int, count: int, whole: list[int]) -> None:
    config = VitConfig(embed_dim=8, depth=depth, num_heads=2, window=4, global_blocks=count)
    assert [block for block, windowed in enumerate(config.windowed) if not windowed] == whole


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": 4, "global_blocks": 3}, "global_blocks 3 are more than the depth, 2"),
        ({"window": 4, "global_blocks": 1, "knowledge_tokens": 1}, "knowledge_tokens are of the whole image"),
    ],
)
def test_windows_that_cannot_be_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VitConfig.model_validate(CONFIG.model_dump() | changes)


def test_windows_must_tile_the_image() -> None:
    config = VitConfig(embed_dim=8, depth=2, num_heads=2, window=7, global_blocks=1)
    with pytest.raises(ValueError, match=r"\(512, 512\) is not a multiple of patch_size 16 times window 7"):
        config.build((512, 512))
    with pytest.raises(ConfigError, match="must be multiples of 112, as the backbone needs"):
        parse_config({"backbone": config, "input_size": [512, 512]}, ModelConfig, "model")


def test_patches_are_shifted_by_two_pixels() -> None:
    model = _randomised(CONFIG)
    images = torch.zeros(1, 3, *INPUT_SIZE, dtype=torch.float64)
    changed = images.clone()
    changed[..., -2:, :] = 1.0
    changed[..., :, -2:] = 1.0
    assert torch.equal(model(images), model(changed)), "the last two rows and columns lie beyond the last patch"
    changed[..., -3, :] = 1.0
    assert not torch.equal(model(images), model(changed))


@pytest.mark.parametrize(
    ("preset", "dense", "six_experts"),
    [("small", 21.66, 30.52), ("base", 85.79, 121.20), ("large", 303.30, 429.16), ("huge", 630.91, 893.11)],
)
def test_published_sizes(preset: str, dense: float, six_experts: float) -> None:
    config, with_experts = (PRESETS[f"{family}-{preset}"]["backbone"] for family in ("vitpose", "vitpose-plus"))
    assert with_experts == config.model_copy(update={"expert_share": 0.25})
    count, count_six = _num_parameters(config), _num_parameters(with_experts, tuple("abcdef"))
    width, depth = config.embed_dim, config.depth
    block = 12 * width**2 + 13 * width
    assert count == depth * block + (768 * width + width) + 193 * width + 2 * width
    assert count_six == count + depth * 5 * (width // 4) * (4 * width + 1)
    assert (round(count / 1e6, 2), round(count_six / 1e6, 2)) == (dense, six_experts)


def test_giant_has_about_a_billion() -> None:
    giant = PRESETS["vitpose-giant"]["backbone"]
    assert giant.hidden_dim == 6144
    assert 1.0e9 < _num_parameters(giant) < 1.02e9


def _num_parameters(config: VitConfig, tasks: tuple[str, ...] = ()) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build((256, 192), tasks).parameters())


def test_plain_positions_have_no_slot() -> None:
    with_slot = _randomised(CONFIG)
    plain = CONFIG.model_copy(update={"position": "plain"}).build(INPUT_SIZE).double().eval()
    weights = with_slot.state_dict()
    weights["pos_embed"] = weights["pos_embed"][:, 1:] + weights["pos_embed"][:, :1]
    plain.load_state_dict(weights)
    images = torch.randn(1, 3, *INPUT_SIZE, dtype=torch.float64)
    torch.testing.assert_close(plain(images), with_slot(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [8, 10])
def test_attention_in_bfloat16_stays_near_the_exact_one(size: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 192, size, dtype=torch.float64)
    exact = F.scaled_dot_product_attention(q, k, v)
    rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    fused = F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().mean() < 1.5 * (fused - exact).abs().mean()
    assert torch.equal(attend(q, k, v), exact), "other types take the fused kernel"


def test_small_has_twelve_heads_of_32() -> None:
    small = PRESETS["vitpose-small"]["backbone"]
    assert (small.num_heads, small.embed_dim // small.num_heads) == (12, 32)


def test_drop_path_rises_with_depth_and_keeps_the_mean() -> None:
    model = VitConfig(embed_dim=8, depth=3, num_heads=2, drop_path=0.4).build(INPUT_SIZE)
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])
    torch.manual_seed(0)
    drop = DropPath(0.4).train()
    out = drop(torch.ones(20_000, 2, 3))
    per_sample = out.flatten(1)
    assert torch.all(per_sample == per_sample[:, :1]), "a sample is dropped whole"
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (per_sample[:, 0] == 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    drop.eval()
    assert torch.equal(drop(torch.ones(3, 2, 3)), torch.ones(3, 2, 3))


@pytest.mark.parametrize("tokens", [{}, {"knowledge_tokens": 2, "knowledge_width": 8}])
def test_activation_checkpointing_changes_no_bit(tokens: dict[str, int]) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        changes = {"drop_path": 0.5, "activation_checkpointing": checkpointing}
        config = CONFIG.model_copy(update=changes | tokens)
        model = config.build(INPUT_SIZE).train()
        torch.manual_seed(1)
        model(torch.randn(3, 3, *INPUT_SIZE)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_knowledge_tokens_are_frozen_and_nothing_of_them_is_in_a_model_without() -> None:
    plain = CONFIG.build(INPUT_SIZE)
    told = CONFIG.model_copy(update={"knowledge_tokens": 2, "knowledge_width": 8}).build(INPUT_SIZE)
    added = {name: parameter for name, parameter in told.named_parameters() if name.startswith("knowledge_")}
    assert {name: (tuple(p.shape), p.requires_grad) for name, p in added.items()} == {
        "knowledge_tokens": ((2, 8), False),
        "knowledge_adapter.weight": ((24, 8), True),
        "knowledge_adapter.bias": ((24,), True),
    }
    assert [*plain.state_dict()] == [name for name in told.state_dict() if name not in added]
    assert all(parameter.requires_grad for parameter in plain.parameters())
    for changes in ({"knowledge_width": 8}, {"knowledge_tokens": 1, "knowledge_width": 24}):
        with pytest.raises(ValueError, match="of another width than embed_dim 24; leave it out"):
            VitConfig.model_validate(CONFIG.model_dump() | changes)


def test_initial_weights_follow_the_publication() -> None:
    torch.manual_seed(0)
    model = VitConfig(embed_dim=128, depth=1, num_heads=2).build((256, 192))
    weight = model.blocks[0].mlp.fc1.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.blocks[0].attn.qkv.bias.any()
    assert np.all(model.last_norm.weight.detach().numpy() == 1)


def test_input_size_must_be_whole_patches() -> None:
    with pytest.raises(ValueError, match="multiple of patch_size 16"):
        CONFIG.build((50, 32))
    with pytest.raises(ValueError, match="not a multiple of num_heads"):
        VitConfig(embed_dim=25, depth=1, num_heads=3)


def test_the_eps_of_every_norm_can_be_set() -> None:
    model = CONFIG.model_copy(update={"layer_norm_eps": 1e-12}).build(INPUT_SIZE)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-12}
    assert CONFIG.layer_norm_eps == 1e-6
