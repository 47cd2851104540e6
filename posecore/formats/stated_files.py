"""Pictures and videos by the paths that tools have written: those of the machine that somebody labelled on."""

import re
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from posecore.formats.files import relative_path
from posecore.formats.reader import Source
from posecore.formats.values import Refusal
from posecore.videos.address import VIDEO_FORMATS, frame_address

_MAX_PIECES = 64
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of a file that was uploaded to it."""


class StatedFiles:
    """Finds the files of a download that stated paths mean.

    A path is tried below the split's ``images`` and beside the annotations, whole, and then with one leading folder
    less after the other; what was left out once is left out first the next time. A file that is nowhere is given its
    place in ``images``, where checks and ingestion miss it by name.
    """

    def __init__(self, source: Source, annotations: str) -> None:
        self._source = source
        self._tops = list(dict.fromkeys([source.images, str(PurePosixPath(annotations).parent)]))
        self._guess = (0, 0)
        self.find = lru_cache(maxsize=1 << 14)(self._find)
        """Path below the root of a stated one; raises Refusal where it is none."""

    def _find(self, stated: str) -> str:
        pieces = [piece for piece in _path_of(stated).replace("\\", "/").split("/") if piece not in ("", ".", "..")]
        if pieces and re.fullmatch("[A-Za-z]:", pieces[0]):
            pieces = pieces[1:]
        if not pieces or len(pieces) > _MAX_PIECES:
            raise Refusal("path-escape", f"{stated!r:.80} names no file.")
        tries = [(top, left) for left in range(len(pieces)) for top in range(len(self._tops))]
        for top, left in sorted(tries, key=lambda one: one != self._guess):
            for name in dict.fromkeys([pieces[-1], _UPLOAD.sub("", pieces[-1])]):
                path = relative_path(self._tops[top], *pieces[left:-1], name)
                if (self._source.root / path).exists():
                    self._guess = (top, left)
                    return path
        return relative_path(self._tops[0], pieces[-1])


def frame_of(video: str, number: int) -> str:
    """What a record's ``image`` says of a frame of a film.

    Raises:
        Refusal: the file is no film, or it has no such frame.
    """
    if not video.lower().endswith(tuple(VIDEO_FORMATS)):
        raise Refusal("unreadable-file", f"{video or 'nothing'} is no film of {', '.join(VIDEO_FORMATS)}.")
    if not 0 <= number < 10**9:
        raise Refusal("missing-image-entry", f"{video} has no frame {number}.")
    return frame_address(video, frame=number)


def _path_of(stated: str) -> str:
    """The path within an address, such as ``/data/local-files/?d=mice/1.png`` or ``s3://bucket/mice/1.png``."""
    if "://" not in stated and "?d=" not in stated:
        return stated
    try:
        parts = urlsplit(stated)
    except ValueError:
        return stated
    named = parse_qs(parts.query).get("d")
    return named[0] if named else unquote(parts.path)
