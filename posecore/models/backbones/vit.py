"""The plain vision transformer of ViTPose, ViTPose++ and Sapiens: one file serves every size, from tests to 2B.

Three details decide whether published weights of ViTPose (arXiv 2204.12484) work, and none of them changes a shape: the
patch convolution pads by 2, slot 0 of the positional embedding is added to every token, and every LayerNorm uses eps
1e-6 (ViTAE-Transformer/ViTPose @ c050ed2, ``mmpose/models/backbones/vit.py``). Parameter names are those of that file.

With experts (ViTPose++, arXiv 2212.04246; ``vit_moe.py`` there) the last channels of every block's feed-forward output
come from a layer of the sample's own task; everything else is shared. Samples of a task are contiguous
(:mod:`posecore.models.groups`), so each expert runs on its own rows only and a step costs what a dense step costs; the
published code runs every expert on every sample.

With knowledge tokens (ViTPose, section 3.4; :mod:`posecore.methods.knowledge_token`) the same few tokens join the
patches of every image after the patch embedding, take part in every block and are dropped before the grid of features.

Suffix legend: B images, C colour channels, H W pixel rows and columns, h w token rows and columns, T = h·w tokens,
D embedding width, F hidden width of the feed-forward part, P channels of an expert, N attention heads, E = D / N,
S = 3 (query, key, value), M knowledge tokens.
"""

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.models.backbone import Backbone, BackboneModule
from posecore.models.backbones.attention import attend
from posecore.models.backbones.windows import Windows
from posecore.models.bounds import MAX_DEPTH, MAX_PATCH_PX, MAX_RATIO, MAX_TOKENS, MAX_WIDTH
from posecore.models.depth import NUM_DEPTH_CHANNELS
from posecore.models.groups import Group, check_groups, run_by_group

DEPTH_WEIGHT = "patch_embed.depth_proj.weight"
"""The one parameter that a backbone with ``depth_input`` has besides those of a backbone without."""


