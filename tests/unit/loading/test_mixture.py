"""The order: what every epoch contains, in which shares, how well it is mixed."""

import numpy as np
import pytest

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.loading.mixture import MixtureConfig, MixtureSampler


def mixture(*names, **fields):
    weights = fields.pop("weights", {})
    entries = [{"name": name} | ({"weight": weights[name]} if name in weights else {}) for name in names]
    return parse_config({"entries": entries, **fields}, MixtureConfig, "test")


def images_of(*counts):
    """Image number of every instance, for images with these numbers of instances."""
    return np.repeat(np.arange(len(counts)), counts)


def drawn(sampler, epochs):
    """How often each instance of each entry is drawn in the first epochs."""
    totals = [np.zeros(len(images), int) for images in sampler._images]
    for epoch in range(epochs):
        table = sampler.table(epoch)
        for dataset, instance in zip(table.dataset.ravel(), table.instance.ravel(), strict=True):
            totals[dataset][instance] += 1
    return totals


def test_natural_sampling_draws_every_instance_once_per_epoch_when_the_batch_divides_it():
    sampler = MixtureSampler(mixture("a", "b"), {"a": images_of(2, 1, 5), "b": images_of(3, 1)}, 1, 4)
    assert sampler.steps_per_epoch == 3
    for count in drawn(sampler, 1):
        assert (count == 1).all()


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_no_instance_is_ever_more_than_one_draw_ahead_of_another(epochs):
    sampler = MixtureSampler(mixture("a", "b"), {"a": images_of(2, 1, 5, 4), "b": images_of(3, 2)}, 1, 4)
    assert sampler.steps_per_epoch * 4 == 20  # 17 instances: 3 belong to the next pass
    for count in drawn(sampler, epochs):
        assert count.max() - count.min() <= 1
        assert count.min() >= epochs


def test_shares_follow_the_weights():
    config = mixture("a", "b", sampling="explicit", weights={"a": 1, "b": 3}, samples_per_epoch=40)
    sampler = MixtureSampler(config, {"a": images_of(*[2] * 50), "b": images_of(1, 1, 1)}, 1, 8)
    assert sampler.draws.tolist() == [10, 30]
    a, b = drawn(sampler, 1)
    assert a.sum() == 10
    assert b.tolist() == [10, 10, 10]


def test_temperature_flattens_the_shares():
    sizes = [900, 100]
    np.testing.assert_allclose(mixture("a", "b").shares(sizes), [0.9, 0.1])
    np.testing.assert_allclose(mixture("a", "b", sampling="temperature", temperature=2).shares(sizes), [0.75, 0.25])


def test_draws_of_a_dataset_do_not_depend_on_the_others():
    alone = MixtureSampler(mixture("a", samples_per_epoch=8), {"a": images_of(*[1] * 30)}, 5, 8)
    config = mixture("b", "a", sampling="explicit", weights={"a": 1, "b": 1}, samples_per_epoch=16)
    both = MixtureSampler(config, {"a": images_of(*[1] * 30), "b": images_of(*[1] * 30)}, 5, 8)
    for epoch in range(3):
        table = both.table(epoch)
        assert set(table.instance[table.dataset == 1]) == set(alone.table(epoch).instance.ravel())


def test_the_order_is_a_function_of_seed_and_epoch():
    def table(seed, epoch):
        sampler = MixtureSampler(mixture("a"), {"a": images_of(*[2] * 40)}, seed, 8)
        return sampler.table(epoch).instance.tobytes()

    assert table(1, 3) == table(1, 3)
    assert len({table(1, 3), table(2, 3), table(1, 4)}) == 3


@pytest.mark.parametrize("window", [1, 8])
def test_every_epoch_shuffles_anew_and_not_only_every_pass(window):
    """Passes have orders of their own, which would hide an epoch whose places are always the same."""
    config = mixture("a", "b", shuffle_window=window)
    sampler = MixtureSampler(config, {"a": images_of(*[1] * 40), "b": images_of(*[1] * 40)}, 1, 8)
    datasets = [sampler.table(epoch).dataset.tobytes() for epoch in range(4)]
    assert len(set(datasets)) == 4


