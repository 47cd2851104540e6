"""The search for pictures that show the same, over millions of perceptual hashes and exact all the same.

Two hashes that differ in at most d bits agree in at least m - d of m blocks of bits, whichever these are (the
pigeonhole principle, as in Manku, Jain, Das Sarma: Detecting Near-Duplicates for Web Crawling, WWW 2007), and if the
blocks are divided among r groups, in at least (m - d) / r of those of one group (the same principle again). So for each
choice of so many blocks of a group, what agrees there is brought together by sorting, and compared. Fewer sorts bring
together what agrees in fewer bits: which it is to be depends on how many pictures there are. For 8 bits there are 9
sorts by 7 bits, 105 by 17, 450 by 21, 1,287 by 24: the last is the most, however many pictures are unlike each other.
Bits that say nearly the same are put into different groups, where they do not meet in one key.

Pictures that are alike without being the same, such as those of one camera on one room, agree in many blocks and would
be compared over and over. A picture that meets so many others that comparing it with all would be quicker is left out
of that; those that are left out on both sides are compared in clusters around some of them, which the triangle
inequality keeps apart, each pair once.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posecore.ingest.perceptual import HASH_BITS, THUMBNAIL_SIDE, Likeness, PerceptualHashes

_Rows = NDArray[np.int64]

_FEW_MEETINGS = 2000
_PAIRS_AT_ONCE = 1 << 22
_MOST_KEY_BITS = 26
_MOST_SORTS = 1300
_MOST_CLUSTERS = 1024
_QUERIES_AT_ONCE = 1 << 13
_ROWS_AT_ONCE = 1 << 16
_MEMBERS_AT_ONCE = 1 << 9

_TRIED_KEYS, _TRIED_ROWS = 6, 1 << 12

# Measured seconds on one core: per picture and sort, per pair that meets, per pair of a full comparison.
_SORT_S, _MEETING_S, _COMPARISON_S = 6e-8, 4e-8, 3e-9


def first_twins(a: PerceptualHashes, b: PerceptualHashes, likeness: Likeness, earlier_only: bool = False) -> _Rows:
    """The first picture of ``a`` that shows the same, for each of ``b``; the same answer as from comparing all.

    Args:
        a: hashes of one set.
        b: hashes of the other.
        likeness: when two pictures show the same.
        earlier_only: only rows of ``a`` before that of ``b``: for a set and itself.

    Returns:
        (B,) rows of ``a``; -1 where there is none.
    """
    rows_a, rows_b = np.flatnonzero(a.usable), np.flatnonzero(b.usable)
    search = _Search(a.take(rows_a), b.take(rows_b), likeness, rows_b if earlier_only else None, rows_a)
    found = np.full(len(b), -1, np.int64)
    first = search.run()
    has = first < len(rows_a)
    found[rows_b[has]] = rows_a[first[has]]
    return found


def kept_of_twins(hashes: PerceptualHashes, likeness: Likeness) -> _Rows:
    """Which picture each of a set is the same as, going through them in order and keeping what is like none kept.

    Returns:
        (N,) the row of a kept picture that shows the same, or -1 for a picture that is kept.
    """
    twin = np.full(len(hashes), -1, np.int64)
    open_rows = np.arange(len(hashes))
    while len(open_rows):
        # Who is like nobody before is kept, and takes out whoever is like it; the rest is asked again among itself.
        undecided = first_twins(hashes.take(open_rows), hashes.take(open_rows), likeness, earlier_only=True) >= 0
        kept, rest = open_rows[~undecided], open_rows[undecided]
        found = first_twins(hashes.take(kept), hashes.take(rest), likeness)
        gone = found >= 0
        twin[rest[gone]] = kept[found[gone]]
        open_rows = rest[~gone]
    return twin


class _Search:
    """One search over usable hashes.

    Args:
        a: of one set.
        b: of the other.
        likeness: when two are the same.
        before: (B,) only rows of ``a`` whose number is below are wanted; None for all.
        numbers: (A,) of the rows of ``a``.
    """

    def __init__(
        self, a: PerceptualHashes, b: PerceptualHashes, likeness: Likeness, before: _Rows | None, numbers: _Rows
    ) -> None:
        self._a, self._b, self._likeness = a, b, likeness
        self._moments_a, self._moments_b = _moments(a.thumbnails), _moments(b.thumbnails)
        # Only rows of ``a`` below are still of interest to a row of ``b``.
        self._first = np.full(len(b), len(a)) if before is None else np.searchsorted(numbers, before)
        self._none = self._first.copy()

    def run(self) -> _Rows:
        """(B,) the first row of ``a`` that is the same; at least A where there is none."""
        division = _choose_division(self._a.bits, self._b.bits, self._likeness.max_distance)
        if division is None:
            self._compare_clusters(np.arange(len(self._a)), np.arange(len(self._b)))
        else:
            many_a, many_b = self._compare_by_blocks(division)
            self._compare_clusters(many_a, many_b)
        return np.where(self._first < self._none, self._first, len(self._a))

    def _compare_by_blocks(self, division: "_Division") -> tuple[_Rows, _Rows]:
        """Compares all pairs but those of two pictures that meet too many others; returns these."""
        met_a, met_b = np.zeros(len(self._a), np.int64), np.zeros(len(self._b), np.int64)
        most_a, most_b = (max(_FEW_MEETINGS, int(_COMPARISON_S / _MEETING_S * len(of))) for of in (self._b, self._a))
        order = _order_of_bits(self._a.bits, self._b.bits, division.num_groups)
        bits_a, bits_b = _ordered(self._a.bits, order), _ordered(self._b.bits, order)
        for blocks in division.every_key():
            groups = _Groups(_keys(bits_a, blocks), _keys(bits_b, blocks), blocks)
            met_a[groups.rows_a] += groups.counts_b[groups.group_a]
            number_b = groups.counts_before(self._first)
            met_b[groups.rows_b] += number_b
            few_a = met_a[groups.rows_a] <= most_a
            few_b = met_b[groups.rows_b] <= most_b
            begins_b = groups.begins_a[groups.group_b]
            for rows_b, rows_a in _meetings(groups.rows_b[few_b], begins_b[few_b], number_b[few_b], groups.rows_a):
                self._judge(rows_a, rows_b)
            if not few_b.all():
                others = groups.rows_b[~few_b]
                counts = np.bincount(groups.group_b[~few_b], minlength=len(groups.counts_b))
                of_a = groups.group_a[few_a]
                begins = (np.cumsum(counts) - counts)[of_a]
                for rows_a, rows_b in _meetings(groups.rows_a[few_a], begins, counts[of_a], others):
                    self._judge(rows_a, rows_b)
        return np.flatnonzero(met_a > most_a), np.flatnonzero(met_b > most_b)

    def _judge(self, rows_a: _Rows, rows_b: _Rows) -> None:
        """Looks at some pairs."""
        wanted = rows_a < self._first[rows_b]
        rows_a, rows_b = rows_a[wanted], rows_b[wanted]
        near = np.bitwise_count(self._a.bits[rows_a] ^ self._b.bits[rows_b]) <= self._likeness.max_distance
        rows_a, rows_b = rows_a[near], rows_b[near]
        for start in range(0, len(rows_a), _QUERIES_AT_ONCE):
            of_a, of_b = rows_a[start : start + _QUERIES_AT_ONCE], rows_b[start : start + _QUERIES_AT_ONCE]
            thumbnails = self._a.thumbnails[of_a].astype(np.float32), self._b.thumbnails[of_b].astype(np.float32)
            products = np.einsum("ij,ij->i", *thumbnails)
            alike = self._correlates(products, of_a, of_b)
            np.minimum.at(self._first, of_b[alike], of_a[alike])

    def _compare_clusters(self, rows_a: _Rows, rows_b: _Rows) -> None:
        """Compares all pairs of some rows, but what is in clusters too far from each other."""
        if not (len(rows_a) and len(rows_b)):
            return
        number = min(_MOST_CLUSTERS, max(1, int(len(rows_a) ** 0.5) // 4))
        leaders = self._a.bits[rows_a[np.arange(number) * len(rows_a) // number]]
        nearest, distance = np.empty(len(rows_a), np.int64), np.empty(len(rows_a), np.int64)
        for start in range(0, len(rows_a), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            distances = np.bitwise_count(self._a.bits[rows_a[part], None] ^ leaders)
            nearest[part], distance[part] = distances.argmin(axis=1), distances.min(axis=1)
        members = [rows_a[nearest == leader] for leader in range(number)]
        radius = np.array([distance[nearest == leader].max(initial=-HASH_BITS) for leader in range(number)])
        for start in range(0, len(rows_b), _QUERIES_AT_ONCE):
            queries = rows_b[start : start + _QUERIES_AT_ONCE]
            distances = np.bitwise_count(self._b.bits[queries, None] ^ leaders)
            reached = distances <= radius + self._likeness.max_distance
            for leader in range(number):
                self._compare_all(members[leader], queries[reached[:, leader]])

    def _compare_all(self, rows_a: _Rows, rows_b: _Rows) -> None:
        for start in range(0, len(rows_a), _MEMBERS_AT_ONCE):
            of_a = rows_a[start : start + _MEMBERS_AT_ONCE]
            of_b = rows_b[self._first[rows_b] > of_a[0]]
            if not len(of_b):
                continue
            distances = np.bitwise_count(self._b.bits[of_b, None] ^ self._a.bits[of_a])
            near = distances <= self._likeness.max_distance
            number = int(np.count_nonzero(near))
            if number * 16 < near.size:
                at_b, at_a = np.nonzero(near)
                self._judge(of_a[at_a], of_b[at_b])
                continue
            ours, theirs = self._a.thumbnails[of_a].astype(np.float32), self._b.thumbnails[of_b].astype(np.float32)
            alike = near & self._correlates(theirs @ ours.T, of_a[None], of_b[:, None])
            first = of_a[alike.argmax(axis=1)]
            better = alike.any(axis=1) & (first < self._first[of_b])
            self._first[of_b[better]] = first[better]

    def _correlates(self, products: NDArray[np.float32], rows_a: _Rows, rows_b: _Rows) -> NDArray[np.bool_]:
        """Whether Pearson's correlation of thumbnails is high enough.

        Args:
            products: sums over the products of their grey values; float32 holds them exactly, for 256 times 255² is
                below 2²⁴, so in whatever order they were added.
            rows_a: of ``a``.
            rows_b: of ``b``, likewise or to be broadcast.
        """
        (sum_a, variance_a), (sum_b, variance_b) = self._moments_a, self._moments_b
        covariance = products * float(THUMBNAIL_SIDE**2) - sum_a[rows_a] * sum_b[rows_b]
        # The root of a product: that of a square is exact, so a picture correlates with itself by 1.
        return covariance >= self._likeness.min_correlation * np.sqrt(variance_a[rows_a] * variance_b[rows_b])


class _Groups:
    """Rows of both sets by key, those whose key the other set has not left out.

    Attributes:
        rows_a: in the order of their keys.
        group_a: number of the key of each, from 0.
        counts_a: rows of each key.
        rows_b: as ``rows_a``, of the other set.
        group_b: as ``group_a``; equal keys have equal numbers.
        counts_b: as ``counts_a``.
    """

    def __init__(self, keys_a: NDArray[np.uint64], keys_b: NDArray[np.uint64], blocks: list[tuple[int, int]]) -> None:
        size = 1 << sum(end - start for start, end in blocks)
        wanted_b = np.flatnonzero(_occupied(keys_a, size)[keys_b])
        wanted_a = np.flatnonzero(_occupied(keys_b[wanted_b], size)[keys_a])
        self.rows_a, self.group_a, self.counts_a = _grouped(keys_a, wanted_a)
        self.rows_b, self.group_b, self.counts_b = _grouped(keys_b, wanted_b)

    @property
    def begins_a(self) -> _Rows:
        """Where the rows of each key begin within ``rows_a``."""
        return np.cumsum(self.counts_a) - self.counts_a

    def counts_before(self, first: _Rows) -> _Rows:
        """For each of ``rows_b``, how many of ``rows_a`` have its key and are before a row: the first so many.

        Args:
            first: that row, by row of the other set. Where a twin is known already, only earlier ones are of interest.
        """
        number = self.counts_a[self.group_b]
        edges = first[self.rows_b]
        known = np.flatnonzero(edges <= self.rows_a.max(initial=-1))
        ranked = (self.group_a << 32) | self.rows_a
        groups = self.group_b[known]
        number[known] = np.searchsorted(ranked, (groups << 32) | edges[known]) - self.begins_a[groups]
        return number

    @property
    def num_meetings(self) -> float:
        """Pairs of rows of equal keys."""
        return float(self.counts_a.astype(np.float64) @ self.counts_b)


class _Division(NamedTuple):
    """How hashes are cut into blocks, and by which of them they are brought together.

    Attributes:
        num_blocks: of nearly the same number of bits.
        num_groups: of neighbouring blocks, nearly the same number of them.
        of_a_key: blocks of one group that make up a key.
    """

    num_blocks: int
    num_groups: int
    of_a_key: int

    def every_key(self) -> Iterator[list[tuple[int, int]]]:
        """Every key, as first and last bit of each of its blocks; near hashes agree in one."""
        for group in self._groups():
            for chosen in combinations(group, self.of_a_key):
                yield self._bits_of(chosen)

    def some_keys(self) -> Iterator[list[tuple[int, int]]]:
        """A few of them, by chance and always the same."""
        random = np.random.default_rng(0)
        groups = [group for group in self._groups() if len(group) >= self.of_a_key]
        for number in range(min(_TRIED_KEYS, self.num_keys)):
            group = groups[number % len(groups)]
            yield self._bits_of(sorted(random.choice(group, self.of_a_key, replace=False).tolist()))

    @property
    def num_keys(self) -> int:
        """How many sorts it takes."""
        return sum(comb(len(group), self.of_a_key) for group in self._groups())

    @property
    def key_bits(self) -> int:
        """Of a key, at most."""
        groups = [group for group in self._groups() if len(group) >= self.of_a_key]
        sizes = [sorted(end - start for start, end in self._bits_of(group)) for group in groups]
        return max(sum(of_group[-self.of_a_key :]) for of_group in sizes)

    @property
    def mean_bits(self) -> float:
        """Of a key."""
        return HASH_BITS * self.of_a_key / self.num_blocks

    def _groups(self) -> list[range]:
        edges = [self.num_blocks * number // self.num_groups for number in range(self.num_groups + 1)]
        return [range(*ends) for ends in pairwise(edges)]

    def _bits_of(self, blocks: Iterable[int]) -> list[tuple[int, int]]:
        edges = [HASH_BITS * number // self.num_blocks for number in range(self.num_blocks + 1)]
        return [(edges[block], edges[block + 1]) for block in blocks]


@lru_cache(maxsize=32)
def _divisions(max_distance: int, most_key_bits: int) -> tuple[_Division, ...]:
    """Those worth a try: each takes more sorts than the one before, and brings together by a bit more at least."""
    every = [
        _Division(num_blocks, num_groups, -(-(num_blocks - max_distance) // num_groups))
        for num_blocks in range(max_distance + 1, HASH_BITS + 1)
        for num_groups in range(1, num_blocks - max_distance + 1)
    ]
    worth: list[_Division] = []
    for division in sorted(every, key=lambda division: (division.num_keys, -division.mean_bits)):
        more = not worth or division.mean_bits >= worth[-1].mean_bits + 1
        if more and division.num_keys <= _MOST_SORTS and division.key_bits <= most_key_bits:
            worth.append(division)
    return tuple(worth)


def _choose_division(bits_a: NDArray[np.uint64], bits_b: NDArray[np.uint64], max_distance: int) -> _Division | None:
    """How hashes are best divided, as some keys of each division tell; None: comparing all is quicker."""
    num_a, num_b = len(bits_a), len(bits_b)
    few_a, few_b = _few(bits_a), _few(bits_b)
    best, least = None, _COMPARISON_S * num_a * num_b
    for division in _divisions(max_distance, _MOST_KEY_BITS):
        sorting = division.num_keys * _SORT_S * (num_a + num_b)
        if sorting > least:
            break
        order = _order_of_bits(few_a, few_b, division.num_groups)
        tried_a, tried_b = _ordered(few_a, order), _ordered(few_b, order)
        meetings = [
            _Groups(_keys(tried_a, blocks), _keys(tried_b, blocks), blocks).num_meetings
            for blocks in division.some_keys()
        ]
        of_few = max(1, len(few_a) * len(few_b))
        seconds = sorting + _MEETING_S * division.num_keys * float(np.mean(meetings)) / of_few * num_a * num_b
        if seconds < least:
            best, least = division, seconds
    return best


def _few(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return bits[:: max(1, len(bits) // _TRIED_ROWS)]


def _order_of_bits(bits_a: NDArray[np.uint64], bits_b: NDArray[np.uint64], num_groups: int) -> NDArray[np.int64]:
    """(64,) the bits in an order in which those that correlate are in different ones of so many parts of the order."""
    each = _each_bit(np.concatenate([_few(bits_a), _few(bits_b)])).astype(np.float64)
    each -= each.mean(axis=0)
    spread = np.maximum(np.sqrt((each**2).sum(axis=0)), 1e-9)
    alike = (each.T @ each / spread / spread[:, None]) ** 2
    np.fill_diagonal(alike, 0)
    room = np.diff(HASH_BITS * np.arange(num_groups + 1) // num_groups)
    parts: list[list[int]] = [[] for _ in room]
    for bit in np.argsort(-alike.sum(axis=0), kind="stable").tolist():
        left = [place for place, part in enumerate(parts) if len(part) < room[place]]
        parts[min(left, key=lambda place: (float(alike[bit, parts[place]].sum()), len(parts[place])))].append(bit)
    random = np.random.default_rng(0)  # within a part, too, neighbours are not to be alike
    return np.concatenate([random.permutation(part) for part in parts])


def _ordered(bits: NDArray[np.uint64], order: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hashes with their bits in another order."""
    parts = [bits[start : start + _ROWS_AT_ONCE] for start in range(0, max(1, len(bits)), _ROWS_AT_ONCE)]
    return np.concatenate([np.packbits(_each_bit(part)[:, order].ravel()).view(np.uint64) for part in parts])


