"""Whether a text came before, among tens of millions, without keeping them."""

import numpy as np
from xxhash import xxh3_64_intdigest

_MERGED_AT_ONCE = 100_000


class Seen:
    """A set of texts that keeps 8 bytes of each: their XXH3. Of ten million texts two agree in that once in 400,000."""

    def __init__(self) -> None:
        self._known = np.empty(0, np.uint64)  # sorted
        self._new: set[int] = set()

    def add(self, text: str) -> bool:
        """Takes a text in; returns whether it was there."""
        mark = xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
        if mark in self._new or self._is_known(mark):
            return True
        self._new.add(mark)
        if len(self._new) == _MERGED_AT_ONCE:
            new = np.fromiter(self._new, np.uint64, len(self._new))
            self._known = np.sort(np.concatenate([self._known, new]))
            self._new = set()
        return False

    def _is_known(self, mark: int) -> bool:
        place = int(np.searchsorted(self._known, np.uint64(mark)))
        return place < len(self._known) and int(self._known[place]) == mark
