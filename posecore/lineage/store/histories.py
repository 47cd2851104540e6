"""Curves of a run, read back from the tracking store."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from mlflow import MlflowClient

from posecore.lineage.store.tracking import Tracking

Line: TypeAlias = tuple[list[float], list[float]]
"""Steps and values."""


def histories(tracking: Tracking, run_id: str, wanted: Callable[[str], bool]) -> dict[str, Line]:
    """By name of the metric, the points a run has of it in order of steps; of those that are wanted, by name."""
    run = tracking.ask(lambda client: client.get_run(run_id))
    found = {}
    for name in sorted(filter(wanted, run.data.metrics)):
        points = tracking.ask(partial(MlflowClient.get_metric_history, run_id=run_id, key=name))
        values = dict(sorted((point.step, point.value) for point in points))  # the last of a step that was made again
        found[name] = [float(step) for step in values], list(values.values())
    return found
