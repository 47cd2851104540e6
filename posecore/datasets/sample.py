"""Some of many records, every one as likely as the others, without knowing how many there are."""

import numpy as np

from posecore.schema import Record


class Sample:
    """A reservoir with a fixed seed: the same records in the same order give the same sample.

    Args:
        size: how many records it holds at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen = 0
        self._random = np.random.default_rng(0)
        self._chosen: list[tuple[int, Record]] = []

    def offer(self, record: Record) -> None:
        """Looks at the next record."""
        if len(self._chosen) < self._size:
            self._chosen.append((self._seen, record))
        elif (slot := int(self._random.integers(self._seen + 1))) < self._size:
            self._chosen[slot] = (self._seen, record)
        self._seen += 1

    @property
    def records(self) -> list[Record]:
        """Those it holds, in the order they were offered."""
        return [record for _, record in sorted(self._chosen, key=lambda item: item[0])]
