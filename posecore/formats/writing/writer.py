"""What a writer of labels is: pictures with bodies in, the files of a tool out, and what they cannot hold counted."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posecore.schema import Instance
from posecore.skeletons.skeleton import Skeleton


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPicture:
    """A picture that has been written, and its bodies.

    Attributes:
        id: of the source, as text.
        path: of its file, below the folder of the export.
        width: pixels.
        height: pixels.
        bodies: points in the skeleton's order; those with ``predicted`` in their extras are pre-labels to correct.
    """

    id: str
    path: str
    width: int
    height: int
    bodies: Sequence[Instance] = field(default_factory=tuple)


class LabelWriter(ABC):
    """Takes pictures one after the other.

    Args:
        folder: of the export; there already.
        split: name of the split.
        skeleton: of every body.

    Attributes:
        lost: what the format cannot hold, with how often.
    """

    def __init__(self, folder: Path, split: str, skeleton: Skeleton) -> None:
        self.folder, self.split, self.skeleton = folder, split, skeleton
        self.lost: Counter[str] = Counter()

    def picture_path(self, name: str) -> str:
        """Where a picture of that name belongs, below the folder."""
        return f"images/{self.split}/{name}"

    @abstractmethod
    def add(self, picture: LabelledPicture) -> None:
        """Takes a picture."""

    @abstractmethod
    def close(self) -> list[Path]:
        """Writes what is written at the end; returns the files that a person opens."""
