"""Predictions drawn on photos and into videos, in files of their own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.prediction.instances import NO_TRACK, ImagePrediction
from posecore.prediction.outputs import Found, ImageId
from posecore.prediction.sources import Frame, Source, Video
from posecore.schema import Instance
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically, written_aside
from posecore.viz.encoded import encode_jpeg, encode_png
from posecore.viz.overlay import HEAD_COLOURS, Rgb, draw_ellipses, draw_instances, side_colour

if TYPE_CHECKING:
    from posecore.viz.video_file import VideoFile

GONE = 1 / 3
"""Points below this share of the least score that counts are not drawn; between the two they are pale."""


def draw_prediction(
    image_rgb: NDArray[np.uint8],
    prediction: ImagePrediction,
    skeleton: Skeleton,
    min_score: float,
    link_colour: Rgb | None = None,
) -> NDArray[np.uint8]:
    """Draws boxes, links, points and track numbers of all bodies; the input is left as it is.

    Args:
        image_rgb: (H, W, 3) uint8.
        prediction: of one head.
        skeleton: the head's.
        min_score: points with a lower score are drawn pale, those below :data:`GONE` of it not at all.
        link_colour: of all links, where several heads answer for one image; None is the colours of sides.
    """
    shown = prediction.keypoint_scores >= GONE * min_score
    bodies = [
        Instance(
            id=str(row),
            bbox_xywh=tuple(prediction.bbox_xywh[row].tolist()),
            keypoints=np.concatenate([prediction.keypoints[row], np.where(shown[row], 2, 0)[:, None]], axis=1).astype(
                np.float32
            ),
            area=float(prediction.bbox_xywh[row, 2:].prod()),
            area_rule="box",
        )
        for row in range(len(prediction))
    ]
    faint = list(prediction.keypoint_scores < min_score)
    canvas = draw_instances(image_rgb, bodies, skeleton, faint=faint, link_colour=link_colour)
    if prediction.uncertainty is not None:
        colours = [side_colour(point) for point in skeleton.keypoints]
        for row in range(len(prediction)):
            draw_ellipses(canvas, prediction.keypoints[row], prediction.uncertainty.ellipses[row], shown[row], colours)
    for (x, y, _, h), track_id in zip(prediction.bbox_xywh.tolist(), prediction.track_ids.tolist(), strict=True):
        if track_id != NO_TRACK:
            size = float(np.clip(h / 250, 0.4, 2.0))
            corner = int(np.clip(x, 0, image_rgb.shape[1] - 1)), int(np.clip(y, 18 * size, image_rgb.shape[0] - 1))
            for colour, width in (((20, 20, 20), 4), ((255, 255, 255), 1)):
                cv2.putText(canvas, str(track_id), corner, cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)
    return canvas


class DrawnFiles:
    """A sink that draws: every photo as a file of its own, every video as an MP4, under the sources' names."""

    def __init__(
        self,
        out: Path,
        sources: Sequence[Source],
        skeletons: Mapping[str, Skeleton],
        min_score: float,
        stack: ExitStack,
    ) -> None:
        self._out = out
        self._paths = _drawn_paths(sources)
        self._sources = {source.name: source for source in sources}
        self._skeletons = skeletons
        self._min_score = min_score
        self._stack = stack
        self._video: tuple[str, ExitStack, "VideoFile"] | None = None

    @classmethod
    @contextmanager
    def open(
        cls, out: Path, sources: Sequence[Source], skeletons: Mapping[str, Skeleton], min_score: float
    ) -> Iterator["DrawnFiles"]:
        """Draws below ``out``; a video appears when its last frame is drawn.

        Args:
            out: folder, made if missing.
            sources: everything that will be drawn.
            skeletons: by head that will answer.
            min_score: as :func:`draw_prediction` takes it.
        """
        with ExitStack() as stack:
            drawn = cls(out, sources, skeletons, min_score, stack)
            yield drawn
            drawn._end_video()

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Draws one image; the frames of a video come one after another.

        Raises:
            PredictionError: this PyAV writes no VP9.
        """
        path = self._out / self._paths[frame.name]
        if frame.index is None:
            canvas = self._drawn(frame, found)
            write_atomically(path, encode_png(canvas) if path.suffix.lower() == ".png" else encode_jpeg(canvas))
            return
        if self._video is None or self._video[0] != frame.name:
            self._end_video()
            self._video = self._begin_video(frame, path)
        self._video[2].write(lambda: self._drawn(frame, found))

    def _drawn(self, frame: Frame, found: Found) -> NDArray[np.uint8]:
        canvas = frame.image
        for number, (head, prediction) in enumerate(found.items()):
            colour = HEAD_COLOURS[number % len(HEAD_COLOURS)] if len(found) > 1 else None
            canvas = draw_prediction(canvas, prediction, self._skeletons[head], self._min_score, colour)
        return canvas

    def _begin_video(self, frame: Frame, path: Path) -> tuple[str, ExitStack, "VideoFile"]:
        files = ExitStack()
        self._stack.push(files)  # an error anywhere takes the unfinished file away
        aside = files.enter_context(written_aside(path))
        frames_per_second = Video(self._sources[frame.name]).frames_per_second
        from posecore.viz.video_file import VideoFile  # photos need no encoder

        video = VideoFile(aside, frames_per_second, frame.image.shape[:2])
        files.callback(video.close)
        return frame.name, files, video

    def _end_video(self) -> None:
        if self._video is not None:
            self._video[1].close()
            self._video = None


def _drawn_paths(sources: Sequence[Source]) -> dict[str, PurePosixPath]:
    """By source, the file it is drawn into: its own name where the suffix allows, else with the right one appended."""
    taken = {source.name for source in sources}
    paths = {}
    for source in sources:
        allowed = {".mp4"} if source.kind == "video" else {".jpg", ".jpeg", ".png"}
        name = PurePosixPath(source.name)
        if name.suffix.lower() not in allowed:
            suffix = ".mp4" if source.kind == "video" else ".jpg"
            name = name.with_name(name.name + suffix)
            while name.as_posix() in taken:
                name = name.with_name(f"_{name.name}")
            taken.add(name.as_posix())
        paths[source.name] = name
    return paths
