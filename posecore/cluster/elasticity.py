"""With how many workers a training goes on when the cluster has not room for all of them."""

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig


class WholeBatches(ElasticScalingPolicy):
    """Takes numbers of workers only that cut a batch evenly; Ray's own policy takes as many as there is room for.

    Args:
        scaling_config: Ray's, with the least and the most workers.
        crops: that are to be cut, of one pass over all workers.
    """

    def __init__(self, scaling_config: ScalingConfig, crops: int) -> None:
        super().__init__(scaling_config)
        self._crops = crops

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        return most_that_divide(self._crops, super()._count_possible_workers(reserved_resources))


def most_that_divide(crops: int, room: int) -> int:
    """The largest number of workers up to ``room`` that gives each as many crops; 0 where there is room for none."""
    return next((workers for workers in range(room, 0, -1) if crops % workers == 0), 0)