class VitConfig(Backbone):
    """A plain vision transformer.

    Attributes:
        kind: names this backbone.
        embed_dim: D.
        depth: number of blocks.
        num_heads: N; must divide D.
        mlp_ratio: hidden width of the feed-forward part, as a multiple of D.
        drop_path: largest stochastic-depth rate; block i of ``depth`` gets its share on a line from 0.
        patch_size: side of a patch in pixels, and the stride.
        patch_padding: zero padding of the patch convolution in pixels; 2 in every published pose model, 0 in
            masked-autoencoder pre-training.
        position: form of the positional embedding. ``with_slot`` (ViTPose): 1 + T rows, of which row 0 is added to
            every token; ``plain`` (Sapiens): T rows.
        layer_norm_eps: added to the variance in every LayerNorm.
        expert_share: P / D, the share of the feed-forward output that belongs to the task; 0 is a dense model, 0.25 is
            published.
        knowledge_tokens: M, tokens that a teacher has learned. They are trained by
            :class:`~posecore.methods.knowledge_token.KnowledgeToken` and by nothing else.
        knowledge_width: their width, if the teacher's is not D: a linear layer of this model, trained with it, then
            brings them to D. None where it is D.
        depth_input: take depth besides the picture, as two more channels of the patch convolution with weights of their
            own (``patch_embed.depth_proj``). They start at zero, so that a trained model of pictures computes at first
            what it did.
        window: side of the square windows, in tokens, within which most blocks attend; 0 lets every token attend to all
            of its image. Weights of either form fit the other, as windows bring none.
        global_blocks: how many blocks attend to the whole image where there are windows: each the last of so many equal
            parts of the depth, as in ViTDet (arXiv 2203.16527).
        adapter_dim: width of a bottleneck beside every block's feed-forward part (:class:`Adapter`); 0 for none. It is
            how a trained model is adapted with its own weights untouched.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    kind: Literal["vit"] = "vit"
    embed_dim: int = Field(gt=0, le=MAX_WIDTH)
    depth: int = Field(gt=0, le=MAX_DEPTH)
    num_heads: int = Field(gt=0, le=MAX_WIDTH)
    mlp_ratio: float = Field(default=4.0, gt=0, le=MAX_RATIO)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    patch_size: int = Field(default=16, gt=0, le=MAX_PATCH_PX)
    patch_padding: int = Field(default=2, ge=0, le=MAX_PATCH_PX)
    position: Literal["with_slot", "plain"] = "with_slot"
    layer_norm_eps: float = Field(default=1e-6, gt=0)
    expert_share: float = Field(default=0.0, ge=0, lt=1)
    knowledge_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)
    knowledge_width: int | None = Field(default=None, gt=0, le=MAX_WIDTH)
    depth_input: bool = False
    window: int = Field(default=0, ge=0, le=MAX_TOKENS)
    global_blocks: int = Field(default=4, ge=0, le=MAX_DEPTH)
    adapter_dim: int = Field(default=0, ge=0, le=MAX_WIDTH)
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}.")
        if abs(self.expert_share * self.embed_dim - self.expert_dim) > 1e-6:
            raise ValueError(
                f"expert_share {self.expert_share} of embed_dim {self.embed_dim} is not a whole number of channels."
            )
        if self.knowledge_width is not None and (not self.knowledge_tokens or self.knowledge_width == self.embed_dim):
            raise ValueError(
                f"knowledge_width {self.knowledge_width} is for knowledge_tokens of another width than embed_dim "
                f"{self.embed_dim}; leave it out."
            )
        if self.window and self.global_blocks > self.depth:
            raise ValueError(f"global_blocks {self.global_blocks} are more than the depth, {self.depth}.")
        if self.window and self.knowledge_tokens:
            raise ValueError("window: knowledge_tokens are of the whole image and in no window; leave one of them out.")
        return self

    @property
    def windowed(self) -> tuple[bool, ...]:
        """Whether each block attends within windows."""
        if not self.window:
            return (False,) * self.depth
        whole = {(part + 1) * self.depth // self.global_blocks - 1 for part in range(self.global_blocks)}
        return tuple(block not in whole for block in range(self.depth))

    @property
    def takes_depth(self) -> bool:
        """Whether depth may be given besides the picture."""
        return self.depth_input

    @property
    def expert_channels(self) -> int:
        """P of every block."""
        return self.expert_dim * self.depth

    def shallow(self) -> Self:
        """With one block."""
        return self.model_copy(update={"depth": 1, "global_blocks": min(1, self.global_blocks)})

    def with_adapters(self, width: int) -> Self:
        """See :meth:`posecore.models.backbone.Backbone.with_adapters`."""
        if self.adapter_dim not in (0, width):
            raise ConfigError(
                f"strategy.width: the parent's adapters are {self.adapter_dim} wide, not {width}; set it to "
                f"{self.adapter_dim}."
            )
        return self.model_copy(update={"adapter_dim": width})

    def with_depth(self) -> Self:
        """The same, taking depth besides the picture."""
        return self.model_copy(update={"depth_input": True})

    def with_experts(self, share: float) -> Self:
        """The same with experts; one that has some already keeps its own share.

        Raises:
            ConfigError: the share cuts through a channel.
        """
        if self.has_experts:
            return self
        return parse_config(self.model_dump() | {"expert_share": share}, type(self), origin="method: experts")

    @property
    def hidden_dim(self) -> int:
        """F."""
        return round(self.embed_dim * self.mlp_ratio)

    @property
    def expert_dim(self) -> int:
        """P; 0 without experts."""
        return round(self.embed_dim * self.expert_share)

    @property
    def stride(self) -> int:
        """Crop pixels per feature."""
        return self.patch_size

    @property
    def size_multiple(self) -> int:
        """Sides of the crops are multiples of this: of whole windows, where there are any."""
        return self.patch_size * max(1, self.window)

    def build(self, input_size: tuple[int, int], tasks: Sequence[str] = ()) -> "Vit":
        """A freshly initialised backbone.

        Args:
            input_size: (height, width) of the crops in pixels.
            tasks: names of the experts; a dense backbone has nothing of its own per task.
        """
        return Vit(self, input_size, tasks)


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability ``rate`` in training, scaling the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Keeps each sample's branch with probability 1 - rate."""
        if not self.training or self.rate == 0.0:
            return x_BTD
        kept_B11 = torch.rand(len(x_BTD), 1, 1, device=x_BTD.device) >= self.rate
        return x_BTD * kept_B11.to(x_BTD.dtype) / (1.0 - self.rate)


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each to D; depth has a projection of its own, and the two are added.

    That is one convolution over all channels, in two so that the published one keeps its name and shape.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        size, padding = config.patch_size, config.patch_padding
        self.proj = nn.Conv2d(3, config.embed_dim, size, size, padding)
        self.depth_proj: nn.Conv2d | None = None
        if config.depth_input:
            # Not initialised but set, so that no random number is drawn and all other weights are as without depth.
            sizes, device = (NUM_DEPTH_CHANNELS, config.embed_dim, size, size, padding), torch.get_default_device()
            self.depth_proj = nn.utils.skip_init(nn.Conv2d, *sizes, bias=False, device=device)
            nn.init.zeros_(self.depth_proj.weight)

    def forward(self, x_BCHW: Tensor, depth_BCHW: Tensor | None = None) -> Tensor:
        """(B, C, H, W) image, and depth as :func:`~posecore.models.depth.depth_channels` gives it, to tokens.

        Returns:
            (B, D, h, w).

        Raises:
            ValueError: depth is given to a backbone that takes none.
        """
        x_BDhw = self.proj(x_BCHW)
        if self.depth_proj is None:
            if depth_BCHW is not None:
                raise ValueError("the backbone takes no depth; set depth_input, or give it the picture alone.")
            return x_BDhw
        if depth_BCHW is None:
            if not self.training:
                return x_BDhw
            # Under ZeRO-3 every rank must call every layer in every step, depth or not; of nothing it makes zeros.
            depth_BCHW = x_BCHW.new_zeros(len(x_BCHW), NUM_DEPTH_CHANNELS, *x_BCHW.shape[2:])
        return x_BDhw + self.depth_proj(depth_BCHW)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection; its rows are all queries, then all keys, then all values.

    Args:
        dim: D.
        num_heads: N.
        windows: those that tokens attend within; None for the whole image.
    """

    def __init__(self, dim: int, num_heads: int, windows: Windows | None = None) -> None:
        super().__init__()
        self.num_heads, self.windows = num_heads, windows
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Every token attends to every token of its image, or of its window."""
        qkv_BTD = self.qkv(x_BTD)
        if self.windows is not None:
            qkv_BTD = self.windows.cut(qkv_BTD)
        qkv_SBNTE = qkv_BTD.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q_BNTE, k_BNTE, v_BNTE = qkv_SBNTE.unbind(0)
        y_BTD = attend(q_BNTE, k_BNTE, v_BNTE).transpose(1, 2).flatten(2)
        if self.windows is not None:
            y_BTD = self.windows.join(y_BTD)
        return self.proj(y_BTD)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them; the task's expert, if any, gives the last P outputs."""

    def __init__(self, config: VitConfig, tasks: Sequence[str]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.hidden_dim)
        self.fc2 = nn.Linear(config.hidden_dim, config.embed_dim - config.expert_dim)
        own_tasks = tasks if config.expert_dim else ()
        self.experts = nn.ModuleDict({task: nn.Linear(config.hidden_dim, config.expert_dim) for task in own_tasks})

    def forward(self, x_BTD: Tensor, groups: Sequence[Group]) -> Tensor:
        """Each token on its own."""
        hidden_BTF = F.gelu(self.fc1(x_BTD))
        shared = self.fc2(hidden_BTF)
        if not self.experts:
            return shared
        return torch.cat([shared, run_by_group(self.experts, hidden_BTF, groups)], dim=-1)


