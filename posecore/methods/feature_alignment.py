"""Feature distillation: a student's last feature map is to look like its teacher's.

Source: IDEA-Research/DWPose @ 3dca5db, ``mmpose/mmpose/models/losses/fea.py`` (arXiv 2307.15880, equation 1), where
both maps are of one size.
"""

from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

Reduction: TypeAlias = Literal["sum", "mean"]
"""Over channels and places; over crops it is always the mean."""

PUBLISHED_WEIGHT = 7e-5
"""Of the sum, in every released configuration. The paper's formula is the mean with 5e-5: next to no loss at all."""


class FeatureAlignment(nn.Module):
    """Brings two feature maps together and measures how far they are apart.

    A 1×1 convolution, which is trained, takes the student's channels to the teacher's where they differ. The map with
    more places along an axis is averaged onto the other's: nobody is taught detail that the coarser map cannot hold.

    Args:
        channels: of the student.
        feature_size: (height, width) of the student's map.
        teacher_channels: of the teacher.
        teacher_feature_size: (height, width) of the teacher's map.
    """

    def __init__(
        self,
        channels: int,
        feature_size: tuple[int, int],
        teacher_channels: int,
        teacher_feature_size: tuple[int, int],
    ) -> None:
        super().__init__()
        same = channels == teacher_channels
        self.projection = nn.Identity() if same else nn.Conv2d(channels, teacher_channels, kernel_size=1)
        (h, w), (teacher_h, teacher_w) = feature_size, teacher_feature_size
        self.size = min(h, teacher_h), min(w, teacher_w)
        self.num_values = teacher_channels * self.size[0] * self.size[1]

    def forward(self, features: Tensor, teacher_features: Tensor, reduction: Reduction) -> Tensor:
        """Squared error, summed or averaged over channels and places, averaged over crops.

        Args:
            features: (B, D, h, w) of the student.
            teacher_features: (B, D', h', w') of the teacher.
            reduction: ``mean`` is ``sum`` divided by :attr:`num_values`.
        """
        ours = self._shrink(self.projection(features).float())
        error = (ours - self._shrink(teacher_features.float())).square().sum() / len(features)
        return error if reduction == "sum" else error / self.num_values

    def _shrink(self, features: Tensor) -> Tensor:
        return averaged_onto(features, self.size)


def averaged_onto(features: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, D, h, w) features on a coarser grid of (height, width) places; themselves if that is theirs."""
    return features if features.shape[-2:] == size else F.adaptive_avg_pool2d(features, size)
