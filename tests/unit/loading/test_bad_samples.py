"""A damaged sample stops the run, or the next whole one of the same dataset stands in for it, alike for everybody."""

from itertools import islice
from pathlib import Path

import pytest

from posecore.config import parse_config
from posecore.errors import IntegrityError
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.samples import UsableInstances
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore
from tests.support.tiny_store import with_damaged_picture, write_store

SIZE = (64, 48)
STEPS = 9
PEOPLE = [1, 3, 2, 4, 1, 5, 2, 2]
DAMAGED = 3
"""The image with four people."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStore]:
    return _stores(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStore]:
    stores = _stores(tmp_path_factory.mktemp("damaged"))
    return stores | {"people": with_damaged_picture(stores["people"], DAMAGED)}


def _stores(folder: Path) -> dict[str, ShardStore]:
    animals = write_store(folder / "b", "animals", [1, 2], skeleton="ap10k17")
    return {"people": write_store(folder / "a", "people", PEOPLE), "animals": animals}


def _config(**fields: object) -> LoadingConfig:
    mixture = {"entries": [{"name": "people"}, {"name": "animals"}], "shuffle_window": 2}
    return parse_config({"mixture": mixture, "on_bad_sample": "skip", **fields}, LoadingConfig, "test")


def _batches(
    stores: dict[str, ShardStore],
    start: int = 0,
    stop: int = STEPS,
    config: LoadingConfig | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[CropBatch]:
    loader = Loader(
        stores,
        config or _config(),
        input_size=SIZE,
        seed=3,
        global_batch=8,
        rank=rank,
        world_size=world_size,
        start_step=start,
    )
    iterator = iter(loader)
    found = list(islice(iterator, stop - start))
    iterator.close()
    return found


def _crops(batches: list[CropBatch]) -> list[list[tuple[object, ...]]]:
    """Per step, the crops of all ranks, sorted."""
    steps: dict[int, list[tuple[object, ...]]] = {}
    for batch in batches:
        for group in batch.groups:
            for index in range(group.stop - group.start):
                crop = (
                    group.dataset,
                    int(group.rows[index]),
                    batch.images[group.start + index].tobytes(),
                    group.keypoints_crop[index].tobytes(),
                    group.state[index].tobytes(),
                    int(group.seeds[index]),
                )
                steps.setdefault(batch.step, []).append(crop)
    return [sorted(steps[step]) for step in sorted(steps)]


def _bad_rows(store: ShardStore) -> list[int]:
    usable = UsableInstances.of(store)
    return usable.rows[usable.image_rows == DAMAGED].tolist()


def test_by_default_a_damaged_sample_ends_the_run(damaged: dict[str, ShardStore]) -> None:
    with pytest.raises(IntegrityError, match=r"the image of sample \S+ at byte \d+ is not what was written; ingest"):
        _batches(damaged, config=_config(on_bad_sample="stop"))


def test_the_next_image_stands_in_and_all_else_is_as_it_was(
    whole: dict[str, ShardStore], damaged: dict[str, ShardStore]
) -> None:
    bad_rows, store = _bad_rows(whole["people"]), whole["people"]
    assert len(bad_rows) == PEOPLE[DAMAGED]
    stand_in = UsableInstances.of(store).rows[UsableInstances.of(store).image_rows == DAMAGED + 1].tolist()[0]
    before, after = _crops(_batches(whole)), _crops(_batches(damaged))
    for first, second in zip(before, after, strict=True):
        kept = [crop for crop in first if crop[:2] not in {("people", row) for row in bad_rows}]
        others = list(second)
        for crop in kept:
            others.remove(crop)
        assert [crop[:2] for crop in others] == [("people", stand_in)] * (len(first) - len(kept))
    assert any(crop[1] in bad_rows for crops in before for crop in crops if crop[0] == "people")


def test_a_stand_in_has_its_own_augmentation_and_seed(
    whole: dict[str, ShardStore], damaged: dict[str, ShardStore]
) -> None:
    """One epoch of natural sampling is one pass: there the instance itself comes once more, and alike."""
    length = Loader(whole, _config(), input_size=SIZE, seed=3, global_batch=8).sampler.steps_per_epoch
    usable = UsableInstances.of(whole["people"])
    stand_in = usable.rows[usable.image_rows == DAMAGED + 1].tolist()[0]
    (own,) = {c for crops in _crops(_batches(whole, 0, length - 1)) for c in crops if c[:2] == ("people", stand_in)}
    found = [c for crops in _crops(_batches(damaged, 0, length - 1)) for c in crops if c[:2] == ("people", stand_in)]
    assert len(found) > 1
    assert set(found) == {own}


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_ranks_sees_the_same(damaged: dict[str, ShardStore], world_size: int) -> None:
    ranks = [batch for rank in range(world_size) for batch in _batches(damaged, rank=rank, world_size=world_size)]
    assert _crops(ranks) == _crops(_batches(damaged))
    alone = sorted((batch.step, sample.row) for batch in _batches(damaged) for sample in batch.bad)
    assert sorted((batch.step, sample.row) for batch in ranks for sample in batch.bad) == alone


@pytest.mark.parametrize("unit", ["bodies", "images"])
def test_pre_training_has_stand_ins_too(damaged: dict[str, ShardStore], unit: str) -> None:
    config = _config(unlabelled={"unit": unit})
    alone = _batches(damaged, config=config)
    bad_rows = {DAMAGED} if unit == "images" else set(_bad_rows(damaged["people"]))
    assert {sample.row for batch in alone for sample in batch.bad} == bad_rows
    assert not bad_rows & {row for batch in alone for row in batch.groups[0].rows.tolist()}
    ranks = [batch for rank in range(2) for batch in _batches(damaged, config=config, rank=rank, world_size=2)]
    assert _crops(ranks) == _crops(alone)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_sees_the_same(damaged: dict[str, ShardStore], stop: int) -> None:
    parts = _batches(damaged, 0, stop) + _batches(damaged, stop, STEPS)
    assert _crops(parts) == _crops(_batches(damaged))


@pytest.mark.parametrize("fields", [{"num_threads": 5}, {"cache_bytes": 1}, {"num_threads": 1, "prefetch": 3}])
def test_threads_and_caches_change_nothing(damaged: dict[str, ShardStore], fields: dict[str, int]) -> None:
    assert _crops(_batches(damaged, config=_config(**fields))) == _crops(_batches(damaged))


def test_what_was_due_is_named_with_the_batch(damaged: dict[str, ShardStore]) -> None:
    batches, bad_rows = _batches(damaged), _bad_rows(damaged["people"])
    samples = [sample for batch in batches for sample in batch.bad]
    assert {sample.row for sample in samples} == set(bad_rows)
    assert {(sample.dataset, sample.allowed) for sample in samples} == {("people", 1)}  # a hundredth of 20, rounded up
    assert all("is not what was written" in sample.reason for sample in samples)


def test_after_the_last_image_comes_the_first(tmp_path: Path) -> None:
    store = {"people": with_damaged_picture(write_store(tmp_path, "people", [1, 1, 1]), 2)}
    rows = [group.rows.tolist() for batch in _batches(store, config=_alone()) for group in batch.groups]
    assert {row for of_batch in rows for row in of_batch} == {0, 1}


def _alone() -> LoadingConfig:
    return _config(mixture={"entries": [{"name": "people"}]})


@pytest.mark.parametrize("count", [1, 9])
def test_where_nothing_near_is_whole_the_run_ends(tmp_path: Path, count: int) -> None:
    store = write_store(tmp_path, "people", [2] * count)
    for row in range(count):
        store = with_damaged_picture(store, row)
    with pytest.raises(
        IntegrityError, match=r"^mixture entry people: 8 images in a row are damaged; the last: .*ingest"
    ):
        _batches({"people": store}, config=_alone())
