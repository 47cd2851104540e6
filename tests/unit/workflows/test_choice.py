"""The rule: what is clearly better, and the order of the candidates where nothing is."""

import numpy as np
import pytest

from posecore.workflows.budget.choice import choose, gain, ranked
from posecore.workflows.budget.halving import Halving
from posecore.workflows.budget.result import Result
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.budget.story import Told
from posecore.workflows.budget.trial import Score, SetErrors

SUBJECTS = 12


def errors(mean: float, spread: float = 0.0, seed: int = 0) -> SetErrors:
    """Of 12 subjects of 10 points each, around a mean distance."""
    noise = np.random.default_rng(seed).normal(0.0, spread, SUBJECTS)
    return SetErrors(points=(10,) * SUBJECTS, error=tuple(10 * (mean + noise - noise.mean())))


def score(name: str, error: SetErrors, forgets: float = 0.0, step: int = 90) -> Score:
    kept = {"coco": errors(0.1 + forgets)}
    return Score(name=name, step=step, validation=error, kept=kept, train_s=1.0, judge_s=1.0)


PARENT = score("parent", errors(0.3, 0.05, seed=9), step=0)


def names(scores: list[Score]) -> list[str]:
    return [score.name for score in scores]


def test_what_is_clearly_better_comes_before_what_is_named_first() -> None:
    trials = [score("full", errors(0.2, 0.002, 1)), score("lora", errors(0.10, 0.002), forgets=0.2)]
    found = choose(trials, ["full", "lora"])
    assert (found.name, found.equals) == ("lora", ("lora",))


def test_among_those_that_cannot_be_told_from_the_best_the_first_named_comes_first() -> None:
    equals = [score("lora", errors(0.10, 0.05, 2), forgets=0.1), score("full", errors(0.11, 0.05, 3), forgets=0.2)]
    worse = [score("head", errors(0.23, 0.002, 1)), score("last", errors(0.22, 0.002, 4))]
    order = ["full", "lora", "head", "last"]
    assert names(ranked([*worse, *equals], order)) == ["full", "lora", "last", "head"]
    assert set(choose([*worse, *equals], order).equals) == {"full", "lora"}
    assert names(ranked(equals, ["lora", "full"])) == ["lora", "full"]


def test_what_is_still_worse_than_the_parent_goes_on() -> None:
    dipped = [score("full", errors(0.35, 0.01, 1)), score("head", errors(0.36, 0.01, 2))]
    assert gain(dipped[0], PARENT).value > 0
    assert choose(dipped, ["full", "head"]).name == "full"


def test_only_the_last_rung_counts() -> None:
    found = choose(
        [score("early", errors(0.05, 0.01), step=30), score("late", errors(0.1, 0.01), step=90)], ["early", "late"]
    )
    assert (found.name, found.step) == ("late", 90)


def test_a_search_that_stops_within_a_rung_is_told_by_the_rung_that_decided() -> None:
    decided = [score("full", errors(0.10, 0.01), step=200), score("head", errors(0.2, 0.01), step=200)]
    result = Result(
        settings=SearchConfig(budget="1h"),
        fits=[],
        halving=Halving(lengths={"full": 800, "head": 800}, rungs=(200, 400), counts=(2, 2)),
        parent=PARENT,
        scores=[*decided, score("full", errors(0.05, 0.01), step=400)],
        failed={},
        stopped="the budget would have been overrun",
        choice=choose(decided, ["full", "head"]),
        begun=None,
        final=800,
        seconds=1.0,
    )
    assert "after 200: 10.0 % of the box" in Told(result).sentence


def test_forgetting_is_the_mean_over_the_sets_and_never_below_nothing() -> None:
    parent = PARENT.model_copy(update={"kept": {"coco": errors(0.1), "ap10k": errors(0.2)}})
    child = parent.model_copy(update={"kept": {"coco": errors(0.16), "ap10k": errors(0.18)}})
    assert child.forgetting(parent) == pytest.approx(0.02)
    assert {name: round(change.value, 6) for name, change in child.forgotten(parent).items()} == {
        "coco": 0.06,
        "ap10k": -0.02,
    }
    assert parent.forgetting(child) == 0.0
