"""Prototypes of PoseBH (arXiv 2505.17475): M unit vectors per keypoint, and the heatmaps they give of any skeleton.

A pixel belongs to a keypoint as far as its embedding points along one of the keypoint's prototypes, in either
direction: the published similarity is the absolute cosine (uyoung-jeong/PoseBH @ 8f03438,
``mmpose/models/heads/kpt_proto_module.py``, rescaling ``abs``). There is no prototype of the background.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LOWEST, _HIGHEST = 1e-4, 1 - 1e-4


class Prototypes(nn.Module):
    """The prototypes of every dataset, each under the dataset's name.

    They are buffers, not parameters: no optimiser moves them, no engine shards them, checkpoints hold them, and a
    moving average of the weights takes them as they are, because they are a moving average themselves. A dataset that
    is added leaves the others' names alone.

    Args:
        num_keypoints: K by dataset.
        per_point: M.
        dim: length of a prototype.
    """

    def __init__(self, num_keypoints: Mapping[str, int], per_point: int, dim: int) -> None:
        super().__init__()
        for dataset, count in num_keypoints.items():
            vectors = nn.init.trunc_normal_(torch.empty(count, per_point, dim), std=0.02)
            self.register_buffer(dataset, F.normalize(vectors, dim=-1))

    def forward(self, dataset: str) -> Tensor:
        """(K, M, C) unit vectors of a dataset: a new tensor, so that an update does not change what was computed."""
        return F.normalize(self.get_buffer(dataset), dim=-1)


def similarity(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Absolute cosine of every embedding with every prototype, in float32.

    Args:
        embeddings: (n, C, …) of any length and any float type.
        prototypes: (K, M, C) unit vectors.

    Returns:
        (n, K, M, …) in [0, 1].
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = F.normalize(embeddings.float(), dim=1)
        return torch.einsum("nc...,kmc->nkm...", directions, prototypes.float()).abs()


def prototype_heatmaps(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """How well each pixel fits each keypoint: the similarity with the nearest of its prototypes.

    Args:
        embeddings: (B, C, h, w).
        prototypes: (K, M, C) unit vectors.

    Returns:
        (B, K, h, w) float32 in [1e-4, 1 − 1e-4].
    """
    return similarity(embeddings, prototypes).amax(dim=2).clamp(_LOWEST, _HIGHEST)
