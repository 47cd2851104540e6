"""Which box of a frame is the body of which box before: tracking by overlap alone.

Boxes of a frame are given to the tracks so that the summed intersection over union (IoU) is largest (Kuhn 1955, the
Hungarian method, as in SORT: Bewley et al. 2016, without its motion model). Good enough for people who move less than
their own width between frames; it knows no faces, so two who cross may swap numbers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray


@dataclass(slots=True)
class _Track:
    number: int
    bbox_xywh: NDArray[np.float64]
    seen_s: float


class Tracker:
    """Numbers bodies through one video; numbers start at 0 and are never used again.

    Args:
        min_iou: a smaller overlap with a track's latest box starts a new track.
        max_gap_s: a track not seen for longer is over; one seen again sooner keeps its number.
    """

    def __init__(self, min_iou: float = 0.3, max_gap_s: float = 1.0) -> None:
        self._min_iou = min_iou
        self._max_gap_s = max_gap_s
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, bbox_xywh: Float[np.ndarray, "N 4"], time_s: float) -> Int[np.ndarray, " N"]:
        """Track numbers of the boxes of the next frame.

        Args:
            bbox_xywh: x, y, w, h in image pixels.
            time_s: when the frame was taken, in seconds; not before the frame of the previous call.
        """
        from scipy.optimize import linear_sum_assignment  # only videos need it

        self._tracks = [track for track in self._tracks if time_s - track.seen_s <= self._max_gap_s]
        known = np.array([track.bbox_xywh for track in self._tracks]).reshape(-1, 4)
        overlap = iou(known, bbox_xywh)
        numbers = np.full(len(bbox_xywh), -1, np.int64)
        # What overlaps too little must not take part: it would trade a good pair for two bad ones.
        allowed = overlap >= self._min_iou
        rows, columns = linear_sum_assignment(np.where(allowed, overlap, 0.0), maximize=True)
        for row, column in zip(rows, columns, strict=True):
            if allowed[row, column]:
                track = self._tracks[row]
                track.bbox_xywh, track.seen_s = bbox_xywh[column], time_s
                numbers[column] = track.number
        for column in np.flatnonzero(numbers < 0):
            self._tracks.append(_Track(self._next, bbox_xywh[column], time_s))
            numbers[column] = self._next
            self._next += 1
        return numbers


def iou(first_xywh: Float[np.ndarray, "N 4"], second_xywh: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every pair of boxes; 0 where both have no area."""
    low = np.maximum(first_xywh[:, None, :2], second_xywh[None, :, :2])
    high = np.minimum(
        first_xywh[:, None, :2] + first_xywh[:, None, 2:], second_xywh[None, :, :2] + second_xywh[None, :, 2:]
    )
    common = np.maximum(high - low, 0.0).prod(axis=2)
    union = first_xywh[:, None, 2:].prod(axis=2) + second_xywh[None, :, 2:].prod(axis=2) - common
    shares: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares
