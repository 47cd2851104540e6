"""A folder of videos and nothing else, of which frames are taken at stated times, such as for pseudo-labels."""

import math
from collections.abc import Iterator
from fractions import Fraction

from posecore.errors import DatasetError
from posecore.formats.files import relative_path, source_file
from posecore.formats.reader import ReaderOfParts, Source
from posecore.schema import Record, Reject
from posecore.storage import AnyPath
from posecore.videos.address import VIDEO_FORMATS, frame_address
from posecore.videos.frames import VideoError, video_facts

_MOST_PIXELS = 100_000_000
_EVERY_S, _TIMES_S = "every_s", "times_s"


class VideoFolderReader(ReaderOfParts):
    """Frames of every video below the split's ``images``, in folders of any depth; nothing is known of who is seen.

    The option ``every_s`` takes the frame that is on the screen at 0 s and every so many seconds, ``times_s`` those at
    a list of times. The stage ``video_frames`` makes them pictures.
    """

    options = frozenset({_EVERY_S, _TIMES_S})

    def parts(self, source: Source) -> list[str]:
        """Every video, by its path below the folder, in order.

        Raises:
            DatasetError: the folder is missing, or there is no video in it.
        """
        top = source_file(source, source.images)
        found = sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if _is_video(path))
        if not found:
            raise DatasetError(
                f"{source.dataset} {source.split}: no file below {top} ends in {', '.join(VIDEO_FORMATS)}; name the "
                "folder of the videos as `images` of the split."
            )
        return found

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """Yields one record without instances per wanted frame of a video, in the order of time."""
        times, every = _wanted(source)
        video = relative_path(source.images, part)
        try:
            facts = video_facts(source_file(source, video), _MOST_PIXELS)
        except VideoError as error:
            yield Reject(
                reason=error.reason, detail=error.detail, dataset=source.dataset, split=source.split, source=video
            )
            return
        if every is not None:
            times = [number * every for number in range(max(1, math.ceil(Fraction(facts.duration_s) / every)))]
        for time_s in times:
            if time_s >= facts.duration_s and time_s > 0:
                continue  # the list is for all videos, and some are shorter
            image = frame_address(video, time_s=time_s)
            yield Record(
                dataset=source.dataset,
                split=source.split,
                source_id=image,
                image=image,
                width=0,
                height=0,
                license=source.license,
                video_id=video,
            )


def _wanted(source: Source) -> tuple[list[Fraction], Fraction | None]:
    every, times = source.options.get(_EVERY_S), source.options.get(_TIMES_S)
    listed = [every] if times is None else times
    numbers = isinstance(listed, list) and listed and all(type(one) in (int, float) and one >= 0 for one in listed)
    if (every is None) == (times is None) or not numbers or every == 0:
        raise DatasetError(
            f"{source.dataset} {source.split}: reader_options say when frames are taken: either {_EVERY_S}, a number "
            f"of seconds above 0, or {_TIMES_S}, a list of seconds."
        )
    exact = [Fraction(str(one)) for one in listed]
    return (exact, None) if every is None else ([], exact[0])


def _is_video(path: AnyPath) -> bool:
    return path.suffix.lower() in VIDEO_FORMATS and not path.is_dir()