def _each_bit(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """(n, 64) 0 and 1."""
    return np.unpackbits(bits.reshape(-1, 1).view(np.uint8), axis=1)


def _moments(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of the grey values of each thumbnail, and n times their sum of squares less that sum squared.

    The latter is NaN, which is like nothing, where all are equal.
    """
    total = thumbnails.sum(axis=1, dtype=np.float64)
    squares = np.einsum("ij,ij->i", thumbnails, thumbnails, dtype=np.float64)
    variance = THUMBNAIL_SIDE**2 * squares - total**2
    return total, np.where(variance > 0, variance, np.nan)


def _keys(bits: NDArray[np.uint64], blocks: list[tuple[int, int]]) -> NDArray[np.uint64]:
    """The bits of some blocks as one number."""
    keys = np.zeros(len(bits), np.uint64)
    for start, end in blocks:
        keys <<= np.uint64(end - start)
        keys |= (bits >> np.uint64(start)) & np.uint64((1 << (end - start)) - 1)
    return keys


def _occupied(keys: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
    found = np.zeros(size, np.bool_)
    found[keys] = True
    return found


def _grouped(keys: NDArray[np.uint64], rows: _Rows) -> tuple[_Rows, _Rows, _Rows]:
    packed = np.sort((keys[rows] << np.uint64(32)) | rows.astype(np.uint64))
    key = packed >> np.uint64(32)
    begins = np.flatnonzero(np.diff(key, prepend=~key[:1]))
    counts = np.diff(begins, append=len(key))
    return (packed & np.uint64(0xFFFFFFFF)).astype(np.int64), np.repeat(np.arange(len(counts)), counts), counts


def _meetings(rows: _Rows, begins: _Rows, number: _Rows, others: _Rows) -> Iterator[tuple[_Rows, _Rows]]:
    """Rows of one set, each with some of the other that follow one another, some millions of pairs at a time.

    Args:
        rows: of one set.
        begins: where the others of each begin.
        number: how many these are.
        others: rows of the other set.
    """
    ends = np.cumsum(number)
    edge = 0
    while edge < len(rows):
        before = ends[edge] - number[edge]
        last = max(edge + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        part = slice(edge, last)
        within = np.arange(ends[last - 1] - before) - np.repeat(ends[part] - number[part] - before, number[part])
        yield np.repeat(rows[part], number[part]), others[np.repeat(begins[part], number[part]) + within]
        edge = last
