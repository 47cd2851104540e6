"""Depth as a second task: the features that find the points must also tell what is near and what is far.

A head of its own, which is trained with the model and left behind when the model is saved. Where depth is missing,
within a crop or in all of it, nothing is asked.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from posecore.config import Config
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import PoseModel

_TINY = 1e-12
_MOST_LOG = 3.0  # a ratio of 20 to the crop's mean, far beyond what one crop spans; keeps exp finite


class DepthTaskConfig(Config):
    """What the second task counts.

    Attributes:
        weight: of the whole task beside the points.
        silog_weight: of the scale-invariant logarithmic error within it.
        l1_weight: of the absolute error within it.
        channels: width of the head's two deconvolutions.
    """

    weight: float = Field(default=0.01, gt=0)
    silog_weight: float = Field(default=1.0, ge=0)
    l1_weight: float = Field(default=1.0, ge=0)
    channels: int = Field(default=64, gt=0)


class DepthTask(nn.Module):
    """Predicts the depth of every crop from its features, as the logarithm of its ratio to the crop's mean depth.

    Distances as such cannot be read off a crop, which is the same for a near small body and a far large one; ratios
    can, to a degree. The loss is that of Sapiens' depth models (SiLog with λ = ½; arXiv 2408.12569, equations 1 to 3)
    and an absolute error.

    Args:
        model: whose features are read.
        config: weights and width.
    """

    def __init__(self, model: PoseModel, config: DepthTaskConfig) -> None:
        super().__init__()
        self.config = config
        self.head = ClassicHeadConfig(channels=config.channels).build(
            num_features=model.backbone.num_features,
            num_keypoints=1,
            feature_size=model.config.feature_size,
            input_size=model.input_size,
        )

    def forward(self, features: Tensor, depth: Tensor | None) -> Tensor:
        """The weighted loss, a scalar; an exact zero that still hangs on the head where no depth is known.

        The head runs on every crop, so that under ZeRO-3 all ranks call it in every step; a crop without depth adds
        nothing to the sum but is counted, so that another crop's gradient does not depend on it.

        Args:
            features: (B, D, h, w) of all crops.
            depth: (B, H, W) metres of the crops, 0 where not known; None where no crop has any.
        """
        log_ratio = self.head(features)[:, 0].float().clamp(-_MOST_LOG, _MOST_LOG)
        if depth is None:
            return log_ratio.sum() * 0.0
        target = F.interpolate(depth[:, None].float(), log_ratio.shape[1:], mode="nearest-exact")[:, 0]
        silog, absolute = depth_errors(log_ratio, target)
        per_crop = self.config.silog_weight * silog + self.config.l1_weight * absolute
        return self.config.weight * per_crop.sum() / len(features)


def depth_errors(log_ratio: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """The two errors of each crop over the pixels whose depth is known.

    With t the depth over its mean, p = exp(log_ratio) and d = log t − log p: SiLog is √(mean d² − ½ (mean d)²), the
    absolute error mean |t − p|. Both are 0 for a crop of which nothing is known.

    Args:
        log_ratio: (n, h, w) float32.
        depth: (n, h, w) float32 metres, 0 where not known.

    Returns:
        (n,) each.
    """
    known = depth > 0
    count = known.sum((1, 2)).clamp(min=1)
    mean = depth.sum((1, 2)) / count
    ratio = torch.where(known, depth / mean.clamp(min=_TINY)[:, None, None], 1.0)
    d = torch.where(known, ratio.log() - log_ratio, 0.0)
    mean_d = d.sum((1, 2)) / count
    silog = (d.square().sum((1, 2)) / count - 0.5 * mean_d.square()).clamp(min=_TINY).sqrt()
    absolute = torch.where(known, (ratio - log_ratio.exp()).abs(), 0.0).sum((1, 2)) / count
    return torch.where(known.any(2).any(1), silog, 0.0), absolute
