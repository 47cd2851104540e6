"""One order for any number of ranks, compared as bytes; resume at any step with another number of ranks."""

from itertools import islice

import pytest

from posecore.config import parse_config
from posecore.loading.loader import Loader, LoadingConfig
from tests.support.tiny_store import write_store

CONFIG = parse_config(
    {
        "mixture": {
            "entries": [{"name": "people", "weight": 2}, {"name": "animals", "weight": 1}],
            "sampling": "explicit",
        }
    },
    LoadingConfig,
    "test",
)
STEPS = 13  # more than two epochs of 5


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {
        "people": write_store(folder / "a", "people", [1, 3, 2, 4, 1, 5, 2, 2, 6, 3]),
        "animals": write_store(folder / "b", "animals", [1, 2, 3], skeleton="ap10k17"),
    }


def crops(stores, world_size, start, stop):
    """Per step, the crops of all ranks as a sorted list of (dataset, row, pixels, points, states)."""
    steps = [[] for _ in range(start, stop)]
    for rank in range(world_size):
        loader = Loader(
            stores,
            CONFIG,
            input_size=(64, 48),
            seed=11,
            global_batch=8,
            rank=rank,
            world_size=world_size,
            start_step=start,
        )
        iterator = iter(loader)
        for found, batch in zip(steps, islice(iterator, stop - start), strict=True):
            assert len(batch.images) == 8 // world_size
            for group in batch.groups:
                for index in range(group.stop - group.start):
                    found.append(
                        (
                            group.dataset,
                            int(group.rows[index]),
                            batch.images[group.start + index].tobytes(),
                            group.keypoints_crop[index].tobytes(),
                            group.state[index].tobytes(),
                        )
                    )
        iterator.close()
    return [sorted(found) for found in steps]


@pytest.fixture(scope="module")
def uninterrupted(stores):
    return crops(stores, 1, 0, STEPS)


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_number_of_ranks_sees_the_same_batches(stores, uninterrupted, world_size):
    assert crops(stores, world_size, 0, STEPS) == uninterrupted


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (4, 2)])
def test_a_run_resumes_at_any_step_on_another_number_of_ranks(stores, uninterrupted, stop, before, after):
    assert crops(stores, before, 0, stop) + crops(stores, after, stop, STEPS) == uninterrupted
