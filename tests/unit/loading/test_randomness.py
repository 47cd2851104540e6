"""Generators are named by purpose, seed, dataset and counters."""

import itertools

import numpy as np

from posecore.loading.randomness import Purpose, Redrawn, generator


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


def test_a_redrawn_generator_draws_what_a_new_one_draws():
    redrawn = Redrawn()
    for name in itertools.product([Purpose.CENTER_JITTER, Purpose.AUGMENTATION], [0, 2**64 - 1], ["a"], [0, 9], [0, 1]):
        ours, new = redrawn.generator(*name), generator(*name)
        np.testing.assert_array_equal(ours.random(3), new.random(3))
        np.testing.assert_array_equal(ours.standard_normal(3), new.standard_normal(3))
        # Half a word is left over here, which must not reach the next purpose.
        assert ours.integers(1 << 20, dtype=np.uint32) == new.integers(1 << 20, dtype=np.uint32)
