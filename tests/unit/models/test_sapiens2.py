"""The Sapiens2 backbone: published sizes, and what each of its peculiarities does."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from posecore.models.backbones.sapiens2 import Attention, Sapiens2, Sapiens2Config, rotate, rotation
from posecore.models.presets import PRESETS

TINY = Sapiens2Config(embed_dim=32, depth=3, num_heads=4, num_full_blocks=1, rope_dtype="float32")


def _randomised(config: Sapiens2Config) -> Sapiens2:
    torch.manual_seed(0)
    model = config.build((64, 48), ()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


@pytest.mark.parametrize(
    ("preset", "count", "tensors", "grouped"),
    [
        ("0.1b", 113_993_472, 209, 0),
        ("0.4b", 395_450_368, 413, 8),
        ("0.8b", 814_283_520, 549, 16),
        ("1b", 1_455_474_176, 685, 24),
        ("5b", 5_066_902_976, 957, 40),
        ("1b-4k", 1_606_588_928, 743, 24),
    ],
)
def test_published_sizes(preset: str, count: int, tensors: int, grouped: int) -> None:
    """The files hold one tensor more, the periods of the rotation, which is no weight."""
    config = PRESETS[f"sapiens2-{preset}"]["backbone"]
    with torch.device("meta"):
        model = config.build((1024, 768), ())
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert len(model.state_dict()) == tensors
    attention = [block.attn for block in model.blocks]
    assert [a.wk.out_features < a.wq.out_features for a in attention] == [
        8 <= block < 8 + grouped for block in range(config.depth)
    ]
    # In closed form: an attention with as many keys as queries, less half of keys and values where they are shared.
    width, head = config.embed_dim, config.embed_dim // config.num_heads
    attention_size = 4 * (width**2 + width)
    feed_forward = 12 * width**2 + 9 * width
    block_size = attention_size + feed_forward + 3 * width + 2 * head
    tokenizer = config.tokenizer_depth * (attention_size + feed_forward + 2 * width)
    pooling = 18 * width if config.tokenizer_depth else 0
    assert count == (
        config.depth * block_size - grouped * (width**2 + width) + 769 * width + 10 * width + tokenizer + pooling
    )


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 48), (16, 80), (48, 48)])
def test_any_size_of_whole_patches_is_taken(size: tuple[int, int]) -> None:
    model = _randomised(TINY)
    assert model(torch.randn(2, 3, *size)).shape == (2, 32, size[0] // 16, size[1] // 16)
    with pytest.raises(ValueError, match=r"\(64, 50\) pixels is not a multiple of 16"):
        model(torch.randn(1, 3, 64, 50))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # a slower way through RMSNorm
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_stay_in_their_own_precision_under_autocast(dtype: torch.dtype) -> None:
    model = _randomised(TINY.model_copy(update={"rope_dtype": "bfloat16"}))
    with torch.autocast("cpu", dtype):
        assert torch.isfinite(model(torch.randn(1, 3, 64, 48))).all()


@torch.no_grad()
def test_patches_are_not_padded() -> None:
    """Where the first patch begins: with padding its window would be shifted by as many pixels."""
    model = _randomised(TINY)
    image = torch.randn(1, 3, 16, 16)
    expected = (model.patch_embed.projection.weight * image).sum((1, 2, 3)) + model.patch_embed.projection.bias
    torch.testing.assert_close(model.patch_embed(image).flatten(), expected)


@torch.no_grad()
def test_registers_take_part_and_are_dropped() -> None:
    model = _randomised(TINY)
    image = torch.randn(1, 3, 32, 32)
    before = model(image)
    assert before.shape == (1, 32, 2, 2)
    for tokens in (model.cls_token, model.storage_tokens):
        kept = tokens.clone()
        tokens.add_(1)
        assert not torch.allclose(model(image), before, atol=1e-3)
        tokens.copy_(kept)
    assert torch.equal(model(image), before)


def test_neighbouring_query_heads_share_a_key() -> None:
    """Query head h uses key head h // 2; tiled instead of interleaved it would use h % 2."""
    torch.manual_seed(0)
    attention = Attention(32, num_heads=4, num_key_heads=2, encoder=True)
    full = Attention(32, num_heads=4, num_key_heads=4, encoder=True)
    state = attention.state_dict()
    for part in ("wk", "wv"):
        weight, bias = state[f"{part}.weight"].view(2, 8, 32), state[f"{part}.bias"].view(2, 8)
        state[f"{part}.weight"] = weight[[0, 0, 1, 1]].flatten(0, 1)
        state[f"{part}.bias"] = bias[[0, 0, 1, 1]].flatten()
    full.load_state_dict(state)
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(attention(x, None), full(x, None))


