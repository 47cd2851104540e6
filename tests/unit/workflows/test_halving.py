"""Rungs: how long trials are, and how many go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.workflows.budget.halving import Cost, halving_of_steps, halving_of_time, survivors
from posecore.workflows.budget.settings import SearchConfig

NAMES = [f"trial-{number}" for number in range(30)]


def settings(**changes: object) -> SearchConfig:
    return parse_config({"budget": "1steps"} | changes, SearchConfig, origin="search")


def test_nine_trials_of_which_every_third_goes_on() -> None:
    assert survivors(7, 3) == (7, 3)
    assert survivors(10, 3) == (10, 4, 2)
    assert survivors(1, 3) == (1,)
    found = halving_of_steps(NAMES[:9], settings(), 12_000)
    assert (found.rungs, found.counts) == ((200, 600), (9, 3))
    assert set(found.lengths.values()) == {9600}
    assert found.search_steps == 9 * 200 + 3 * 400


def test_the_last_candidates_are_left_out_where_trials_would_be_too_short_to_tell() -> None:
    found = [halving_of_steps(NAMES[:4], settings(), steps) for steps in (400, 1000, 2000, 5000)]
    assert [len(each.names) for each in found] == [1, 2, 3, 4]
    alone = halving_of_steps(NAMES[:4], settings(), 400)
    assert (alone.lengths, alone.rungs, alone.search_steps) == ({"trial-0": 400}, (), 0)
    some = halving_of_steps(NAMES[:4], settings(), 1200)
    assert (some.names, some.rungs, set(some.lengths.values())) == (tuple(NAMES[:2]), (240,), {960})
    with pytest.raises(ConfigError, match=r"no room for one strategy: trial-0 makes 199 steps .*least_steps are 200"):
        halving_of_steps(NAMES[:4], settings(), 199)


@given(st.integers(1, 30), st.sampled_from([2, 3, 4]), st.floats(0.05, 0.5), st.integers(200, 20_000))
def test_a_budget_in_steps_is_spent_to_the_last_step_and_the_winner_gets_its_share(
    count: int, eta: int, tried_share: float, steps: int
) -> None:
    found = halving_of_steps(NAMES[:count], settings(eta=eta, tried_share=tried_share), steps)
    assert found.names == tuple(NAMES[: len(found.names)])
    (length,) = set(found.lengths.values())
    lost = found.search_steps - max(found.rungs, default=0)
    assert lost + length == steps
    assert lost <= tried_share * steps
    assert all(rung >= 200 for rung in found.rungs)
    assert all(after == eta * before for before, after in zip(found.rungs, found.rungs[1:], strict=False))
    if found.rungs:
        assert found.counts[0] == len(found.names)
        assert found.counts[-1] <= eta


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=12), st.floats(1.0, 5000.0))
def test_a_budget_in_time_is_held_whichever_trials_go_on(steps_s: list[float], seconds: float) -> None:
    costs = {name: Cost(step, 0.5, 1.0) for name, step in zip(NAMES, steps_s, strict=False)}
    try:
        found = halving_of_time(costs, settings(), seconds, spent=0.1 * seconds)
    except ConfigError:
        assert 0.85 * seconds < 0.5 + 200 * steps_s[0]
        return
    some = {name: costs[name] for name in found.names}
    dearest = sorted((cost.step for cost in some.values()), reverse=True)
    spent, before = 0.1 * seconds, 0
    for count, rung in zip(found.counts, found.rungs, strict=True):
        spent += sum(0.5 + 1.0 + step * (rung - before) for step in dearest[:count])
        before = rung
    for name, cost in some.items():
        assert spent + 0.5 + (found.lengths[name] - before) * cost.step <= seconds
        assert (found.lengths[name] + 1) * cost.step >= 0.75 * (0.95 - 0.1) * seconds - 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": "20 minutes"}, "'20 minutes' is no budget; give steps or time, such as 600steps, 90s, 20min or 2h"),
        ({"budget": "0steps"}, "'0steps' is no budget"),
        ({"budget": "1h", "tried_share": 0.6}, "tried_share: Input should be less than or equal to 0.5"),
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
