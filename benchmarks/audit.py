"""How long it takes to find what two sets share, as they grow: pictures that are unlike, and pictures that are alike.

The search over perceptual hashes is measured on four kinds of made-up sets, with the hashes and thumbnails of real (if
small) pictures:

* ``unlike``: every picture is a scene of its own.
* ``rooms``: a thousand pictures by each camera, half of them in either set, that differ by the body in the room.
* ``films``: films of five hundred frames that change slowly, even frames in one set and odd ones in the other.
* ``still``: five hundred frames each of scenes in which nothing but the camera's noise changes.

Beside it stands comparing all with all, as far as that ends. One percent of each set are copies of pictures of the
other. ``exact and ids`` are the joins over digests, subjects and videos.

    python -m benchmarks.audit
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from posecore.ingest import twins
from posecore.ingest.audit import first_in, shared_ids
from posecore.ingest.perceptual import Likeness, PerceptualHash, PerceptualHashes, perceptual_hash_of_pixels
from posecore.ingest.twins import first_twins

_ALL_WITH_ALL_UP_TO = 40_000


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[15_000, 60_000, 240_000])
    parser.add_argument("--kinds", nargs="+", choices=sorted(_KINDS), default=list(_KINDS))
    options = parser.parse_args()
    print(f"{'what':<16}{'pictures each':>14}{'found':>9}{'s of processor':>16}{'exponent':>10}{'all with all, s':>17}")
    for name in options.kinds:
        last: tuple[int, float] | None = None
        for size in options.sizes:
            a, b = _with_copies(*_KINDS[name](np.random.default_rng(size), size))
            found, seconds = _timed(lambda a=a, b=b: first_twins(a, b, Likeness()))
            full = ""
            if size <= _ALL_WITH_ALL_UP_TO:
                expected, of_all = _timed(lambda a=a, b=b: _all_with_all(a, b))
                assert np.array_equal(found, expected), name
                full = f"{of_all:.1f}"
            _print(name, size, int((found >= 0).sum()), seconds, last, full)
            last = size, seconds
    last = None
    for size in options.sizes:
        tables = _tables(np.random.default_rng(size), size), _tables(np.random.default_rng(size + 1), size)
        found, seconds = _timed(lambda tables=tables: _joins(*tables))
        _print("exact and ids", size, found, seconds, last, "")
        last = size, seconds


def _print(what: str, size: int, found: int, seconds: float, last: tuple[int, float] | None, full: str) -> None:
    grown = "" if last is None else f"{np.log(seconds / last[1]) / np.log(size / last[0]):.2f}"
    print(f"{what:<16}{size:>14,}{found:>9,}{seconds:>16.2f}{grown:>10}{full:>17}", flush=True)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _all_with_all(a: PerceptualHashes, b: PerceptualHashes) -> NDArray[np.int64]:
    kept = twins._choose_division
    twins._choose_division = lambda *_: None
    clusters, twins._MOST_CLUSTERS = twins._MOST_CLUSTERS, 1
    try:
        return first_twins(a, b, Likeness())
    finally:
        twins._choose_division, twins._MOST_CLUSTERS = kept, clusters


_Sets = tuple[PerceptualHashes, PerceptualHashes]


def _unlike(random: np.random.Generator, size: int) -> _Sets:
    return tuple(_hashes(_scene(random) for _ in range(size)) for _ in range(2))


def _rooms(random: np.random.Generator, size: int) -> _Sets:
    sets: tuple[list[PerceptualHash], list[PerceptualHash]] = ([], [])
    for _ in range(-(-size // 500)):
        room = _scene(random)
        for number in range(1000):
            picture = room.copy()
            x, y = random.integers(4, 28, 2).tolist()
            cv2.ellipse(picture, (x, y), (8, 4), float(random.uniform(0, 180)), 0, 360, int(random.integers(256)), -1)
            sets[number % 2].append(perceptual_hash_of_pixels(picture))
    return PerceptualHashes.of(sets[0][:size]), PerceptualHashes.of(sets[1][:size])


def _films(random: np.random.Generator, size: int) -> _Sets:
    sets: tuple[list[PerceptualHash], list[PerceptualHash]] = ([], [])
    for _ in range(-(-size // 250)):
        scenes = [_scene(random) for _ in range(6)]
        for number in range(500):
            share, last = number % 100 / 100, scenes[number // 100 + 1]
            sets[number % 2].append(
                perceptual_hash_of_pixels(cv2.addWeighted(scenes[number // 100], 1 - share, last, share, 0))
            )
    return PerceptualHashes.of(sets[0][:size]), PerceptualHashes.of(sets[1][:size])


def _still(random: np.random.Generator, size: int) -> _Sets:
    sets: tuple[list[PerceptualHash], list[PerceptualHash]] = ([], [])
    for _ in range(-(-size // 250)):
        scene = _scene(random).astype(np.int16)
        for number in range(500):
            noise = random.integers(-12, 13, scene.shape, np.int16)
            sets[number % 2].append(perceptual_hash_of_pixels(np.clip(scene + noise, 0, 255).astype(np.uint8)))
    return PerceptualHashes.of(sets[0][:size]), PerceptualHashes.of(sets[1][:size])


_KINDS = {"unlike": _unlike, "rooms": _rooms, "films": _films, "still": _still}


def _scene(random: np.random.Generator) -> NDArray[np.uint8]:
    few = random.integers(0, 256, (7, 7), np.uint8)
    return np.asarray(cv2.resize(few, (32, 32), interpolation=cv2.INTER_CUBIC), np.uint8)


def _hashes(pictures: Any) -> PerceptualHashes:
    return PerceptualHashes.of([perceptual_hash_of_pixels(picture) for picture in pictures])


def _with_copies(a: PerceptualHashes, b: PerceptualHashes) -> _Sets:
    copies = a.take(np.arange(0, len(a), 100))
    return a, PerceptualHashes.joined([b.take(np.arange(len(b) - len(copies))), copies])


def _tables(random: np.random.Generator, size: int) -> pl.DataFrame:
    numbers = random.integers(0, 100 * size, size)
    return pl.DataFrame(
        {
            "key": [str(number) for number in range(size)],
            "digest": [f"blake3-{number:064x}" for number in numbers.tolist()],
            "subject_id": [f"subject {number}" for number in (numbers % max(1, size // 50)).tolist()],
        }
    )


def _joins(a: pl.DataFrame, b: pl.DataFrame) -> int:
    exact = first_in(a["digest"], b["digest"])
    return int((exact >= 0).sum()) + shared_ids(a, b, "subject").height


if __name__ == "__main__":
    main()