@pytest.mark.parametrize("window", [1, 8])
def test_instances_of_an_image_stay_in_one_slot_and_near_each_other(window):
    random = np.random.default_rng(0)
    images = images_of(*random.integers(1, 6, 2000))
    sampler = MixtureSampler(mixture("a", shuffle_window=window), {"a": images}, 1, 32)
    image = images[sampler.table(0).instance]
    steps, slots = np.indices(image.shape)
    spans, split = [], 0
    for number in range(2000):
        where = image == number
        split += len(set(slots[where])) > 1
        if len(set(slots[where])) == 1:
            spans.append(np.ptp(steps[where]))
    assert split < 2 * 32  # only at the cuts between slots and at the end of the pass
    assert max(spans) <= 2 * window + 4


def test_shuffle_quality_is_that_of_independent_draws():
    random = np.random.default_rng(0)
    images = images_of(*random.integers(1, 6, 3000))
    sampler = MixtureSampler(mixture("a"), {"a": images}, 1, 64)
    order = sampler.table(0).instance
    # Stored neighbours do not stay neighbours: the step an instance lands in is uncorrelated with its row.
    step_of = np.empty(len(images))
    step_of[order.ravel()] = np.repeat(np.arange(len(order)), 64)
    assert abs(np.corrcoef(np.arange(len(images)), step_of)[0, 1]) < 0.05
    # Two instances of one image hardly ever share a batch, less than after a full shuffle of instances.
    repeated = sum(64 - len(np.unique(row)) for row in images[order])
    full = sum(64 - len(np.unique(row)) for row in images[random.permutation(order.ravel()).reshape(-1, 64)])
    assert repeated < full


def test_every_batch_holds_about_its_share_of_every_dataset():
    config = mixture("a", "b")
    sampler = MixtureSampler(config, {"a": images_of(*[3] * 1000), "b": images_of(*[1] * 1000)}, 1, 64)
    in_batch = (sampler.table(0).dataset == 1).sum(axis=1)
    assert abs(in_batch.mean() - 16) < 0.2
    assert in_batch.std() < 1.5 * np.sqrt(64 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"entries": [{"name": "a"}, {"name": "a"}]}, "named twice: a"),
        ({"entries": [{"name": "a"}], "sampling": "explicit"}, "missing for a"),
        ({"entries": [{"name": "a", "weight": 2}]}, "needs sampling: explicit"),
        ({"entries": [{"name": "a"}], "temperature": 2}, "needs sampling: temperature"),
        ({"entries": []}, "entries"),
        *(
            ({"entries": [{"name": "a", "weight": weight}], "sampling": "explicit"}, r"entries\.0\.weight")
            for weight in (0, -1, float("inf"), float("nan"))
        ),
    ],
)
def test_contradictory_mixtures_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(fields, MixtureConfig, "test")


def test_an_entry_without_instances_is_refused():
    with pytest.raises(ConfigError, match="mixture entry b"):
        MixtureSampler(mixture("a", "b"), {"a": images_of(1), "b": images_of()}, 1, 4)


def test_a_share_that_would_never_be_drawn_is_refused():
    config = mixture("a", "b", sampling="explicit", weights={"a": 1, "b": 1e-4})
    with pytest.raises(ConfigError, match=r"^mixture entry b \(1\.0e-04\): so small a share of an epoch of 40 samples"):
        MixtureSampler(config, {"a": images_of(*[1] * 38), "b": images_of(1, 1)}, 1, 8)


def test_nobody_has_a_share_where_there_is_nothing() -> None:
    assert mixture("a").shares([0]).tolist() == [0]
    stated = mixture("a", "b", weights={"a": 0.3, "b": 0.2}, sampling="explicit")
    np.testing.assert_allclose(stated.shares([5, 5]), [0.6, 0.4])
