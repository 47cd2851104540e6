"""Trials as Ray Tune's: ASHA starts a trial's next rung as soon as it knows that it is among the better ones.

Tune says who goes on, and where; what a trial found and the checkpoints that it goes on from are in the run's own
folder (:mod:`posecore.workflows.budget.trial`), so that a search that is begun again makes no rung twice.
"""

import traceback
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from posecore.cluster.actors import actor_count
from posecore.cluster.answered_calls import begun, outcome
from posecore.cluster.connection import connect_to_ray
from posecore.errors import PoseCoreError
from posecore.storage import folder_of_machine
from posecore.workflows.machines import ActorSettings, Race, Tool

_NAME, _STEPS, _ERROR, _TOLD = "name", "steps", "validation_error", "told"
_WORST = 1e9  # Tune's own writers of curves warn of what is not finite


def race_on_ray(build: Callable[[], Tool], race: Race, settings: ActorSettings) -> dict[str, str]:
    """Has trials climb rungs on the connected cluster; see :meth:`~posecore.workflows.machines.Machines.race`.

    Args:
        build: makes the tool.
        race: who takes part, and for how long.
        settings: how many trials at once, and what each reserves.

    Returns:
        By name of the trials that failed, what ended each, as a sentence.
    """
    connect_to_ray()
    needs = {"cpu": settings.cpus_per_actor} | ({"gpu": settings.gpus_per_actor} if settings.gpus_per_actor else {})
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_climb, build=build, rungs=race.rungs), needs),
        param_space={_NAME: tune.grid_search(list(race.names))},
        tune_config=tune.TuneConfig(
            metric=_ERROR,
            mode="min",
            scheduler=WithinSteps(race),
            max_concurrent_trials=actor_count(settings, len(race.names)),
            time_budget_s=race.seconds,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder_of_machine(race.folder)),
            verbose=0,
        ),
    )
    failed = {}
    for result in outcome(begun(tuner.fit, "ray-tune")):
        if told := (result.metrics or {}).get(_TOLD, ""):
            failed[(result.config or {})[_NAME]] = told
        elif result.error is not None:  # nobody was left to say more
            failed[(result.config or {})[_NAME]] = f"its process ended ({_last_line(result.error)})"
    return failed


def _climb(config: Mapping[str, Any], build: Callable[[], Tool], rungs: tuple[int, ...]) -> None:
    """One trial, rung by rung, until Tune ends it."""
    tool = build()
    for step in rungs:
        try:
            found = tool((config[_NAME], step))
            error, told = min(found.error, _WORST), found.told
        except PoseCoreError as refused:  # raised, Tune would report a stack of calls
            error, told = _WORST, str(refused)
        except Exception as unforeseen:
            traceback.print_exc()
            error, told = _WORST, f"{type(unforeseen).__name__}: {_last_line(unforeseen)}"
        tune.report({_STEPS: step, _ERROR: error, _TOLD: told})
        if told:
            return


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]


class WithinSteps(ASHAScheduler):
    """ASHA in which every trial has its first rung, and may go on where its next one is within the steps of all.

    Args:
        race: says the rungs, and the steps of all trials together.
    """

    def __init__(self, race: Race) -> None:
        super().__init__(time_attr=_STEPS, max_t=race.rungs[-1], grace_period=race.rungs[0], reduction_factor=race.eta)
        self._pieces = {step: following - step for step, following in pairwise(race.rungs)}
        self._left = race.most_steps - len(race.names) * race.rungs[0]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after a rung."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        piece = self._pieces.get(result[_STEPS], 0)
        if action != self.CONTINUE or result[_TOLD] or not piece:
            return action
        if piece > self._left:
            return self.STOP
        self._left -= piece
        return action
