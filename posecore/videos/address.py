"""How a record names a frame of a video where others name a picture file.

``films/a.mp4#frame=12`` is the frame of that number, ``films/a.mp4#t=1.5`` the one at a time in seconds (W3C, Media
Fragments URI 1.0, section 4.2.1).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
"""By suffix, the one format a file is read as: nothing in a file makes FFmpeg read it as a list of other files."""

_SUFFIXES = "|".join(suffix[1:] for suffix in VIDEO_FORMATS)
_ADDRESS = re.compile(
    rf"(?P<video>.+\.(?:{_SUFFIXES}))#(?:frame=(?P<frame>\d{{1,9}})|t=(?P<time>\d{{1,6}}(?:\.\d{{1,9}})?))", re.I
)


@dataclass(frozen=True, slots=True)
class FrameAddress:
    """One frame of a video.

    Attributes:
        video: path of the file, relative to the dataset's root.
        frame: its number in the order of presentation, from 0; or None.
        time_s: seconds since the first frame: what is on the screen then. Exactly one of the two is given.
    """

    video: str
    frame: int | None = None
    time_s: Fraction | None = None


def frame_address(video: str, frame: int | None = None, time_s: Fraction | float | None = None) -> str:
    """What a record's ``image`` says of a frame of a video.

    Args:
        video: path of the file, relative to the dataset's root, with a suffix of :data:`VIDEO_FORMATS`.
        frame: its number in the order of presentation, from 0.
        time_s: or seconds since the first frame.
    """
    if (frame is None) == (time_s is None):
        raise ValueError("a frame of a video is named by its number or by its time.")
    address = f"{video}#frame={frame}" if time_s is None else f"{video}#t={_seconds(time_s)}"
    if parse_frame_address(address) is None:
        raise ValueError(f"{address!r} is no frame of a video; its file must end in {', '.join(VIDEO_FORMATS)}.")
    return address


def parse_frame_address(image: str) -> FrameAddress | None:
    """The frame that a record's ``image`` names; None where it names a file."""
    found = _ADDRESS.fullmatch(image)
    if found is None:
        return None
    if found["frame"] is not None:
        return FrameAddress(found["video"], frame=int(found["frame"]))
    return FrameAddress(found["video"], time_s=Fraction(found["time"]))


def file_of(image: str) -> str:
    """The file behind a record's ``image``: the picture, or the video that it is a frame of."""
    address = parse_frame_address(image)
    return image if address is None else address.video


def _seconds(time_s: Fraction | float) -> str:
    return f"{float(time_s):.9f}".rstrip("0").rstrip(".")
