"""Files beside a ``dataset.yaml`` that a stage reads."""

from dataclasses import dataclass
from pathlib import Path

from posecore.errors import IngestError
from posecore.storage import read_at_most, read_list

MAX_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """A file that ``dataset.yaml`` declares for a stage: its content is part of the stage's code, and makes new shards.

    Attributes:
        path: of the file, or of a folder, of which every file counts.
    """

    path: Path

    def read(self) -> bytes:
        """Its content.

        Raises:
            IngestError: it cannot be read, or is larger than :data:`MAX_BYTES`.
        """
        try:
            return read_at_most(self.path, MAX_BYTES)
        except OSError as error:
            raise IngestError(f"{self.path} cannot be read ({error.strerror or error}).") from None

    def lines(self) -> tuple[str, ...]:
        """Its lines without what surrounds them, empty ones and those that begin with ``#`` left out.

        Raises:
            IngestError: as :meth:`read`, or it is not text.
        """
        try:
            return read_list(self.path, MAX_BYTES)
        except OSError as error:
            raise IngestError(f"{self.path} cannot be read ({error.strerror or error}).") from None
