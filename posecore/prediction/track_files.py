"""The tracks of videos, for tools that take those of DeepLabCut or SLEAP as CSV, or NWB.

::

    <out>/tracks/
    ├── walk.avi.coco.deeplabcut.csv   four rows of header (scorer, individuals, bodyparts, coords), a row per frame
    ├── walk.avi.coco.sleap.csv        a row per body and frame: track, frame_idx, instance.score, nose.x, nose.y, …
    └── walk.avi.coco.nwb              a PoseEstimation per track (:mod:`posecore.prediction.nwb_tracks`)

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

from posecore.extras import refuse_missing
from posecore.prediction.outputs import Found, ImageId
from posecore.prediction.sources import Frame
from posecore.prediction.video_tracks import VideoTracks
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically

_SCORER = "posecore"


class TrackFiles:
    """A sink that writes the files of each video and head when the block ends."""

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str], VideoTracks] = {}

    @classmethod
    @contextmanager
    def open(
        cls, out: Path, skeletons: Mapping[str, Skeleton], *, as_csv: bool = True, as_nwb: bool = False
    ) -> Iterator["TrackFiles"]:
        """Files below ``<out>/tracks``.

        Args:
            out: folder, made if missing.
            skeletons: by head.
            as_csv: whether to write CSV in both layouts.
            as_nwb: whether to write NWB.

        Raises:
            ConfigError: NWB is asked for, and what writes it is not installed.
        """
        if as_nwb:
            for package in ("pynwb", "ndx_pose"):
                refuse_missing(package, "an NWB file")
        files = cls()
        yield files
        for (name, head), tracks in files._tracks.items():
            path = out / "tracks" / f"{name}.{quote(head, safe='')}"
            points = skeletons[head].names
            if as_csv:
                write_atomically(path.with_name(f"{path.name}.deeplabcut.csv"), _csv(deeplabcut_rows(tracks, points)))
                write_atomically(path.with_name(f"{path.name}.sleap.csv"), _csv(sleap_rows(tracks, points)))
            if as_nwb:
                from posecore.prediction.nwb_tracks import write_nwb

                write_nwb(path.with_name(f"{path.name}.nwb"), tracks, skeletons[head])

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Takes the predictions of one frame; those of photos are none of its business."""
        if frame.index is None:
            return
        height, width = frame.image.shape[:2]
        for head, prediction in found.items():
            self._tracks.setdefault((frame.name, head), VideoTracks(frame.name, (height, width))).add(frame, prediction)


def deeplabcut_rows(tracks: VideoTracks, points: Sequence[str]) -> Iterator[Sequence[str | float | int]]:
    """Rows of DeepLabCut's CSV of several animals.

    Args:
        tracks: of a video.
        points: names, in the order of a body's points.
    """
    numbers = tracks.numbers()
    columns = [(track, point, axis) for track in numbers for point in points for axis in ("x", "y", "likelihood")]
    yield ["scorer", *(_SCORER for _ in columns)]
    yield ["individuals", *(f"track_{track}" for track, _, _ in columns)]
    yield ["bodyparts", *(point for _, point, _ in columns)]
    yield ["coords", *(axis for _, _, axis in columns)]
    nobody = [""] * (3 * len(points))
    for number, bodies in tracks.frames.items():
        values: list[str | float | int] = [number]
        for track in numbers:
            values += [value for point in bodies[track][1] for value in point] if track in bodies else nobody
        yield values


def sleap_rows(tracks: VideoTracks, points: Sequence[str]) -> Iterator[Sequence[str | float | int]]:
    """Rows of SLEAP's analysis CSV; arguments as :func:`deeplabcut_rows`."""
    yield ["track", "frame_idx", "instance.score", *(f"{point}.{part}" for point in points for part in _PARTS)]
    for number, bodies in tracks.frames.items():
        for track, (score, places) in bodies.items():
            yield [f"track_{track}", number, score, *(value for place in places for value in place)]


_PARTS = ("x", "y", "score")


def _csv(rows: Iterator[Sequence[str | float | int]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
