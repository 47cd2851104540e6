"""Photos and videos through a predictor into result files: what cannot be used is noted, the rest goes on."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from tqdm import tqdm

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import PredictionError
from posecore.prediction.instances import NO_TRACK, Boxes
from posecore.prediction.outputs import Found, ImageId, Sink
from posecore.prediction.predictor import Predictor
from posecore.prediction.smoothing import KeypointSmoother, SmoothingSettings
from posecore.prediction.sources import Frame, Source, Video, read_photo
from posecore.prediction.tracks import Tracker

if TYPE_CHECKING:
    from posecore.prediction.box_files import BoxFile
    from posecore.prediction.detectors import Detector

_READERS = 4
_MOST_DIGITS = 15
_DETECTOR_BATCH = 8
_DETECTOR_PIXELS = 64 << 20

Locator = Callable[[Sequence[Frame]], Sequence[Boxes | None]]
"""Frames to the boxes on them, None for the whole image."""


class VideoSettings(Config):
    """What is done beyond single frames.

    Attributes:
        track: number the bodies through a video.
        min_iou: overlap with a track's latest box below which a box is a new body.
        max_gap_s: seconds a body may be out of sight and keep its number.
        smoothing: filter the points of every track; None leaves them as predicted. Needs ``track``.
    """

    track: bool = False
    min_iou: float = Field(default=0.3, gt=0, le=1)
    max_gap_s: float = Field(default=1.0, ge=0)
    smoothing: SmoothingSettings | None = None


@dataclass
class Report:
    """What became of the inputs.

    Attributes:
        num_images: photos and frames that were answered.
        num_bodies: in all of them, by the first head.
        failures: name of every file that could not be used, or not wholly, with the reason.
        turned: names of photos that viewers show turned, and whose points are those of the stored pixels.
    """

    num_images: int = 0
    num_bodies: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)


class ImageNumbers:
    """Ids of images: the box file's own where it states one, else the next number that is free.

    Where there is no box file, and all photos are called by different numbers (COCO's ``000000000139.jpg`` has the id
    139), those are their ids.

    Args:
        file: names ids, or None.
        photos: their names.
    """

    def __init__(self, file: "BoxFile | None" = None, photos: Sequence[str] = ()) -> None:
        self._file = file
        stems = [PurePosixPath(name).stem for name in photos]
        numbers = [int(stem) for stem in stems if stem.isdecimal() and len(stem) <= _MOST_DIGITS]
        are_ids = file is None and len(set(numbers)) == len(photos)
        self._of_photo = dict(zip(photos, numbers, strict=True)) if are_ids else {}
        stated = self._of_photo.values() if file is None else file.image_ids.values()
        self._last = max((number for number in stated if isinstance(number, int)), default=0)

    def __call__(self, frame: Frame) -> ImageId:
        """The id of an image; asking twice gives a new number, unless it has one of its own."""
        if frame.name in self._of_photo:
            return self._of_photo[frame.name]
        if self._file is not None and frame.index is None:
            stated = self._file.image_ids.get(self._file.key_of(frame.name) or "")
            if stated is not None:
                return stated
        self._last += 1
        return self._last


def whole_images(frames: Sequence[Frame]) -> list[Boxes | None]:
    """The locator for images that show one body each."""
    return [None] * len(frames)


def boxes_of_detector(detector: "Detector") -> Locator:
    """The locator that asks a detector."""
    return lambda frames: detector([frame.image for frame in frames])


def boxes_of_file(file: "BoxFile", sources: Sequence[Source]) -> Locator:
    """The locator that looks into a file; an image the file does not name has no body.

    Raises:
        PredictionError: the file names none of the sources, or two sources by one name.
    """
    if not file.images:
        raise PredictionError(f"{file.path} holds no box.")
    keys = keys_of_sources(file, sources)
    return lambda frames: [file.of(keys[frame.name], frame.index) for frame in frames]


def keys_of_sources(file: "BoxFile", sources: Sequence[Source]) -> dict[str, str | None]:
    """What a file calls each source, by the source's name; None where it does not name it.

    Raises:
        PredictionError: the file names none of the sources, or two sources by one name.
    """
    keys = {source.name: file.key_of(source.name) for source in sources}
    times = Counter(key for key in keys.values() if key is not None)
    if not times:
        raise PredictionError(
            f"{file.path} names {counted(len(file.images), 'image')}{_such_as(file.images)}, but none of those "
            f"given{_such_as(keys)}; name images as they are called."
        )
    (key, most), *_ = times.most_common(1)
    if most > 1:
        meant = ", ".join(name for name, found in keys.items() if found == key)
        raise PredictionError(f"{file.path}: {key!r} could be any of {meant}; name images with their folders.")
    return keys


def _such_as(names: Iterable[str]) -> str:
    return "".join(f" (such as {name})" for name in sorted(names)[:1])


def predict_sources(
    predictor: Predictor,
    sources: Sequence[Source],
    heads: Sequence[str],
    sinks: Sequence[Sink],
    locate: Locator = whole_images,
    video: VideoSettings | None = None,
    image_id_of: Callable[[Frame], ImageId] | None = None,
    show_progress: bool = True,
) -> Report:
    """Predicts every photo, then every video, each in order.

    Args:
        predictor: the model.
        sources: what to predict on.
        heads: who answers.
        sinks: who is told; the calls come in the order of the images.
        locate: finds the bodies.
        video: tracking and smoothing.
        image_id_of: numbers the images; None as :class:`ImageNumbers` does without a box file.
        show_progress: draw progress bars, one for the photos and one per video.
    """
    report = Report()
    photos = [source for source in sources if source.kind == "photo"]
    number = image_id_of or ImageNumbers(photos=[source.name for source in photos])

    def answer(frames: Iterable[Frame], after: Callable[[Frame, Found], Found]) -> None:
        located = _located(frames, locate, report)
        for frame, found in predictor.stream(((frame, frame.image, boxes) for frame, boxes in located), heads):
            report.num_images += 1
            report.num_bodies += len(found[heads[0]])
            image_id, final = number(frame), after(frame, found)
            for sink in sinks:
                sink.write(frame, image_id, final)

    with tqdm(total=len(photos), unit="photo", disable=not (show_progress and photos)) as bar:
        answer(_photos(photos, report, bar.update, predictor.settings.scale_range), lambda _, found: found)
    for source in sources:
        if source.kind == "video":
            try:
                frames = Video(source)
            except PredictionError as error:
                report.failures.append((source.name, str(error)))
                continue
            with tqdm(
                total=frames.num_frames or None, unit="frame", desc=source.name, disable=not show_progress
            ) as bar:
                answer(_counted(frames, source, report, bar.update), _Follower(heads, video or VideoSettings()))
    return report


class _Follower:
    """Numbers and smooths the bodies of one video."""

    def __init__(self, heads: Sequence[str], settings: VideoSettings) -> None:
        self._tracker = Tracker(settings.min_iou, settings.max_gap_s) if settings.track else None
        smoothing = settings.smoothing if settings.track else None
        self._smoothers = {head: KeypointSmoother(smoothing, settings.max_gap_s) for head in heads if smoothing}

    def __call__(self, frame: Frame, found: Found) -> Found:
        if self._tracker is None:
            return found
        # Heads may have dropped different duplicates: a box that any of them kept is a body.
        box_of_row = {
            int(row): box
            for prediction in found.values()
            for row, box in zip(prediction.box_rows, prediction.bbox_xywh, strict=True)
        }
        rows = sorted(box_of_row)
        numbers = np.full(max(rows, default=-1) + 1, NO_TRACK, np.int64)
        numbers[rows] = self._tracker.update(
            np.array([box_of_row[row] for row in rows]).reshape(len(rows), 4), frame.time_s
        )
        tracked = {head: prediction.with_tracks(numbers) for head, prediction in found.items()}
        return {
            head: prediction.with_keypoints(
                self._smoothers[head].update(prediction.keypoints, prediction.track_ids, frame.time_s)
            )
            if head in self._smoothers
            else prediction
            for head, prediction in tracked.items()
        }


def _photos(
    sources: Sequence[Source],
    report: Report,
    advance: Callable[[], object],
    scale_range: tuple[float, float] | None,
) -> Iterator[Frame]:
    """Photos in order, decoded ahead by a few threads."""
    waiting: deque[tuple[Source, Future[Frame]]] = deque()
    left = iter(sources)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read-photo") as readers:
        try:
            while True:
                while len(waiting) < 2 * _READERS and (source := next(left, None)) is not None:
                    waiting.append((source, readers.submit(read_photo, source, scale_range)))
                if not waiting:
                    return
                source, reading = waiting.popleft()
                advance()
                try:
                    frame = reading.result()
                except PredictionError as error:
                    report.failures.append((source.name, str(error)))
                    continue
                report.turned += [frame.name] * frame.turned
                yield frame
        finally:
            readers.shutdown(cancel_futures=True)


def _counted(video: Video, source: Source, report: Report, advance: Callable[[], object]) -> Iterator[Frame]:
    """The frames of a video; far fewer than it states are reported."""
    count = 0
    for frame in video:
        count += 1
        advance()
        yield frame
    if count < 0.9 * video.num_frames:  # the stated number is an estimate in some formats
        report.failures.append(
            (
                source.name,
                f"{source.name}: only {count} of {counted(video.num_frames, 'frame')} can be decoded; is the file "
                "whole?",
            )
        )


def _located(frames: Iterable[Frame], locate: Locator, report: Report) -> Iterator[tuple[Frame, Boxes | None]]:
    """Frames with their boxes; a frame with a box that cannot be cropped is reported and left out."""
    waiting: list[Frame] = []

    def boxed() -> Iterator[tuple[Frame, Boxes | None]]:
        for frame, boxes in zip(waiting, locate(waiting), strict=True):
            try:
                if boxes is not None:
                    boxes.check(frame.image.shape[:2], str(frame))
            except PredictionError as error:
                report.failures.append((frame.name, str(error)))
            else:
                yield frame, boxes
        waiting.clear()

    for frame in frames:
        waiting.append(frame)
        if len(waiting) == _DETECTOR_BATCH or sum(other.image.size // 3 for other in waiting) > _DETECTOR_PIXELS:
            yield from boxed()
    yield from boxed()