def test_queries_and_keys_are_normalised_before_they_are_rotated() -> None:
    """A weight that differs along the head's width does not commute with the rotation."""
    torch.manual_seed(0)
    attention = Attention(8, num_heads=1, num_key_heads=1, encoder=True).double()
    with torch.no_grad():
        attention.q_norm.weight.copy_(torch.arange(1.0, 9.0))
        attention.gamma.weight.fill_(1.0)
    by = tuple(part.double() for part in rotation((2, 2), 8, torch.float32))
    x = torch.randn(1, 4, 8, dtype=torch.float64)

    def normed(projected: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return projected / (projected.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    query = rotate(normed(attention.wq(x), attention.q_norm.weight)[:, None], by)
    key = rotate(normed(attention.wk(x), attention.k_norm.weight)[:, None], by)
    weights = (query @ key.mT / math.sqrt(8)).softmax(-1)
    expected = attention.proj((weights @ attention.wv(x)[:, None])[:, 0])
    torch.testing.assert_close(attention(x, by), expected)


def test_gate_is_the_first_half_and_only_attention_is_scaled() -> None:
    model = _randomised(TINY)
    block = model.blocks[0]
    x = torch.randn(1, 3, 32)
    gate, up = block.ffn.w12(x).split(128, dim=-1)
    torch.testing.assert_close(block.ffn(x), block.ffn.w3(gate * torch.sigmoid(gate) * up))
    with torch.no_grad():
        block.attn.gamma.weight.zero_()
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.ln2.weight
    torch.testing.assert_close(block(x), x + block.ffn(normed))
    fresh = TINY.build((64, 48), ())
    for name, parameter in fresh.named_parameters():
        if "gamma" in name:
            assert parameter.tolist() == pytest.approx([1e-4] * 32), name


def test_rotation_turns_each_axis_by_its_own_angle() -> None:
    """Row centres of a 2-row grid are at -½ and ½ of the half image, columns of a 4-column grid at ±¾ and ±¼."""
    sines, cosines = rotation((2, 4), 16, torch.float32)
    periods = [100 ** (i / 4) for i in range(4)]
    for patch, (row, column) in {0: (-0.5, -0.75), 3: (-0.5, 0.75), 5: (0.5, -0.25)}.items():
        angles = torch.tensor([2 * math.pi * place / period for place in (row, column) for period in periods] * 2)
        torch.testing.assert_close(sines[patch], angles.sin())
        torch.testing.assert_close(cosines[patch], angles.cos())
    quarter = (torch.ones(1, 16), torch.zeros(1, 16))
    x = torch.arange(32.0).view(1, 1, 2, 16)
    turned = rotate(x, quarter)
    assert torch.equal(turned[0, 0, 0], x[0, 0, 0]), "tokens before the patches are not turned"
    assert torch.equal(turned[0, 0, 1], torch.cat([-x[0, 0, 1, 8:], x[0, 0, 1, :8]]))


def test_rotation_keeps_the_precision_of_its_tokens() -> None:
    x = torch.randn(1, 1, 3, 8)
    for dtype in (torch.bfloat16, torch.float32):
        by = rotation((1, 2), 8, dtype)
        assert by[0].dtype == dtype
        assert rotate(x, by).dtype == torch.float32
        assert rotate(x.bfloat16(), by).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert rotation((1, 2), 8, torch.float32)[0].dtype == torch.float32


@torch.no_grad()
def test_tokenizer_pools_windows_apart_from_each_other() -> None:
    config = TINY.model_copy(update={"tokenizer_depth": 1})
    assert (config.stride, config.size_multiple) == (64, 64)
    model = _randomised(config)
    image = torch.randn(1, 3, 128, 192)
    patches = model.patch_embed(image)
    tokens = model.tokenizer(patches)
    assert tokens.shape == (1, 32, 2, 3)
    assert model(image).shape == (1, 32, 2, 3)
    for row, column in ((0, 0), (1, 2)):
        window = patches[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(model.tokenizer(window)[0, :, 0, 0], tokens[0, :, row, column])
    block = model.tokenizer.blocks[0]
    assert isinstance(block.attn.q_norm, nn.Identity)
    assert isinstance(block.attn.gamma, nn.Identity)
    with pytest.raises(ValueError, match="multiple of 64"):
        model(torch.randn(1, 3, 64, 48))


@torch.no_grad()
def test_many_windows_are_pooled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _randomised(TINY.model_copy(update={"tokenizer_depth": 1}))
    image = torch.randn(1, 3, 128, 192)
    whole = model(image)
    monkeypatch.setattr("posecore.models.backbones.sapiens2.WINDOWS_AT_ONCE", 4)
    torch.testing.assert_close(model(image), whole)


def test_activation_checkpointing_changes_no_bit() -> None:
    gradients = []
    for checkpointing in (False, True):
        config = TINY.model_copy(update={"tokenizer_depth": 1, "activation_checkpointing": checkpointing})
        model = _randomised(config).train()
        torch.manual_seed(1)
        model(torch.randn(1, 3, 64, 64)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        assert torch.equal(plain, recomputed)


def test_initial_weights_follow_the_publication() -> None:
    torch.manual_seed(0)
    config = Sapiens2Config(embed_dim=128, depth=1, num_heads=2, tokenizer_depth=1)
    for name, parameter in config.build((64, 64), ()).named_parameters():
        if name.endswith(".bias"):
            assert not parameter.any(), name
        elif parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.25), name
        elif "gamma" not in name:
            assert parameter.unique().tolist() == [1.0], name


def test_impossible_descriptions_are_refused() -> None:
    with pytest.raises(ValidationError, match="not a multiple of 4 times num_heads"):
        Sapiens2Config(embed_dim=36, depth=1, num_heads=4)
    with pytest.raises(ValidationError, match="not a multiple of queries_per_key"):
        Sapiens2Config(embed_dim=36, depth=1, num_heads=3)
