"""Layers in which queries of bodies and of their points look at each other and at a picture's features.

Source: Liu et al., GroupPose (arXiv 2308.07313): points attend to their own body first, then each kind of point to its
like in other bodies, then all to the picture; and Zhu et al., Deformable DETR (arXiv 2010.04159), whose sampling at few
places around a reference is here on one grid of features, by torch's own bilinear sampling.

Shapes: B pictures, N bodies, J = 1 + K queries of a body (itself, then its points), C channels, E channels of one of H
heads, S samples, h × w features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TEMPERATURE = 10000.0


class DecoderLayer(nn.Module):
    """Attention within bodies, between bodies, to the picture, and a feed-forward part; each behind a LayerNorm.

    Args:
        channels: C.
        num_heads: H.
        num_samples: S of every head.
        hidden: channels of the feed-forward part.
    """

    def __init__(self, channels: int, num_heads: int, num_samples: int, hidden: int) -> None:
        super().__init__()
        self.within = QueryAttention(channels, num_heads)
        self.between = QueryAttention(channels, num_heads)
        self.sampling = SampledAttention(channels, num_heads, num_samples)
        self.forward_part = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))

    def forward(
        self, queries_BNJC: Tensor, where_BNJC: Tensor, refs_BNJ4: Tensor, picture_BChw: Tensor, sees: Tensor | None
    ) -> Tensor:
        """Same shape out as in.

        Args:
            queries_BNJC: what is known so far.
            where_BNJC: embedding of where each query is.
            refs_BNJ4: x, y of where it is, and width and height of its body, shares of the picture.
            picture_BChw: features.
            sees: (B, N, N) bool, which bodies each body sees; None for all.
        """
        queries = queries_BNJC + self.within(self.norms[0](queries_BNJC), where_BNJC, None)
        across, where = self.norms[1](queries).transpose(1, 2), where_BNJC.transpose(1, 2)
        queries = queries + self.between(across, where, sees).transpose(1, 2)
        queries = queries + self.sampling(self.norms[2](queries) + where_BNJC, refs_BNJ4, picture_BChw)
        return queries + self.forward_part(self.norms[3](queries))


class QueryAttention(nn.Module):
    """Attention along the last dimension but one, by what queries are and where; what is read is what they are."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(channels, 2 * channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, where: Tensor, sees: Tensor | None) -> Tensor:
        """Same shape out as in.

        Args:
            x: (B, G, T, C), G groups that do not see each other.
            where: likewise.
            sees: (B, T, T) bool; None for all.
        """
        q, k = (self._split(part) for part in self.query_key(x + where).chunk(2, dim=-1))
        mask = None if sees is None else sees[:, None, None]
        read = F.scaled_dot_product_attention(q, k, self._split(self.value(x)), mask)
        return self.out(read.transpose(-3, -2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, G, T, C) to (B, G, H, T, E)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)


class SampledAttention(nn.Module):
    """Every query reads the features at a few places around it, which it chooses, as it chooses what each counts."""

    def __init__(self, channels: int, num_heads: int, num_samples: int) -> None:
        super().__init__()
        self.num_heads, self.num_samples = num_heads, num_samples
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.offsets = nn.Linear(channels, num_heads * num_samples * 2)
        self.weights = nn.Linear(channels, num_heads * num_samples)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.offsets.weight)
        angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
        steps = torch.arange(1, num_samples + 1)[:, None] / num_samples
        with torch.no_grad():
            self.offsets.bias.copy_((rays * steps).flatten())

    def forward(self, queries_BNJC: Tensor, refs_BNJ4: Tensor, picture_BChw: Tensor) -> Tensor:
        """(B, N, J, C) of what is read; arguments as :meth:`DecoderLayer.forward`."""
        num_bodies = queries_BNJC.shape[1]
        flat, refs = queries_BNJC.flatten(1, 2), refs_BNJ4.flatten(1, 2)
        offsets = self.offsets(flat).unflatten(-1, (self.num_heads, self.num_samples, 2)).to(refs.dtype)
        places = refs[:, :, None, None, :2] + offsets * refs[:, :, None, None, 2:] / 2
        grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B · H, N · J, S, 2)
        values = self.value(picture_BChw).unflatten(1, (self.num_heads, -1)).flatten(0, 1)
        sampled = F.grid_sample(values, grid.to(values.dtype), align_corners=False)  # (B · H, E, N · J, S)
        weights = self.weights(flat).unflatten(-1, (self.num_heads, self.num_samples)).softmax(dim=-1)
        read = (sampled * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)
        read = read.unflatten(0, (-1, self.num_heads)).flatten(1, 2).transpose(1, 2)
        return self.out(read.to(queries_BNJC.dtype)).unflatten(1, (num_bodies, -1))


def embed_places(refs: Tensor, channels: int) -> Tensor:
    """(…, 4) shares of the picture to (…, channels) sines and cosines (Vaswani et al., arXiv 1706.03762).

    Args:
        refs: float32.
        channels: a multiple of 8.
    """
    rates = _TEMPERATURE ** (torch.arange(channels // 8, device=refs.device) / (channels // 8))
    angles = refs[..., None] * (2 * math.pi) / rates * 16
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
