"""The decoder of masked autoencoders: encoded visible patches in, the pixels of all patches out.

Only pre-training uses it. Source: arXiv 2111.06377, section 3 and appendix A.1; Sapiens (arXiv 2408.12569) has the
same one.

Suffix legend: B images, T patches, V visible tokens (class token first), D encoder width, E decoder width, P values of
a patch.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.config import Config
from posecore.models.backbones.vit import Block, VitConfig


class MaeDecoderConfig(Config):
    """A narrow transformer.

    Attributes:
        depth: number of blocks.
        width: E, a multiple of 4 and of ``num_heads``.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward part, as a multiple of E.
    """

    depth: int = Field(default=8, gt=0)
    width: int = Field(default=512, gt=0, multiple_of=4)
    num_heads: int = Field(default=16, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)


class MaeDecoder(nn.Module):
    """Puts a learned token where a patch is hidden, lets all tokens attend to each other, and predicts pixels.

    Args:
        config: the architecture.
        num_features: D.
        feature_size: (height, width) of the patch grid.
        num_values: P.
    """

    pos_embed: Tensor

    def __init__(
        self, config: MaeDecoderConfig, num_features: int, feature_size: tuple[int, int], num_values: int
    ) -> None:
        super().__init__()
        width = config.width
        block = VitConfig(embed_dim=width, depth=config.depth, num_heads=config.num_heads, mlp_ratio=config.mlp_ratio)
        self.embed = nn.Linear(num_features, width)
        # One-dimensional, so that weight decay leaves it alone, as in Sapiens.
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("pos_embed", sincos_positions(feature_size, width))
        self.blocks = nn.ModuleList(Block(block, 0.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=block.layer_norm_eps)
        self.predict = nn.Linear(width, num_values)
        initialise_as_mae(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x_BVD: Tensor, order_BT: Tensor) -> Tensor:
        """Predicts the pixels of every patch.

        Args:
            x_BVD: the encoder's output: class token, then the visible patches in the order they were given.
            order_BT: int64 permutation of the patches; its first V - 1 are the visible ones.

        Returns:
            (B, T, P), patches in image order.
        """
        x_BVE = self.embed(x_BVD)
        num_hidden = order_BT.shape[1] + 1 - x_BVE.shape[1]
        hidden_BHE = self.mask_token.to(x_BVE.dtype).expand(len(x_BVE), num_hidden, -1)
        shuffled_BTE = torch.cat([x_BVE[:, 1:], hidden_BHE], dim=1)
        place_BT1 = order_BT.argsort(dim=1)[:, :, None]
        patches_BTE = shuffled_BTE.gather(1, place_BT1.expand(-1, -1, shuffled_BTE.shape[2]))
        y_BVE = torch.cat([x_BVE[:, :1], patches_BTE], dim=1) + self.pos_embed
        for block in self.blocks:
            y_BVE = block(y_BVE)
        return self.predict(self.norm(y_BVE))[:, 1:]


def sincos_positions(grid_size: tuple[int, int], width: int) -> Tensor:
    """Fixed two-dimensional sine-cosine position embedding.

    Channels are [sin x·ω, cos x·ω, sin y·ω, cos y·ω] with ω from 1 down to 1/10000 in ``width`` / 4 steps: columns come
    first, as in every published masked autoencoder (facebookresearch/mae, ``util/pos_embed.py``).

    Args:
        grid_size: (rows, columns) of patches.
        width: channels, a multiple of 4.

    Returns:
        (1, 1 + rows·columns, width) float32; slot 0 is the class token's and zero.
    """
    rows, columns = grid_size
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]
    positions = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width), positions.float()])[None]


def initialise_as_mae(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases; patch convolutions count as matrices (arXiv 2111.06377, A.1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.flatten(1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
