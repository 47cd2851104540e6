"""Trials as Ray Tune's: ASHA starts a trial's next rung as soon as it knows that it is among the better ones.

Tune says who goes on, and where; what a trial found and the checkpoints that it goes on from are in the run's own
folder (:mod:`posecore.workflows.budget.trial`), so that a search that is begun again makes no rung twice.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.stopper import Stopper

from posecore.cluster.actors import actor_count
from posecore.cluster.answered_calls import begun, outcome
from posecore.cluster.connection import connect_to_ray
from posecore.cluster.verdicts import Verdict
from posecore.errors import PoseCoreError
from posecore.storage import folder_of_machine
from posecore.workflows.machines import ActorSettings, Race, Tool

_NAME, _STEPS, _ERROR, _VERDICT = "name", "steps", "validation_error", "verdict"


def race_on_ray(build: Callable[[], Tool], race: Race, settings: ActorSettings) -> None:
    """Has trials climb rungs on the connected cluster; see :meth:`~posecore.workflows.machines.Machines.race`.

    Args:
        build: makes the tool.
        race: who takes part, and for how long.
        settings: how many trials at once, and what each reserves.

    Raises:
        PoseCoreError: what a tool raised deliberately.
    """
    connect_to_ray()
    needs = {"cpu": settings.cpus_per_actor} | ({"gpu": settings.gpus_per_actor} if settings.gpus_per_actor else {})
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_climb, build=build, rungs=race.rungs), needs),
        param_space={_NAME: tune.grid_search(list(race.names))},
        tune_config=tune.TuneConfig(
            metric=_ERROR,
            mode="min",
            scheduler=ASHAScheduler(
                time_attr=_STEPS, max_t=race.rungs[-1], grace_period=race.rungs[0], reduction_factor=race.eta
            ),
            max_concurrent_trials=actor_count(settings, len(race.names)),
            time_budget_s=race.seconds,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder_of_machine(race.folder)),
            stop=_WithinSteps(race.most_steps),
            verbose=0,
        ),
    )
    for result in outcome(begun(tuner.fit, "ray-tune")):
        verdict = (result.metrics or {}).get(_VERDICT)
        if isinstance(verdict, Verdict):
            raise verdict.error()
        if result.error is not None:
            raise result.error


def _climb(config: Mapping[str, Any], build: Callable[[], Tool], rungs: tuple[int, ...]) -> None:
    """One trial, rung by rung, until Tune ends it."""
    tool = build()
    for step in rungs:
        try:
            error = tool((config[_NAME], step)).error
        except PoseCoreError as refused:  # raised, Tune would report a stack of calls
            tune.report({_STEPS: rungs[-1], _ERROR: float("inf"), _VERDICT: Verdict.of(refused)})
            return
        tune.report({_STEPS: step, _ERROR: error})


class _WithinSteps(Stopper):
    """Ends everything once all trials together have made so many steps."""

    def __init__(self, most_steps: int) -> None:
        self._most_steps = most_steps
        self._made: dict[str, int] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._made[trial_id] = int(result[_STEPS])
        return False

    def stop_all(self) -> bool:
        return sum(self._made.values()) >= self._most_steps
