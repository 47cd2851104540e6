"""Generators are named by purpose, seed, dataset and counters."""

import itertools

from posecore.loading.randomness import Purpose, generator


def test_every_name_has_its_own_numbers():
    names = itertools.product([Purpose.PASS_ORDER, Purpose.AUGMENTATION], [0, 1], ["a", "b"], [0, 1], [0, 1])
    draws = [tuple(generator(*name).random(2)) for name in names]
    assert len(set(draws)) == 32


def test_the_same_name_gives_the_same_numbers():
    first = generator(Purpose.AUGMENTATION, 7, "coco", 3, 11).random(5)
    again = generator(Purpose.AUGMENTATION, 7, "coco", 3, 11).random(5)
    assert first.tobytes() == again.tobytes()


def test_neighbouring_counters_do_not_overlap():
    # A generator that ran into its neighbour's counter would repeat the neighbour's numbers.
    long = generator(Purpose.AUGMENTATION, 7, "coco", 0, 0).random(1000)
    for major, minor in ((0, 1), (1, 0)):
        other = generator(Purpose.AUGMENTATION, 7, "coco", major, minor).random(10)
        assert not set(other) & set(long)
