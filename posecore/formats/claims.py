"""Which annotations belong to which image of a file that lists them in any order: by position, as columns."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_CHUNK = 1 << 16


class Texts:
    """A column of texts that grows; None where there is none."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._latest: list[str | None] = []

    def append(self, text: str | None) -> None:
        """Adds a row."""
        self._latest.append(text)
        if len(self._latest) == _CHUNK:
            self._close()

    def column(self) -> pa.Array:
        """All rows."""
        self._close()
        return pa.concat_arrays(self._chunks)

    def _close(self) -> None:
        self._chunks.append(pa.array(self._latest, pa.string()))
        self._latest = []


class Claims:
    """The annotations of each image, given once.

    Args:
        image_ids: (n,) id of each image as text.
        wanted: (m,) id of each annotation's image; missing where it names none.
    """

    def __init__(self, image_ids: pa.Array, wanted: pa.Array) -> None:
        coded = pa.concat_arrays([image_ids, wanted]).dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy()
        self._ids = coded.dictionary
        self._of_image, of_annotation = codes[: len(image_ids)], codes[len(image_ids) :]
        self._order = np.argsort(of_annotation, kind="stable")
        self._edges = np.searchsorted(of_annotation[self._order], np.arange(len(self._ids) + 1))
        self._claimed = np.zeros(len(self._ids), np.bool_)

    def is_claimed(self, image: int) -> bool:
        """Whether an image of the same id has its annotations already."""
        return bool(self._claimed[self._of_image[image]])

    def claim(self, image: int) -> list[int]:
        """Positions of an image's annotations, in their order."""
        code = self._of_image[image]
        self._claimed[code] = True
        return self._positions(code).tolist()

    def unclaimed(self) -> Iterator[tuple[str, list[int]]]:
        """Image id and positions of what nobody claimed, by the first annotation of each id."""
        left = np.flatnonzero(~self._claimed & (np.diff(self._edges) > 0))
        for code in left[np.argsort(self._order[self._edges[left]])]:
            yield self._ids[int(code)].as_py(), self._positions(code).tolist()

    def _positions(self, code: int) -> NDArray[np.int64]:
        return self._order[self._edges[code] : self._edges[code + 1]]


def together(names: pa.Array) -> Iterator[list[int]]:
    """Positions of equal texts, by the first of each; what has none stands alone."""
    codes = names.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(np.count_nonzero(alone))
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 2))
    for code in np.argsort(order[edges[:-1]]):
        yield order[edges[code] : edges[code + 1]].tolist()


def recurring(texts: pa.Array) -> NDArray[np.bool_]:
    """(n,) whether the same text stands elsewhere in a column."""
    codes = texts.dictionary_encode().indices.to_numpy()
    recurs: NDArray[np.bool_] = np.bincount(codes)[codes] > 1
    return recurs
