"""The tracks of videos as CSV, for tools that take those of DeepLabCut or SLEAP.

::

    <out>/tracks/
    ├── walk.avi.coco.deeplabcut.csv   four rows of header (scorer, individuals, bodyparts, coords), a row per frame
    └── walk.avi.coco.sleap.csv        a row per body and frame: track, frame_idx, instance.score, nose.x, nose.y, …

The first is what DeepLabCut 2 and 3 write with ``save_as_csv`` of several animals, the second SLEAP's analysis CSV. A
frame without a body is empty in the first and absent from the second. Bodies that were not tracked are numbered in each
frame.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from posecore.prediction.instances import NO_TRACK, ImagePrediction
from posecore.prediction.outputs import Found, ImageId
from posecore.prediction.sources import Frame
from posecore.storage import write_atomically

_SCORER = "posecore"
_Body = tuple[float, list[tuple[float, float, float]]]
"""Score of the body; x, y and score of each point."""


class TrackFiles:
    """A sink that writes two CSV files per video and head, when the block ends."""

    def __init__(self, folder: Path, points: Mapping[str, Sequence[str]]) -> None:
        self._folder = folder
        self._points = points
        self._bodies: dict[tuple[str, str], dict[int, dict[int, _Body]]] = {}

    @classmethod
    @contextmanager
    def open(cls, out: Path, points: Mapping[str, Sequence[str]]) -> Iterator["TrackFiles"]:
        """Files below ``<out>/tracks``.

        Args:
            out: folder, made if missing.
            points: by head, the names of its points.
        """
        files = cls(out / "tracks", points)
        yield files
        for (name, head), frames in files._bodies.items():
            stem = f"{name}.{quote(head, safe='')}"
            for kind, rows in (
                ("deeplabcut", deeplabcut_rows(frames, points[head])),
                ("sleap", sleap_rows(frames, points[head])),
            ):
                write_atomically(files._folder / f"{stem}.{kind}.csv", _csv(rows))

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Takes the predictions of one frame; those of photos are none of its business."""
        if frame.index is None:
            return
        for head, prediction in found.items():
            frames = self._bodies.setdefault((frame.name, head), {})
            frames[frame.index] = dict(_bodies(prediction))


def deeplabcut_rows(
    frames: Mapping[int, Mapping[int, _Body]], points: Sequence[str]
) -> Iterator[Sequence[str | float | int]]:
    """Rows of DeepLabCut's CSV of several animals.

    Args:
        frames: by number of the frame and of the track, the bodies.
        points: names, in the order of a body's points.
    """
    tracks = sorted({track for bodies in frames.values() for track in bodies})
    columns = [(track, point, axis) for track in tracks for point in points for axis in ("x", "y", "likelihood")]
    yield ["scorer", *(_SCORER for _ in columns)]
    yield ["individuals", *(f"track_{track}" for track, _, _ in columns)]
    yield ["bodyparts", *(point for _, point, _ in columns)]
    yield ["coords", *(axis for _, _, axis in columns)]
    nobody = [""] * (3 * len(points))
    for number, bodies in frames.items():
        values: list[str | float | int] = [number]
        for track in tracks:
            values += [value for point in bodies[track][1] for value in point] if track in bodies else nobody
        yield values


def sleap_rows(
    frames: Mapping[int, Mapping[int, _Body]], points: Sequence[str]
) -> Iterator[Sequence[str | float | int]]:
    """Rows of SLEAP's analysis CSV; arguments as :func:`deeplabcut_rows`."""
    yield ["track", "frame_idx", "instance.score", *(f"{point}.{part}" for point in points for part in _PARTS)]
    for number, bodies in frames.items():
        for track, (score, places) in bodies.items():
            yield [f"track_{track}", number, score, *(value for place in places for value in place)]


_PARTS = ("x", "y", "score")


def _bodies(prediction: ImagePrediction) -> Iterator[tuple[int, _Body]]:
    for row, track in enumerate(prediction.track_ids.tolist()):
        x, y = prediction.keypoints[row].T.tolist()
        places = list(zip(x, y, prediction.keypoint_scores[row].tolist(), strict=True))
        yield row if track == NO_TRACK else track, (float(prediction.scores[row]), places)


def _csv(rows: Iterator[Sequence[str | float | int]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
