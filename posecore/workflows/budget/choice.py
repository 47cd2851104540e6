"""The rule by which a search chooses.

Of the trials at the highest rung the one with the lowest error on the held-out subjects is the best. Those whose error
is larger by a hundredth of it at the most are as good, and of these the one that forgets least is chosen. The parent
takes no part: what adapts is at first worse than it, and whether the finished child is better is for the gates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from posecore.evaluation.bootstrap import Estimate
from posecore.workflows.budget.trial import Score

AS_GOOD = 0.01
"""By how much an error may be larger than the lowest, relative to that: about half a point of AP where AP is 20
(docs/benchmarks/adapt_budget_2cpu_2026-11-30.md)."""


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    Attributes:
        name: of the trial.
        step: of the rung that decided; 0 where nothing was tried.
        equals: those as good as the best one, itself among them.
    """

    name: str
    step: int = 0
    equals: tuple[str, ...] = ()


def choose(scores: Sequence[Score], parent: Score) -> Choice:
    """Chooses among all scores of a search, of which the last rung counts."""
    step = max(score.step for score in scores)
    last = sorted((score for score in scores if score.step == step), key=lambda score: (score.error, score.name))
    equals = [score for score in last if score.error <= (1 + AS_GOOD) * last[0].error]
    chosen = min(equals, key=lambda score: (score.forgetting(parent), score.error, score.trained, score.name))
    return Choice(chosen.name, step, tuple(score.name for score in equals))


def gain(score: Score, parent: Score) -> Estimate:
    """By how much the error on the held-out subjects is larger than the parent's."""
    return score.validation.change_from(parent.validation)
