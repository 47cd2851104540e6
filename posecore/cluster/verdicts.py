"""Errors of a training worker that would come again however often it is started, and how they reach the driver.

Ray Train starts a group of workers again after any exception, ``max_failures`` times. A worker that meets a damaged
sample or a wrong setting would meet it each time, so its error is made a value: returned where every rank has it, else
left in a file, which ends the next attempt before its first step.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from posecore import errors
from posecore.errors import PoseCoreError
from posecore.storage import AnyPath, write_atomically


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What ended a training.

    Attributes:
        kind: name of an error of :mod:`posecore.errors`.
        message: its sentence.
    """

    kind: str
    message: str

    @classmethod
    def of(cls, error: PoseCoreError) -> "Verdict":
        """The verdict that an error is; of a kind of its own, that of the kind it derives from."""
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return cls(kind=kind.__name__, message=str(error))

    @classmethod
    def left_in(cls, file: AnyPath) -> "Verdict | None":
        """What an earlier attempt left; None if it left nothing."""
        with suppress(FileNotFoundError):
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        return None

    def leave_in(self, file: AnyPath) -> None:
        """Writes it down for the next attempt; where that is not possible, the worker is tried again."""
        with suppress(OSError):
            write_atomically(file, json.dumps(asdict(self)).encode())

    def error(self) -> PoseCoreError:
        """The error, to be raised."""
        error: PoseCoreError = getattr(errors, self.kind)(self.message)
        return error


def comes_again(error: PoseCoreError) -> bool:
    """Whether a second attempt would end the same way.

    It would not need to where a service or a machine was at fault, which is what derives from ``RuntimeError``.
    """
    return not isinstance(error, RuntimeError)
