"""What a reader of an annotation format is: raw files in, records out, quirks handled, nothing dropped in silence."""

from collections.abc import Iterator, Mapping
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
