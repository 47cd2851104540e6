"""With how many workers a training goes on."""

import pytest
from ray.train import ScalingConfig

from posecore.cluster.elasticity import WholeBatches, most_that_divide


@pytest.mark.parametrize(("room", "workers"), [(8, 8), (7, 4), (5, 4), (3, 2), (1, 1), (0, 0)])
def test_only_numbers_that_cut_a_batch_evenly_are_taken(room: int, workers: int) -> None:
    assert most_that_divide(32, room) == workers


def test_nodes_are_counted_as_ray_reports_them() -> None:
    policy = WholeBatches(ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 2}), crops=32)
    assert policy._count_possible_workers({"a": {"CPU": 8.0}, "b": {"CPU": 7.0}}) == 4
    assert policy._count_possible_workers({"a": {"CPU": 8.0}, "b": {"CPU": 12.0}}) == 8
