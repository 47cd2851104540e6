"""The Sapiens2 backbone (arXiv 2604.21681): a vision transformer with rotary positions and registers.

What differs from :mod:`posecore.models.backbones.vit`, none of it visible in the shape of the output: RMSNorm instead
of LayerNorm, a gated feed-forward part whose gate is the first half of ``w12``, queries and keys normalised before they
are rotated, one key/value head for two query heads in the middle blocks, layer scale on the attention branch alone,
no positional embedding, and a class and eight storage tokens that take part in every block and are dropped at the end.

The published code computes the rotation in bfloat16, angles and trigonometry included; ``rope_dtype: float32`` is the
exact rotation, as in Hugging Face's port. Parameter names are those of facebookresearch/sapiens2 @ 3098c14,
``sapiens/backbones/standalone/sapiens2.py``.

Suffix legend: B images (or windows), C colour channels, H W pixel rows and columns, h w token rows and columns,
P = h·w patch tokens, T = 9 + P tokens, D embedding width, N query heads, G key/value heads, E = D / N.
"""

import math
from collections.abc import Sequence
from typing import Literal, Self, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posecore.models.backbone import Backbone, BackboneModule
from posecore.models.backbones.attention import attend
from posecore.models.bounds import MAX_DEPTH, MAX_PATCH_PX, MAX_RATIO, MAX_TOKENS, MAX_WIDTH
from posecore.models.groups import Group

RMS_NORM_EPS = 1e-6
ROPE_BASE = 100.0
LAYER_SCALE = 1e-4
WINDOW = 4
"""Side, in patches, of the windows that the tokenizer turns into one token each."""
WINDOWS_AT_ONCE = 1024
"""The tokenizer works through this many windows at a time: a 4096×3072 image has 3072."""

RopeDtype: TypeAlias = Literal["bfloat16", "float32"]
Rotation: TypeAlias = tuple[Tensor, Tensor]
"""(P, E) sines and cosines of every patch's angles, or (B, 1, P, E) where every image has patches of its own."""


class Sapiens2Config(Backbone):
    """A Sapiens2 encoder.

    Attributes:
        kind: names this backbone.
        embed_dim: D.
        depth: number of blocks.
        num_heads: N; must divide D, and E = D / N must be a multiple of 4.
        mlp_ratio: hidden width of the feed-forward part, as a multiple of D.
        num_full_blocks: so many blocks at either end have a key/value head per query head.
        queries_per_key: query heads that share a key/value head in the blocks between; must divide N.
        num_storage_tokens: learned tokens beside the class token.
        tokenizer_depth: blocks of the tokenizer that pools 4×4 patches into one token before the encoder; 0 is
            without, as in every model but those for 4096×3072 pixels.
        rope_dtype: arithmetic of the rotation; published weights were trained with bfloat16.
        patch_size: side of a patch in pixels; patches touch and the image is not padded.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    kind: Literal["sapiens2"] = "sapiens2"
    embed_dim: int = Field(gt=0, le=MAX_WIDTH)
    depth: int = Field(gt=0, le=MAX_DEPTH)
    num_heads: int = Field(gt=0, le=MAX_WIDTH)
    mlp_ratio: float = Field(default=4.0, gt=0, le=MAX_RATIO)
    num_full_blocks: int = Field(default=8, ge=0, le=MAX_DEPTH)
    queries_per_key: int = Field(default=2, gt=0, le=MAX_WIDTH)
    num_storage_tokens: int = Field(default=8, ge=0, le=MAX_TOKENS)
    tokenizer_depth: int = Field(default=0, ge=0, le=MAX_DEPTH)
    rope_dtype: RopeDtype = "bfloat16"
    patch_size: int = Field(default=16, gt=0, le=MAX_PATCH_PX)
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4 times num_heads {self.num_heads}.")
        if self.num_heads % self.queries_per_key:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of queries_per_key {self.queries_per_key}.")
        return self

    @property
    def stride(self) -> int:
        """Input pixels per feature pixel, in each direction."""
        return self.patch_size * (WINDOW if self.tokenizer_depth else 1)

    @property
    def size_multiple(self) -> int:
        """Height and width of the input must be multiples of this."""
        return self.stride

    def num_key_heads(self, block: int) -> int:
        """G of a block of the encoder."""
        is_full = block < self.num_full_blocks or block >= self.depth - self.num_full_blocks
        return self.num_heads if is_full else self.num_heads // self.queries_per_key

    def exact(self) -> Self:
        """With rotations in float32."""
        return self.model_copy(update={"rope_dtype": "float32"})

    def build(self, input_size: tuple[int, int], tasks: Sequence[str]) -> "Sapiens2":
        """A freshly initialised backbone; it takes any input size, and has nothing that belongs to a task."""
        return Sapiens2(self)


def rotation(grid: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device | None = None) -> Rotation:
    """Sines and cosines of two-dimensional axial rotary positions.

    The centres of the patches lie in [-1, 1] in each direction, whatever the size of the grid. The first quarter of
    the E angles turns with the row, the second with the column, and the second half repeats the first.

    Args:
        grid: rows and columns of patches.
        head_dim: E, a multiple of 4.
        dtype: every intermediate result is rounded to it. In bfloat16 the centres lose their half pixel above 128
            rows, and neighbouring angles of fine grids fall together: trained weights expect that.
        device: of the result.
    """
    with _own_precision(device):
        rows, columns = (2 * (torch.arange(0.5, n, dtype=dtype, device=device) / n) - 1 for n in grid)
        centers = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        periods = rotation_periods(head_dim, dtype).to(device)
        angles = (2 * math.pi * centers[:, :, None] / periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


def rotation_periods(head_dim: int, dtype: torch.dtype) -> Tensor:
    """(E / 4,) periods of the angles, in units of half the image, each step rounded to ``dtype``."""
    exponents = 2 * torch.arange(head_dim // 4, dtype=dtype) / (head_dim // 2)
    return (ROPE_BASE ** exponents.float()).to(dtype)


def rotate(x_BNTE: Tensor, by: Rotation) -> Tensor:
    """Turns the last P tokens by their angles, in the precision of the angles, and leaves the tokens before alone."""
    sin_PE, cos_PE = by
    num_patches = sin_PE.shape[-2]
    prefix_BNTE, x_BNPE = x_BNTE.split([x_BNTE.shape[2] - num_patches, num_patches], dim=2)
    x_BNPE = x_BNPE.to(sin_PE.dtype)
    first, second = x_BNPE.chunk(2, dim=-1)
    with _own_precision(x_BNTE.device):
        x_BNPE = x_BNPE * cos_PE + torch.cat([-second, first], dim=-1) * sin_PE
        # The published code sends the prefix through the same precision.
        return torch.cat([prefix_BNTE.to(sin_PE.dtype), x_BNPE], dim=2).to(x_BNTE.dtype)


def _own_precision(device: torch.device | None) -> torch.autocast:
    """Autocast to float16 would refuse what is bfloat16 already."""
    return torch.autocast("cpu" if device is None or device.type == "meta" else device.type, enabled=False)


class LayerScale(nn.Module):
    """Multiplies every channel by its own learned factor."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each channel on its own."""
        return x_BTD * self.weight


