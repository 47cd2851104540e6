"""What a reader of an annotation format is: raw files in, records out, quirks handled, nothing dropped in silence."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from posecore.schema import AreaRule, Json, Record, Reject
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Everything a reader may know of the split it reads.

    Attributes:
        dataset: name of the dataset definition.
        split: name of the split.
        root: folder of the download, local or remote.
        annotations: annotation file or folder, relative to ``root``.
        images: image folder, relative to ``root``; "" if file names are already relative to ``root``.
        skeleton: the dataset's skeleton.
        area_rule: how the OKS area is to be had.
        license: default licence id of the images.
        options: the definition's ``reader_options`` merged with the split's ``options``.
    """

    dataset: str
    split: str
    root: AnyPath
    annotations: str
    images: str
    skeleton: Skeleton
    area_rule: AreaRule
    license: str | None = None
    options: Mapping[str, Json] = field(default_factory=dict)


COMMON_OPTIONS = frozenset({"max_file_bytes"})
"""Options of every reader: the largest annotation file it reads whole."""


class Reader(Protocol):
    """Reads one annotation format. Constructed without arguments; stateless, so it may be pickled to any worker.

    A reader with options of its own names them in the class attribute ``options``, a frozenset; others are refused.
    """

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """Yields one record per image, in a stable order, and one reject per image or instance it cannot represent.

        Keypoints leave in COCO flags and 0-based pixels, boxes as xywh. A reader does not open image files: width
        and height are what the annotation says, or 0.

        Raises:
            DatasetError: a file is missing or not in this format; the message names the file and what was expected.
        """
        ...


class ReaderOfParts(ABC):
    """A reader whose format is many files or folders: a cluster reads several of them at a time.

    Each part is read as if the others were not there: what must be unique is checked among all of them when shards are
    planned.
    """

    @abstractmethod
    def parts(self, source: Source) -> Sequence[str]:
        """Names of the parts, in the order in which :meth:`read` yields them; what a name means is the reader's affair.

        Raises:
            DatasetError: there is none, or the download is not in this format.
        """

    @abstractmethod
    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """Yields what :meth:`Reader.read` would, of one part."""

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """Every part, one after the other."""
        for part in self.parts(source):
            yield from self.read_part(source, part)
