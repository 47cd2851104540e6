"""From heatmaps and tags of a whole picture to bodies: peaks, peaks of one body by their tags, then what was missed.

Source: Newell et al., Associative Embedding (arXiv 1611.05424), sections 3.2 and 3.3, with what HigherHRNet (arXiv
1908.10357, appendix) added: places moved a quarter pixel, and points without a peak looked for by the body's tag. Maps
stay on the device; peaks alone, a few hundred numbers, are matched on the processor.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from posecore.config import Config
from posecore.skeletons.skeleton import Skeleton

_STEP_COST = 100.0
"""What a whole unit of distance between tags costs beside a peak's score, which is about 1 at most."""
_TIE_COST = 1e-3
"""What it costs besides, unrounded: as published, two ways whose rounded distances are alike are equally good."""


class GroupingConfig(Config):
    """How bodies are put together.

    Attributes:
        max_bodies: most bodies of a picture, and most peaks of a point; those with the highest scores stay.
        peak_threshold: peaks with a lower score are none.
        tag_threshold: a peak is of a body if their tags are nearer than this.
        peak_kernel: a peak is the largest value within so many pixels of the finer heatmaps.
        refine: look for points without a peak where heatmap and tag together are best.
    """

    max_bodies: int = Field(default=50, gt=0)
    peak_threshold: float = Field(default=0.1, ge=0)
    tag_threshold: float = Field(default=1.0, gt=0)
    peak_kernel: int = Field(default=5, gt=0, multiple_of=1)
    refine: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class SceneBodies:
    """The bodies of one picture, the surest first.

    Attributes:
        keypoints: (m, K, 2) float32 x, y in pixels of the codec's frame, 0, 0 where there is no point.
        keypoint_scores: (m, K) float32, how sure the points are, 0 where there is no point.
        scores: (m,) float32, how sure the bodies are: grouped ones by the mean score of their peaks over all K points.
        bbox_xyxy: (m, 4) float32 of the frame; None where a head says points alone.
        covariances: (m, K, 2, 2) float32 of x and y, px² of the frame, NaN where a point's is not known; None where
            nobody asked the maps.
    """

    keypoints: Float[np.ndarray, "m k 2"]
    keypoint_scores: Float[np.ndarray, "m k"]
    scores: Float[np.ndarray, " m"]
    bbox_xyxy: Float[np.ndarray, "m 4"] | None = None
    covariances: Float[np.ndarray, "m k 2 2"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """The p highest peaks of every point.

    Attributes:
        places: (n, K, p) index into the flattened map.
        scores: (n, K, p), 0 where there are fewer peaks.
        tags: (n, K, p, T).
    """

    places: Int[Tensor, "n k p"]
    scores: Float[Tensor, "n k p"]
    tags: Float[Tensor, "n k p t"]


def find_peaks(heatmaps: Float[Tensor, "n k h w"], tags: Float[Tensor, "n t k h w"], config: GroupingConfig) -> Peaks:
    """The highest local maxima of each heatmap, with their tags."""
    pooled = F.max_pool2d(heatmaps, config.peak_kernel, 1, config.peak_kernel // 2)
    kept = torch.where(heatmaps == pooled, heatmaps, 0.0).flatten(2)
    scores, places = kept.topk(min(config.max_bodies, kept.shape[2]), dim=2)
    of_peaks = tags.flatten(3).gather(3, places[:, None].expand(-1, tags.shape[1], -1, -1))
    return Peaks(places, scores, of_peaks.permute(0, 2, 3, 1))


def match_peaks(
    scores: Float[np.ndarray, "k p"],
    tags: Float[np.ndarray, "k p t"],
    order: Int[np.ndarray, " k"],
    config: GroupingConfig,
) -> Int[np.ndarray, "m k"]:
    """Which peak of every point is of which body, -1 for none.

    Point by point, peaks are given to the bodies found so far so that tags differ least, and of peaks whose tags are
    alike the higher one is preferred (Hungarian method); a peak that is no body's begins one.

    Args:
        scores: of one picture's peaks.
        tags: of the same.
        order: in which points are looked at.
        config: how.
    """
    from scipy.optimize import linear_sum_assignment  # crops do without it

    bodies: list[dict[int, int]] = []
    sums: list[NDArray[np.float64]] = []
    for point in order.tolist():
        rows = np.flatnonzero(scores[point] > config.peak_threshold)
        taken: dict[int, int] = {}
        if bodies and len(rows):
            means = np.stack([total / len(body) for total, body in zip(sums, bodies, strict=True)])
            distance = np.linalg.norm(tags[point, rows, None].astype(np.float64) - means, axis=2)
            cost = _STEP_COST * np.round(distance) - scores[point, rows, None] + _TIE_COST * distance
            pairs = zip(*(side.tolist() for side in linear_sum_assignment(cost)), strict=True)
            taken = {row: body for row, body in pairs if distance[row, body] < config.tag_threshold}
        for row, peak in enumerate(rows.tolist()):
            tag = tags[point, peak].astype(np.float64)
            if row in taken:
                bodies[taken[row]][point] = peak
                sums[taken[row]] += tag
            else:
                bodies.append({point: peak})
                sums.append(tag.copy())
    members = np.full((len(bodies), len(scores)), -1, np.int64)
    for row, body in enumerate(bodies):
        members[row, list(body)] = list(body.values())
    return members


def group_bodies(
    heatmaps: Float[Tensor, "n k h w"],
    tags: Float[Tensor, "n t k h w"],
    order: Int[np.ndarray, " k"],
    config: GroupingConfig | None = None,
) -> list[SceneBodies]:
    """The bodies of n pictures.

    Args:
        heatmaps: of all points, float32.
        tags: T of every pixel: one, or two with that of the mirrored picture.
        order: in which points are looked at; see :func:`from_the_trunk`.
        config: how.
    """
    config = config or GroupingConfig()
    peaks = find_peaks(heatmaps, tags, config)
    scores, tags_of_peaks = peaks.scores.cpu().numpy(), peaks.tags.cpu().numpy()
    places = peaks.places.cpu().numpy()
    found = []
    for image in range(len(heatmaps)):
        members = match_peaks(scores[image], tags_of_peaks[image], order, config)
        found.append(
            _bodies(heatmaps[image], tags[image], scores[image], tags_of_peaks[image], places[image], members, config)
        )
    return found


def _bodies(
    heatmaps: Tensor,
    tags: Tensor,
    scores: NDArray[np.float32],
    tags_of_peaks: NDArray[np.float32],
    places: NDArray[np.int64],
    members: NDArray[np.int64],
    config: GroupingConfig,
) -> SceneBodies:
    """The bodies of one picture from the peaks that are theirs."""
    points = np.arange(members.shape[1])
    is_peak = members >= 0
    values = np.where(is_peak, scores[points, members], 0.0).astype(np.float32)
    of_bodies = values.mean(axis=1)
    best = np.argsort(-of_bodies, kind="stable")[: config.max_bodies]
    members, is_peak, values = members[best], is_peak[best], values[best]
    at = np.where(is_peak, places[points, members], 0)
    if config.refine and not is_peak.all():
        of_peaks = np.where(is_peak[..., None], tags_of_peaks[points, members], 0.0)
        means = of_peaks.sum(axis=1) / is_peak.sum(axis=1)[:, None]
        bodies, missing = np.nonzero(~is_peak)
        at[bodies, missing], values[bodies, missing] = _best_places(heatmaps, tags, means[bodies], missing)
    bodies, known = np.nonzero(values > 0)
    keypoints = np.zeros((*values.shape, 2), np.float32)
    keypoints[bodies, known] = _adjusted(heatmaps, known, at[bodies, known])
    return SceneBodies(keypoints, np.maximum(values, 0.0), of_bodies[best])


_MAPS_AT_ONCE = 64


def _best_places(
    heatmaps: Tensor, tags: Tensor, wanted: NDArray[np.floating], points: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where the heatmap of a point, less the rounded distance of tags, is largest, and the heatmap's value there.

    Args:
        heatmaps: (K, h, w).
        tags: (T, K, h, w).
        wanted: (q, T) tags of bodies.
        points: (q,) which point is wanted of each.
    """
    places, values = [], []
    for start in range(0, len(points), _MAPS_AT_ONCE):
        of_point = torch.from_numpy(points[start : start + _MAPS_AT_ONCE]).to(heatmaps.device)
        tag = torch.from_numpy(wanted[start : start + _MAPS_AT_ONCE]).to(tags)
        maps = heatmaps.flatten(1)[of_point]
        distance = (tags.flatten(2)[:, of_point] - tag.T[..., None]).square().sum(0).sqrt()
        best = (maps - distance.round()).argmax(dim=1, keepdim=True)
        places.append(best[:, 0].cpu().numpy())
        values.append(maps.gather(1, best)[:, 0].cpu().numpy())
    return np.concatenate(places), np.concatenate(values)


def _adjusted(heatmaps: Tensor, points: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """(q, 2) x, y of places, each moved a quarter pixel towards the larger neighbour, where there are two.

    Args:
        heatmaps: (K, h, w).
        points: (q,) of which map.
        places: (q,) index into the flattened map.
    """
    height, width = heatmaps.shape[1:]
    y, x = np.divmod(places, width)
    around = np.stack(
        [
            y * width + np.maximum(x - 1, 0),
            y * width + np.minimum(x + 1, width - 1),
            np.maximum(y - 1, 0) * width + x,
            np.minimum(y + 1, height - 1) * width + x,
        ]
    )
    index = torch.from_numpy(points * (height * width) + around).to(heatmaps.device)
    left, right, up, down = heatmaps.flatten()[index].cpu().numpy()
    across = np.sign(right - left) * ((x > 0) & (x < width - 1))
    along = np.sign(down - up) * ((y > 0) & (y < height - 1))
    return np.stack([x + 0.25 * across, y + 0.25 * along], axis=1).astype(np.float32)


def from_the_trunk(skeleton: Skeleton) -> Int[np.ndarray, " k"]:
    """Points in the order of their summed distance to all others along the links: first those in the middle of a body.

    What is found first founds the bodies, and limbs are mistaken more often than the trunk.
    """
    count = skeleton.num_keypoints
    distance = np.full((count, count), float(count))
    np.fill_diagonal(distance, 0.0)
    for first, second in skeleton.link_indices:
        distance[first, second] = distance[second, first] = 1.0
    for through in range(count):
        distance = np.minimum(distance, distance[:, through, None] + distance[through])
    return np.argsort(distance.sum(axis=1), kind="stable")
