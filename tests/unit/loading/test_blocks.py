"""Reading in blocks of shards: what is needed at a time, how well it is mixed, and that nothing else changes."""

import numpy as np
import pytest

from posecore.config import parse_config
from posecore.loading.blocks import ShardBlocks, divided
from posecore.loading.mixture import MixtureConfig, MixtureSampler

SHARDS, IMAGES, BLOCK = 40, 50, 8
BATCH = 32


def sampler_of(names=("a",), blocked=("a",), seed=1, window=4, batch=BATCH, **fields):
    """Sets of 40 shards of 50 images of 1 to 3 instances, in blocks of up to eight shards."""
    random = np.random.default_rng(0)
    image = np.repeat(np.arange(SHARDS * IMAGES), random.integers(1, 4, SHARDS * IMAGES))
    blocks = ShardBlocks(image // IMAGES, np.full(SHARDS, 100), BLOCK * 100)
    weights = fields.pop("weights", {})
    entries = [{"name": name} | ({"weight": weights[name]} if weights else {}) for name in names]
    config = parse_config({"entries": entries, "shuffle_window": window, **fields}, MixtureConfig, "test")
    return MixtureSampler(config, dict.fromkeys(names, image), seed, batch, dict.fromkeys(blocked, blocks)), image


def inside_of_second(sampler):
    """The steps of the second block that have no samples of another one."""
    starts = sampler.table(0).blocks[0].step
    return starts[1] + sampler.stretch, starts[2]


def test_every_instance_comes_once_per_pass():
    sampler, image = sampler_of()
    times = np.zeros(len(image), int)
    for epoch in range(3):
        np.add.at(times, sampler.table(epoch).instance.ravel(), 1)
        assert times.max() - times.min() <= 1
        assert times.min() >= epoch + 1


def test_two_blocks_are_all_that_is_ever_needed():
    sampler, image = sampler_of()
    table = sampler.table(0)
    starts = table.blocks[0].step
    length = len(table.instance) - 4  # in the last window the next pass begins
    first, last = np.full(SHARDS, 10**6), np.zeros(SHARDS, int)
    for step, row in enumerate(table.instance[:length]):
        shards = image[row] // IMAGES
        first[shards], last[shards] = np.minimum(first[shards], step), step
    in_use = [((first <= step) & (step <= last)).sum() for step in range(length)]
    assert max(in_use) <= 2 * BLOCK
    assert max(count for step, count in enumerate(in_use) if not (abs(step - starts) <= 4).any()) <= BLOCK
    assert len(starts) <= SHARDS / (BLOCK - 1) + 2


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_blocks_are_named_where_they_begin(epoch):
    sampler, image = sampler_of()
    table = sampler.table(epoch)
    starts = table.blocks[0]
    assert starts.step[0] == 0
    assert (np.diff(starts.block) > 0).all()
    assert (np.diff(starts.step) >= 0).all()
    seen: set[int] = set()
    for begin, end in zip(starts.step[1:-2], starts.step[2:-1], strict=True):
        before = set(image[table.instance[:begin]].ravel() // IMAGES)
        during = set(image[table.instance[begin:end]].ravel() // IMAGES)
        assert during - before - seen  # shards that nobody needed earlier
        seen |= during


def test_every_batch_sees_every_shard_of_its_block_about_as_often():
    sampler, image = sampler_of(window=1)
    table = sampler.table(0)
    start, end = inside_of_second(sampler)
    shard = image[table.instance[start:end]] // IMAGES
    assert len(np.unique(shard)) <= BLOCK
    for row in shard:
        _, counts = np.unique(row, return_counts=True)
        shares = counts / counts.sum()
        assert -(shares * np.log(shares)).sum() > 0.85 * np.log(len(np.unique(shard)))


def test_a_shard_keeps_to_neighbouring_slots():
    sampler, image = sampler_of()
    table = sampler.table(0)
    start, end = inside_of_second(sampler)
    shard = image[table.instance[start:end]] // IMAGES
    halves = [len(np.unique(half)) for half in np.split(shard, 2, axis=1)]
    assert sum(halves) <= BLOCK + 2  # two nodes: one or two shards of the block are needed by both


def test_instances_of_an_image_stay_in_one_slot_and_near_each_other():
    sampler, image = sampler_of(batch=8)
    assert sampler.stretch == 20
    found = image[sampler.table(0).instance]
    steps, slots = np.indices(found.shape)
    order = np.argsort(found.ravel(), kind="stable")
    ends = np.flatnonzero(np.diff(found.ravel()[order], append=-1)) + 1
    split = 0
    for which in np.split(order, ends[:-1]):
        moves = np.ptp(steps.ravel()[which]) > 2 * 4
        split += moves or len(set(slots.ravel()[which])) > 1
    assert split < 1.2 * len(image) / 20  # one at most where a slot's piece of a stretch ends


def test_shares_hold_in_every_stretch_whatever_is_blocked():
    weights = {"a": 1, "b": 2, "c": 5}
    sampler, _ = sampler_of(("a", "b", "c"), ("b",), weights=weights, sampling="explicit")
    length, table = sampler.stretch, sampler.table(0)
    count = len(table.dataset) // length
    stretches = table.dataset[: count * length].reshape(count, -1)
    counts = [np.bincount(of_stretch, minlength=3) for of_stretch in stretches]
    share = np.array([1, 2, 5]) / 8 * length * BATCH
    np.testing.assert_allclose(counts, np.tile(share, (count, 1)), atol=2)
    assert set(table.blocks) == {1}


def test_the_order_is_a_function_of_seed_and_epoch():
    def table(seed, epoch):
        return sampler_of(seed=seed)[0].table(epoch).instance.tobytes()

    assert table(1, 3) == table(1, 3)
    assert len({table(1, 3), table(2, 3), table(1, 4)}) == 3


def test_the_order_of_images_of_a_block_is_not_that_of_the_shard():
    sampler, image = sampler_of()
    table = sampler.table(0)
    step = np.repeat(np.arange(len(table.instance)), BATCH)
    shard, place = np.divmod(image[table.instance.ravel()], IMAGES)
    once = [np.corrcoef(place[shard == number], step[shard == number])[0, 1] for number in range(SHARDS)]
    assert abs(np.mean(once)) < 0.05


@pytest.mark.parametrize(
    ("sizes", "block", "expected"),
    [
        ({"a": 1000}, 100, {"a": 100}),
        ({"a": 750, "b": 250}, 100, {"a": 75, "b": 25}),
        ({"small": 40, "a": 1000}, 100, {"a": 80}),
        ({"small": 40, "other": 20, "a": 940}, 100, {"other": None, "a": None}),
        ({"a": 30}, 100, {}),
    ],
)
def test_small_sets_stay_whole_and_the_rest_is_divided(sizes, block, expected):
    found = divided(sizes, block)
    kept = sum(size for name, size in sizes.items() if name not in found)
    assert kept + 2 * sum(found.values()) <= 2 * block
    if None not in expected.values():
        assert found == expected


@pytest.mark.parametrize("block_bytes", [1, 30, 99, 100, 155, 200, 350, 10**6])
def test_no_block_is_larger_than_allowed(block_bytes):
    random = np.random.default_rng(1)
    sizes = random.integers(50, 100, 37)
    blocks = ShardBlocks(np.arange(37), sizes, block_bytes)
    of_shard = np.empty(37, np.int64)
    for seed in range(20):
        order = blocks.order(np.arange(37), 0, np.random.default_rng(seed))
        of_shard[order.instance] = order.block
        for number in np.unique(of_shard):
            chosen = of_shard == number
            assert sizes[chosen].sum() <= block_bytes or chosen.sum() == 1