class Adapter(nn.Module):
    """Down to a bottleneck, ReLU, and up again, a tenth of which is added; nothing at all before it has learned.

    Source: AdaptFormer (arXiv 2205.13535) and ShoufaChen/AdaptFormer @ 83eb926, ``models/adapter.py`` with options
    ``parallel``, ``lora``, ``none`` and scale 0.1, without dropout: it reads what the feed-forward part reads, before
    the norm, and the last layer starts from zeros.
    """

    SCALE = 0.1

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down_proj = nn.Linear(dim, width)
        self.up_proj = nn.Linear(width, dim)

    def initialise(self) -> None:
        """Draws the first layer and clears everything else."""
        nn.init.kaiming_uniform_(self.down_proj.weight, a=math.sqrt(5))
        for zeros in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(zeros)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token on its own."""
        return self.SCALE * self.up_proj(F.relu(self.down_proj(x_BTD)))


class Block(nn.Module):
    """Pre-norm residual block; both branches share one stochastic-depth rate, and an adapter is never dropped."""

    def __init__(
        self,
        config: VitConfig,
        drop_path: float,
        tasks: Sequence[str] = (),
        windows: Windows | None = None,
    ) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attn = Attention(dim, config.num_heads, windows)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(config, tasks)
        self.adapter = Adapter(dim, config.adapter_dim) if config.adapter_dim else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTD: Tensor, groups: Sequence[Group] = ()) -> Tensor:
        """Attention, then feed-forward, each added to its input."""
        x_BTD = x_BTD + self.drop_path(self.attn(self.norm1(x_BTD)))
        y_BTD = x_BTD + self.drop_path(self.mlp(self.norm2(x_BTD), groups))
        return y_BTD if self.adapter is None else y_BTD + self.adapter(x_BTD)


class Vit(BackboneModule):
    """Image to a grid of features at 1/16 of its size.

    Args:
        config: the architecture.
        input_size: (height, width) in pixels, each a multiple of the patch size. The number of tokens is part of the
            architecture: the positional embedding is not interpolated at run time
            (:func:`~posecore.models.backbones.position.resize_position_embedding` does it once, as weights are loaded).
        tasks: one expert each; unused by a dense model.

    Raises:
        ValueError: the input size is not a multiple of the patch size, or there are experts but no tasks.
    """

    def __init__(self, config: VitConfig, input_size: tuple[int, int], tasks: Sequence[str] = ()) -> None:
        super().__init__()
        if any(side % config.size_multiple for side in input_size):
            times_window = f" times window {config.window}" if config.window else ""
            raise ValueError(
                f"input_size {input_size} is not a multiple of patch_size {config.patch_size}{times_window} both ways."
            )
        if config.expert_dim and not tasks:
            raise ValueError("a backbone with experts needs the name of at least one task.")
        self.config = config
        self.num_features = config.embed_dim
        self.tasks = tuple(tasks)
        grid = input_size[0] // config.patch_size, input_size[1] // config.patch_size
        windows = Windows(config.window, *(side // config.window for side in grid)) if config.window else None
        self.patch_embed = PatchEmbed(config)
        slots = 1 if config.position == "with_slot" else 0
        self.pos_embed = nn.Parameter(torch.zeros(1, slots + math.prod(grid), config.embed_dim))
        rates = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(config, rate, tasks, windows if windowed else None)
            for rate, windowed in zip(rates, config.windowed, strict=True)
        )
        self.last_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        if config.knowledge_tokens:
            tokens = torch.zeros(config.knowledge_tokens, config.knowledge_width or config.embed_dim)
            self.knowledge_tokens = nn.Parameter(tokens, requires_grad=False)
        if config.knowledge_width is not None:
            self.knowledge_adapter = nn.Linear(config.knowledge_width, config.embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.config.knowledge_tokens:
            nn.init.trunc_normal_(self.knowledge_tokens, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Adapter):
                module.initialise()

    def forward(self, x_BCHW: Tensor, groups: Sequence[Group] = (), depth_BCHW: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) normalised RGB to (B, D, h, w) features.

        Args:
            x_BCHW: crops.
            groups: whose expert each row goes through; a dense model does not look at it.
            depth_BCHW: (B, 2, H, W) depth of the crops, for a model with ``depth_input``; None without.

        Raises:
            ValueError: the model has experts and a row has no group, or a group no expert; or it takes no depth.
        """
        if self.config.expert_dim:
            check_groups(groups, self.tasks, len(x_BCHW))
        x_BDhw = self.patch_embed(x_BCHW, depth_BCHW)
        x_BTD = self.add_position(x_BDhw.flatten(2).transpose(1, 2))
        if self.config.knowledge_tokens:
            x_BTD = self._encode_with_knowledge(x_BTD, groups)
        else:
            x_BTD = self.encode(x_BTD, groups)
        return x_BTD.transpose(1, 2).unflatten(2, x_BDhw.shape[2:])

    def _encode_with_knowledge(self, x_BTD: Tensor, groups: Sequence[Group]) -> Tensor:
        """:meth:`encode` with the knowledge tokens after the patches, where they have no position, and without them."""
        tokens_MD = self.knowledge_tokens
        if self.config.knowledge_width is not None:
            tokens_MD = self.knowledge_adapter(tokens_MD)
        together = torch.cat([x_BTD, tokens_MD.expand(x_BTD.shape[0], -1, -1)], dim=1)
        return self.encode(together, groups)[:, : x_BTD.shape[1]]

    def encode(self, x_BTD: Tensor, groups: Sequence[Group] = ()) -> Tensor:
        """All blocks and the last norm, on tokens that have their positions.

        Without windows these may be any, such as some of an image's patches.
        """
        for block in self.blocks:
            if self.config.activation_checkpointing and self.training:
                x_BTD = checkpoint(block, x_BTD, groups, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, groups)
        return self.last_norm(x_BTD)

    def add_position(self, x_BTD: Tensor) -> Tensor:
        """Adds each token's positional embedding."""
        if self.config.position == "plain":
            return x_BTD + self.pos_embed
        # Slot 0 belonged to the class token of the pre-training; the published model adds it to every token.
        return x_BTD + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
