from itertools import chain

import cv2
import numpy as np
import pytest

from posecore.ingest import twins
from posecore.ingest.perceptual import Likeness, PerceptualHashes, perceptual_hash_of_pixels
from posecore.ingest.twins import first_twins, kept_of_twins


def alike(a, b, likeness):
    """(A, B) by comparing all with all, in other words."""
    bits = np.array([[bin(int(x) ^ int(y)).count("1") for y in b.bits] for x in a.bits])
    with np.errstate(invalid="ignore"):
        correlation = np.corrcoef(a.thumbnails, b.thumbnails)[: len(a), len(a) :]
    usable = a.usable[:, None] & b.usable
    return (bits <= likeness.max_distance) & (correlation >= likeness.min_correlation) & usable


def first_of(matrix):
    return np.where(matrix.any(axis=0), matrix.argmax(axis=0), -1)


def unlike(random, number):
    scenes = random.integers(0, 255, (number, 6, 6), np.uint8)
    return [cv2.resize(scene, (32, 32), interpolation=cv2.INTER_CUBIC) for scene in scenes]


def hashes_of(pixels):
    return PerceptualHashes.of([perceptual_hash_of_pixels(each) for each in pixels])


def noisy(random, pixels, strength):
    return np.clip(pixels + random.normal(0, strength, pixels.shape), 0, 255).astype(np.uint8)


def pictures(random):
    """Unlike ones, copies with noise, frames of one camera on one room, and ones without contrast."""
    rooms = unlike(random, 2)
    pixels = unlike(random, 120)
    pixels += [noisy(random, pixels[int(random.integers(120))], 6) for _ in range(60)]
    pixels += [noisy(random, rooms[number % 2], float(random.uniform(2, 40))) for number in range(200)]
    pixels += [np.full((32, 32), 128, np.uint8)] * 10
    random.shuffle(pixels)
    return hashes_of(pixels)


@pytest.fixture(params=["all with all", "by blocks", "by blocks, most in clusters", "blocks of few bits"])
def way(request, monkeypatch):
    """Small sets are compared all with all unless told otherwise."""
    if request.param != "all with all":
        monkeypatch.setattr(twins, "_COMPARISON_S", 1.0)
    if request.param == "by blocks, most in clusters":
        monkeypatch.setattr(twins, "_FEW_MEETINGS", 20)
        monkeypatch.setattr(twins, "_MEETING_S", 1e3)
    if "few bits" in request.param or "clusters" in request.param:
        monkeypatch.setattr(twins, "_MOST_KEY_BITS", 13)
    monkeypatch.setattr(twins, "_PAIRS_AT_ONCE", 500)
    monkeypatch.setattr(twins, "_QUERIES_AT_ONCE", 64)
    monkeypatch.setattr(twins, "_ROWS_AT_ONCE", 50)
    monkeypatch.setattr(twins, "_MEMBERS_AT_ONCE", 16)


@pytest.mark.parametrize("likeness", [Likeness(), Likeness(max_distance=2), Likeness(min_correlation=0.6)])
def test_the_search_answers_what_comparing_all_with_all_does(way, likeness):
    random = np.random.default_rng(0)
    a, b = pictures(random), pictures(random)
    b = PerceptualHashes.joined([a.take(np.arange(30, 90)), b])
    expected = first_of(alike(a, b, likeness))
    assert 60 <= (expected >= 0).sum() < len(b)
    assert np.array_equal(first_twins(a, b, likeness), expected)


def test_a_set_is_asked_for_what_came_before(way):
    hashes = pictures(np.random.default_rng(1))
    matrix = alike(hashes, hashes, Likeness())
    assert np.array_equal(first_twins(hashes, hashes, Likeness(), earlier_only=True), first_of(np.triu(matrix, 1)))


def test_random_hashes_of_many_distances_are_found_to_the_bit(way):
    random = np.random.default_rng(2)
    bits = random.integers(0, 1 << 63, 80, np.uint64)
    changes = [sum(1 << int(bit) for bit in random.choice(64, n % 14, replace=False)) for n in range(80)]
    thumbnails = random.integers(0, 256, (80, 256), np.uint8)
    a = PerceptualHashes(bits, thumbnails, np.ones(80, np.bool_))
    b = PerceptualHashes(bits ^ np.array(changes, np.uint64), thumbnails, np.ones(80, np.bool_))
    for max_distance in (0, 1, 3, 8, 11):
        found = first_twins(a, b, Likeness(max_distance=max_distance))
        assert np.array_equal(found, np.where(np.arange(80) % 14 <= max_distance, np.arange(80), -1))


@pytest.mark.parametrize("max_distance", [0, 1, 2, 5, 8, 11])
def test_hashes_that_are_near_agree_in_a_key_of_every_division(max_distance):
    random = np.random.default_rng(5)
    for division in twins._divisions(max_distance, 26):
        keys = [set(chain.from_iterable(range(*ends) for ends in key)) for key in division.every_key()]
        assert len(keys) == division.num_keys <= 1300
        assert max(len(bits) for bits in keys) == division.key_bits <= 26
        for _ in range(200):
            changed = set(random.choice(64, max_distance, replace=False).tolist())
            assert any(bits.isdisjoint(changed) for bits in keys), division


def test_bits_that_say_the_same_are_put_into_different_groups():
    random = np.random.default_rng(6)
    halves = np.repeat(random.integers(0, 2, (4000, 32), np.uint8), 2, axis=1)  # neighbours are equal
    bits = np.packbits(halves.ravel()).view(np.uint64)
    order = twins._order_of_bits(bits[:2000], bits[2000:], 2)
    assert sorted(order.tolist()) == list(range(64))
    assert sorted((order[:32] // 2).tolist()) == sorted((order[32:] // 2).tolist()) == list(range(32))


def test_what_is_kept_of_twins_is_what_going_through_them_one_by_one_keeps(way):
    random = np.random.default_rng(3)
    scenes = unlike(random, 8)
    film = [noisy(random, cv2.addWeighted(scenes[n // 30], 1 - n % 30 / 29, scenes[n // 30 + 1], n % 30 / 29, 0), 1)
            for n in range(210)]  # fmt: skip
    hashes = hashes_of(film + unlike(random, 30))
    matrix = alike(hashes, hashes, Likeness())
    kept: list[int] = []
    for row in range(len(hashes)):
        if not matrix[kept, row].any():
            kept.append(row)
    twin = kept_of_twins(hashes, Likeness())
    assert np.flatnonzero(twin < 0).tolist() == kept
    assert 40 < len(kept) < 200
    gone = np.flatnonzero(twin >= 0)
    assert matrix[twin[gone], gone].all()
    assert (twin[gone] < gone).all()
    assert set(twin[gone].tolist()) <= set(kept)


def test_nothing_is_found_in_nothing():
    nothing = PerceptualHashes.of([])
    some = hashes_of(unlike(np.random.default_rng(4), 3))
    assert first_twins(nothing, some, Likeness()).tolist() == [-1, -1, -1]
    assert len(first_twins(some, nothing, Likeness())) == len(kept_of_twins(nothing, Likeness())) == 0
