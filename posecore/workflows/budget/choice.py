"""The rule by which a search chooses.

Of the trials at the highest rung those are better whose error on the held-out subjects is below the parent's with the
whole interval of the difference, both judged on the same subjects. The one with the lowest error among them is the
best; whichever differ from it by an interval that holds 0 are its equals, and of these the one that forgets least is
chosen.
If none is better, the parent stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from posecore.evaluation.bootstrap import Estimate
from posecore.workflows.budget.trial import Score


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    Attributes:
        name: of the trial; None if the parent stays.
        step: of the rung that decided.
        better: trials that beat the parent.
        equals: those of them that cannot be told from the best one, itself among them.
    """

    name: str | None
    step: int
    better: tuple[str, ...]
    equals: tuple[str, ...]


def choose(scores: Sequence[Score], parent: Score) -> Choice:
    """Chooses among all scores of a search, of which the last rung counts."""
    step = max(score.step for score in scores)
    last = sorted((score for score in scores if score.step == step), key=lambda score: (score.error, score.name))
    better = [score for score in last if gain(score, parent).high < 0]
    if not better:
        return Choice(None, step, (), ())
    best = better[0]
    equals = [score for score in better if not score.validation.change_from(best.validation).low > 0]
    chosen = min(equals, key=lambda score: (score.forgetting(parent), score.error, score.trained, score.name))
    names = tuple(score.name for score in better)
    return Choice(chosen.name, step, names, tuple(score.name for score in equals))


def gain(score: Score, parent: Score) -> Estimate:
    """By how much the error on the held-out subjects is larger than the parent's."""
    return score.validation.change_from(parent.validation)
