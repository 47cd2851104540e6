"""Rungs: how long trials are, and how many go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.workflows.budget.halving import (
    FEWEST_STEPS,
    Measured,
    halving_of_steps,
    halving_of_time,
    survivors,
)
from posecore.workflows.budget.settings import SearchConfig


def test_seven_trials_of_which_every_third_goes_on() -> None:
    assert survivors(7, 3) == (7, 3)
    assert survivors(10, 3) == (10, 4, 2)
    assert survivors(1, 3) == (1,)
    found = halving_of_steps(7, 3, 600)
    assert (found.rungs, found.counts, found.final) == ((27, 81), (7, 3), 249)
    assert found.search_steps == 7 * 27 + 3 * 54


@given(st.integers(1, 30), st.sampled_from([2, 3, 4]), st.integers(1, 20_000))
def test_a_budget_in_steps_is_spent_to_the_last_step_or_refused(count: int, eta: int, steps: int) -> None:
    try:
        found = halving_of_steps(count, eta, steps)
    except ConfigError as error:
        least = int(str(error).split("which makes ")[1].split()[0])
        assert steps < least
        assert halving_of_steps(count, eta, least).rungs[0] == FEWEST_STEPS
        return
    assert found.total_steps == steps
    assert found.rungs[0] >= FEWEST_STEPS
    assert all(after == eta * before for before, after in zip(found.rungs, found.rungs[1:], strict=False))
    assert found.final >= eta * found.rungs[-1]
    assert found.counts[-1] <= eta


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=12), st.floats(1.0, 5000.0))
def test_a_budget_in_time_is_held_whichever_trials_go_on(steps_s: list[float], seconds: float) -> None:
    measured = [Measured(step_s, 0.5) for step_s in steps_s]
    try:
        found = halving_of_time(measured, 1.0, 3, seconds, spent_s=0.1 * seconds)
    except ConfigError:
        assert seconds < 0.1 * seconds + 2 * len(steps_s) * (1.5 + 100 * max(steps_s)) / 0.9 + 100
        return
    dearest = sorted(steps_s, reverse=True)
    spent, before = 0.1 * seconds, 0
    for count, rung in zip(found.counts, found.rungs, strict=True):
        spent += sum(0.5 + 1.0 + step_s * (rung - before) for step_s in dearest[:count])
        before = rung
    assert spent + 0.5 + found.final * dearest[0] <= seconds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": "20 minutes"}, "'20 minutes' is no budget; give steps or time, such as 600steps, 90s, 20min or 2h"),
        ({"budget": "0steps"}, "'0steps' is no budget"),
        ({"budget": "1.5steps"}, "'1.5steps': steps are whole"),
        ({"budget": "1h", "memory": "8"}, "'8' is no size of memory; give one such as 8GiB or 600MiB"),
        (
            {"budget": "1h", "candidates": [{"name": "a", "strategy": "full"}, {"name": "a", "strategy": "lora"}]},
            "candidates: named twice: a",
        ),
        (
            {"budget": "1h", "candidates": [{"name": "parent", "strategy": "full"}]},
            "candidates: parent is the name of something else",
        ),
    ],
)
def test_settings_that_say_nothing_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(values, SearchConfig, origin="search")


def test_budgets_are_read() -> None:
    assert SearchConfig(budget="600steps").steps == 600
    assert SearchConfig(budget="600steps").seconds is None
    assert [SearchConfig(budget=text).seconds for text in ("90s", "20min", "1.5h")] == [90.0, 1200.0, 5400.0]
    assert SearchConfig(budget="1h", memory="1.5GiB").memory_bytes == 1.5 * 2**30