class Attention(nn.Module):
    """Self-attention in which G key/value heads serve N query heads, N / G neighbouring ones each.

    Args:
        dim: D.
        num_heads: N.
        num_key_heads: G.
        encoder: whether queries and keys are normalised and the output is scaled; the tokenizer does neither.
    """

    def __init__(self, dim: int, num_heads: int, num_key_heads: int, encoder: bool) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.num_heads, self.num_key_heads = num_heads, num_key_heads
        self.wq = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, num_key_heads * head_dim)
        self.wv = nn.Linear(dim, num_key_heads * head_dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm = RmsNorm(head_dim, eps=RMS_NORM_EPS) if encoder else nn.Identity()
        self.k_norm = RmsNorm(head_dim, eps=RMS_NORM_EPS) if encoder else nn.Identity()
        self.gamma = LayerScale(dim) if encoder else nn.Identity()

    def forward(self, x_BTD: Tensor, by: Rotation | None) -> Tensor:
        """Every token attends to every token of its image; the order is project, normalise, rotate, share."""
        q_BNTE = self.q_norm(self.wq(x_BTD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2))
        k_BGTE = self.k_norm(self.wk(x_BTD).unflatten(-1, (self.num_key_heads, -1)).transpose(1, 2))
        v_BGTE = self.wv(x_BTD).unflatten(-1, (self.num_key_heads, -1)).transpose(1, 2)
        if by is not None:
            q_BNTE, k_BGTE = rotate(q_BNTE, by), rotate(k_BGTE, by)
        shared = self.num_heads // self.num_key_heads
        k_BNTE, v_BNTE = k_BGTE, v_BGTE
        if shared > 1:
            k_BNTE, v_BNTE = k_BGTE.repeat_interleave(shared, dim=1), v_BGTE.repeat_interleave(shared, dim=1)
        y_BNTE = attend(q_BNTE, k_BNTE, v_BNTE)
        return self.gamma(self.proj(y_BNTE.transpose(1, 2).flatten(2)))


class RmsNorm(nn.RMSNorm):
    """At the precision of its weights, as torch does it anyway; but said like this, a fused kernel is found."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type out as in."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class SwiGlu(nn.Module):
    """Gated feed-forward part; the gate is the first half of ``w12``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token on its own."""
        gate, up = self.w12(x_BTD).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: Sapiens2Config, num_key_heads: int, encoder: bool) -> None:
        super().__init__()
        dim = config.embed_dim
        self.ln1 = RmsNorm(dim, eps=RMS_NORM_EPS)
        self.attn = Attention(dim, config.num_heads, num_key_heads, encoder)
        self.ln2 = RmsNorm(dim, eps=RMS_NORM_EPS)
        self.ffn = SwiGlu(dim, int(dim * config.mlp_ratio))

    def forward(self, x_BTD: Tensor, by: Rotation | None = None) -> Tensor:
        """Attention, then feed-forward, each added to its input."""
        x_BTD = x_BTD + self.attn(self.ln1(x_BTD), by)
        return x_BTD + self.ffn(self.ln2(x_BTD))


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each to D."""

    def __init__(self, config: Sapiens2Config) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) image to (B, D, h, w) tokens."""
        return self.projection(x_BCHW)


class Tokenizer(nn.Module):
    """Pools each window of 4×4 patches into one token: the class token of a small transformer on that window alone."""

    def __init__(self, config: Sapiens2Config) -> None:
        super().__init__()
        self.config = config
        self.w_cls = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.local_pos_embed = nn.Parameter(torch.zeros(1, 1 + WINDOW**2, config.embed_dim))
        self.blocks = nn.ModuleList(
            Block(config, config.num_heads, encoder=False) for _ in range(config.tokenizer_depth)
        )

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """(B, D, 4h, 4w) patches to (B, D, h, w) tokens."""
        images, dim = x_BDhw.shape[:2]
        height, width = (side // WINDOW for side in x_BDhw.shape[2:])
        windows = x_BDhw.reshape(images, dim, height, WINDOW, width, WINDOW).permute(0, 2, 4, 3, 5, 1)
        tokens = torch.cat([self._pool(some) for some in windows.reshape(-1, WINDOW**2, dim).split(WINDOWS_AT_ONCE)])
        return tokens.reshape(images, height, width, dim).permute(0, 3, 1, 2)

    def _pool(self, x_BTD: Tensor) -> Tensor:
        x_BTD = torch.cat([self.w_cls.expand(x_BTD.shape[0], -1, -1), x_BTD], dim=1) + self.local_pos_embed
        for block in self.blocks:
            x_BTD = _run(block, x_BTD, None, self.config.activation_checkpointing and self.training)
        return x_BTD[:, 0]


class Sapiens2(BackboneModule):
    """Image to a grid of features at 1/16 of its size, or 1/64 with a tokenizer.

    Args:
        config: the architecture.
    """

    def __init__(self, config: Sapiens2Config) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.embed_dim
        self.patch_embed = PatchEmbed(config)
        self.tokenizer = Tokenizer(config) if config.tokenizer_depth else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, config.num_storage_tokens, config.embed_dim))
        self.blocks = nn.ModuleList(Block(config, config.num_key_heads(i), encoder=True) for i in range(config.depth))
        self.ln1 = RmsNorm(config.embed_dim, eps=RMS_NORM_EPS)
        self._initialise()

    def _initialise(self) -> None:
        tokens = [self.cls_token, self.storage_tokens]
        if self.tokenizer is not None:
            tokens += [self.tokenizer.w_cls, self.tokenizer.local_pos_embed]
        for parameter in tokens:
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_BCHW: Tensor, groups: Sequence[Group] = ()) -> Tensor:
        """(B, 3, H, W) normalised RGB to (B, D, h, w) features; no part belongs to a task, so ``groups`` is not read.

        Raises:
            ValueError: the height or width is not a multiple of the stride.
        """
        if any(side % self.config.stride for side in x_BCHW.shape[2:]):
            size = tuple(x_BCHW.shape[2:])
            raise ValueError(f"an image of {size} pixels is not a multiple of {self.config.stride} in both directions.")
        x_BDhw = self.patch_embed(x_BCHW)
        if self.tokenizer is not None:
            x_BDhw = self.tokenizer(x_BDhw)
        height, width = x_BDhw.shape[2:]
        x_BPD = x_BDhw.flatten(2).transpose(1, 2)
        x_BTD = self.encode(x_BPD, self.rotation((height, width), x_BCHW.device))
        x_BPD = x_BTD[:, 1 + self.config.num_storage_tokens :]
        return x_BPD.transpose(1, 2).unflatten(2, (height, width))

    def rotation(self, grid: tuple[int, int], device: torch.device) -> Rotation:
        """Angles of all patches of a (rows, columns) grid, as :func:`rotation` in the configured precision."""
        dtype = torch.bfloat16 if self.config.rope_dtype == "bfloat16" else torch.float32
        return rotation(grid, self.config.embed_dim // self.config.num_heads, dtype, device)

    def encode(self, x_BPD: Tensor, by: Rotation) -> Tensor:
        """All blocks and the last norm, on all of an image's patches or on some.

        Args:
            x_BPD: embedded patches.
            by: their angles.

        Returns:
            (B, T, D): class token, storage tokens, patches.
        """
        prefix_1TD = torch.cat([self.cls_token, self.storage_tokens], dim=1)
        x_BTD = torch.cat([prefix_1TD.expand(x_BPD.shape[0], -1, -1), x_BPD], dim=1)
        for block in self.blocks:
            x_BTD = _run(block, x_BTD, by, self.config.activation_checkpointing and self.training)
        return self.ln1(x_BTD)


def _run(block: nn.Module, x_BTD: Tensor, by: Rotation | None, recompute: bool) -> Tensor:
    if recompute:
        return checkpoint(block, x_BTD, by, use_reentrant=False)
    return block(x_BTD, by)
