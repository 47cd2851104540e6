"""Cross-type self-supervision of PoseBH (arXiv 2505.17475): points that two ways of reading an image agree on.

On an image of another dataset nothing is known about a dataset's points. Where its head and its prototypes put a point
at nearly the same place, both confidently, that place becomes a label for both.

Source: uyoung-jeong/PoseBH @ 8f03438, ``mmpose/models/heads/kpt_proto_head.py``, ``get_css_loss``, with two
repairs: the released code measures the distance of two peaks with an x in place of a y, so that only points near the
diagonal of the map pass; and it averages a coordinate with a score, which puts the label at about half the true place.
"""

import torch
from pydantic import Field
from torch import Tensor

from posecore.codecs.heatmap import HeatmapCodec
from posecore.config import Config


class AgreementConfig(Config):
    """When two heatmaps agree on a point.

    Attributes:
        confidence: both maxima are above this.
        distance_px: the maxima are at most this far apart, in heatmap pixels.
    """

    confidence: float = Field(default=0.25, gt=0, lt=1)
    distance_px: float = Field(default=2.1, gt=0)


@torch.no_grad()
def confident(heatmaps: Tensor, agreement: AgreementConfig) -> Tensor:
    """(n, K) whether one of two heatmaps lets a point be agreed on: no other can make up for what it lacks.

    Args:
        heatmaps: (n, K, h, w).
        agreement: when to believe them.
    """
    return heatmaps.float().amax(dim=(2, 3)) > agreement.confidence


@torch.no_grad()
def agreed_points(
    regression: Tensor, prototypes: Tensor, codec: HeatmapCodec, agreement: AgreementConfig
) -> tuple[Tensor, Tensor]:
    """Labels for the points that two sets of heatmaps agree on.

    Args:
        regression: (n, K, h, w) heatmaps of a head.
        prototypes: (n, K, h, w) heatmaps of the same points from prototypes.
        codec: the dataset's; its spread and blur are used. Labels are read and drawn as UDP whatever the dataset's
            own convention is, as published: both happen in the frame of the heatmap.
        agreement: when to believe them.

    Returns:
        (n, K, h, w) targets around the mean of both places, weighted by the maxima, and (n, K) weights: the lower
        of the two maxima, 0 where there is no agreement.
    """
    regression, prototypes = regression.float(), prototypes.float()
    maxima_1, peaks_1 = _peaks(regression)
    maxima_2, peaks_2 = _peaks(prototypes)
    confident = (maxima_1 > agreement.confidence) & (maxima_2 > agreement.confidence)
    agreed = confident & ((peaks_1 - peaks_2).norm(dim=-1) <= agreement.distance_px)
    in_heatmap = codec.model_copy(update={"kind": "udp", "input_size": codec.heatmap_size})
    (points_1, _), (points_2, _) = (in_heatmap.decode(maps[agreed][:, None]) for maps in (regression, prototypes))
    share = (maxima_1 / (maxima_1 + maxima_2))[agreed][:, None, None]
    points = torch.zeros_like(peaks_1)
    points[agreed] = torch.lerp(points_2, points_1, share)[:, 0]
    targets, drawn = in_heatmap.encode(points, agreed.float())
    return targets, drawn * torch.minimum(maxima_1, maxima_2)


def _peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """(n, K) maxima and (n, K, 2) their x, y in heatmap pixels."""
    maxima, places = heatmaps.flatten(2).max(dim=2)
    width = heatmaps.shape[3]
    return maxima, torch.stack([places % width, places // width], dim=-1).float()
