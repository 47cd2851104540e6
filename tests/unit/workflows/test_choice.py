"""The rule: the lowest error, what is as good, and who forgets least."""

import numpy as np
import pytest

from posecore.workflows.budget.choice import choose, gain
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


def test_the_lowest_error_wins_whatever_it_forgets_and_however_wide_the_intervals_are() -> None:
    found = choose([score("full", errors(0.10, 0.05), forgets=0.2), score("head", errors(0.102, 0.05, 1))], PARENT)
    assert (found.name, found.equals) == ("full", ("full",))


def test_among_errors_within_a_hundredth_the_one_that_forgets_least_wins() -> None:
    trials = [
        score("full", errors(0.10, 0.05, 1), forgets=0.2),
        score("lora", errors(0.1005, 0.05, 2), forgets=0.1),
        score("last", errors(0.1009, 0.05, 3), forgets=0.0),
        score("head", errors(0.1011, 0.05, 4), forgets=0.0),
    ]
    found = choose(trials, PARENT)
    assert found.equals == ("full", "lora", "last")
    assert found.name == "last"


def test_what_got_better_on_the_parents_sets_is_no_better_than_what_forgets_nothing() -> None:
    trials = [score("full", errors(0.10, 0.05, 1), forgets=0.0), score("lora", errors(0.1005, 0.05, 2), forgets=-0.05)]
    assert choose(trials, PARENT).name == "full"


def test_what_is_still_worse_than_the_parent_goes_on() -> None:
    dipped = [score("full", errors(0.35, 0.01, 1)), score("head", errors(0.36, 0.01, 2))]
    assert gain(dipped[0], PARENT).value > 0
    assert choose(dipped, PARENT).name == "full"


def test_only_the_last_rung_counts() -> None:
    found = choose([score("early", errors(0.05, 0.01), step=30), score("late", errors(0.1, 0.01), step=90)], PARENT)
    assert (found.name, found.step) == ("late", 90)


def test_forgetting_is_the_mean_over_the_sets_and_never_below_nothing() -> None:
    parent = PARENT.model_copy(update={"kept": {"coco": errors(0.1), "ap10k": errors(0.2)}})
    child = parent.model_copy(update={"kept": {"coco": errors(0.16), "ap10k": errors(0.18)}})
    assert child.forgetting(parent) == pytest.approx(0.02)
    assert {name: round(change.value, 6) for name, change in child.forgotten(parent).items()} == {
        "coco": 0.06,
        "ap10k": -0.02,
    }
    assert parent.forgetting(child) == 0.0
