"""What Ray Tune is told of trials that race."""

import pytest

pytest.importorskip("ray.tune")

from ray.tune.experiment import Trial

from posecore.cluster.tune import WithinSteps
from posecore.workflows.machines import Race

pytestmark = pytest.mark.ray


def test_trials_go_on_within_the_steps_of_all_although_each_is_better_than_those_before() -> None:
    race = Race(
        names=("a", "b", "c", "d", "e"), rungs=(5, 15), eta=3, most_steps=5 * 5 + 2 * 10, seconds=None, folder=""
    )
    scheduler = WithinSteps(race)
    assert scheduler.set_search_properties("validation_error", "min")
    trials = [Trial("trainable", stub=True) for _ in race.names]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    told = [
        scheduler.on_trial_result(None, trial, {"steps": 5, "validation_error": 9.0 - place, "told": broken})
        for place, (trial, broken) in enumerate(zip(trials, ("", "it diverged", "", "", ""), strict=True))
    ]
    assert told == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP", "STOP"]
    assert scheduler.on_trial_result(None, trials[0], {"steps": 15, "validation_error": 1.0, "told": ""}) == "STOP"
