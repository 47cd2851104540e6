"""Generators are named by purpose, seed, dataset and counters."""

import hashlib
import itertools

import numpy as np

from posecore.loading.randomness import Purpose, Redrawn, crop_seeds, generator


def test_every_name_has_its_own_numbers():
    names = itertools.product([Purpose.PASS_ORDER, Purpose.AUGMENTATION], [0, 1], ["a", "b"], [0, 1], [0, 1])
    draws = [tuple(generator(*name).random(2)) for name in names]
    assert len(set(draws)) == 32


def test_purposes_keep_their_numbers_and_share_none():
    """Another number is another stream: a resumed run would draw other crops from there on."""
    numbers = {"PASS_ORDER": 0, "EPOCH_ORDER": 1, "AUGMENTATION": 2, "CENTER_JITTER": 3, "METHOD": 4, "APPEARANCE": 5}
    numbers |= {"BLANKET": 6, "CAMERA": 7, "DEPTH": 8}
    members = {name: purpose.value for name, purpose in Purpose.__members__.items()}
    assert {name: members[name] for name in numbers} == numbers
    assert len(set(members.values())) == len(members)


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


def test_what_is_left_out_of_a_name_is_the_same_for_both():
    ours, new = Redrawn().generator(Purpose.BLANKET, 1), generator(Purpose.BLANKET, 1)
    assert (
        ours.random(3).tolist() == new.random(3).tolist() == generator(Purpose.BLANKET, 1, "", 0, 0).random(3).tolist()
    )


def test_seeds_of_crops_differ_in_every_part_and_do_not_depend_on_their_batch():
    rows, passes = np.arange(2000) % 1000, np.arange(2000) // 1000
    seeds = crop_seeds(7, "people", passes, rows)
    others = [crop_seeds(8, "people", passes, rows), crop_seeds(7, "animals", passes, rows)]
    assert len(set(np.concatenate([seeds, *others]).tolist())) == 6000
    np.testing.assert_array_equal(crop_seeds(7, "people", passes[1234:1236], rows[1234:1236]), seeds[1234:1236])
    bits = np.unpackbits(seeds.view(np.uint8)).reshape(2000, 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.06  # 5 standard deviations
    assert crop_seeds(2**64 - 1, "people", passes[:0], rows[:0]).shape == (0,)


def test_seeds_of_crops_are_splitmix64_over_their_parts():
    """In Python's own integers: the finaliser of Steele et al., once for each of seed, pass and row."""

    def mixed(word):
        word = (word + 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return word ^ (word >> 31)

    start = int.from_bytes(hashlib.blake2b(b"4/people", digest_size=8).digest(), "little")
    seed, passes, rows = 2**63 + 5, np.array([0, 3, 3]), np.array([11, 11, 2**40])
    expected = []
    for number_of_pass, row in zip(passes.tolist(), rows.tolist(), strict=True):
        word = start
        for part in (seed, number_of_pass, row):
            word = mixed(word ^ part)
        expected.append(word)
    assert crop_seeds(seed, "people", passes, rows).view(np.uint64).tolist() == expected
