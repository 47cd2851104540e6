"""Names of what lies in a run, which are the same wherever the run lies: a copy of a run is the same run."""

import re
from collections.abc import Mapping
from typing import Any

from posecore.schema import Json

HERE = "{run}"
"""Stands for the run's folder in what is written down."""
_BEFORE, _AFTER = r"(?<![\w./-])", r"(?=[/\s,;:)'\"]|\.?$)"
"""What a folder's name may stand between: not in the middle of another path."""


class Places:
    """Says and reads where something lies in a run.

    Args:
        folder: of the run, absolute; a path or a URL.

    Attributes:
        folder: likewise.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder.rstrip("/")
        self._same = [self.folder]

    def add(self, folder: str) -> None:
        """Takes another folder for this run's: steps that were finished in it are reused as they are."""
        if folder not in self._same:
            self._same.append(folder)

    def names(self, value: Any) -> bool:
        """Whether a string of a JSON value names this very folder."""
        return bool(_replaced(value, _folder(self.folder), HERE) != value)

    def has(self, folder: str | None) -> bool:
        """Whether it is another that was taken for this run's."""
        return folder != self.folder and folder in self._same

    def portable(self, value: Any) -> Json:
        """The same JSON value with the run's folder replaced by :data:`HERE` in every string."""
        for folder in self._same:
            value = _replaced(value, _folder(folder), HERE)
        return value


def _folder(folder: str) -> re.Pattern[str]:
    return re.compile(_BEFORE + re.escape(folder) + _AFTER)


def placed(value: Any, folder: str) -> Json:
    """What :meth:`Places.portable` made of a value, in a run of that folder."""
    return _replaced(value, re.compile(re.escape(HERE)), folder)


def _replaced(value: Any, what: re.Pattern[str], by: str) -> Any:
    if isinstance(value, str):
        return what.sub(lambda _: by, value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, what, by) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(item, what, by) for item in value]
    return value
