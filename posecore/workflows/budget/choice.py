"""The rule by which a search goes on: what is clearly better on held-out subjects, else the order of the candidates.

Of the trials at a rung the one with the lowest error on the held-out subjects is the best. Whichever differ from it by
an interval that holds 0, all judged on the same subjects, are its equals, and these come first, in the order of the
candidates; the others follow by their error. At the last rung the first one goes on.

A rung is early in a run: what learns little is ahead there, and few subjects tell little, so the lowest error alone
would leave the strategy that is known to end best for one that begins well. Nor does the parent take part: all are at
first worse than it, and whether the finished child is better is for the gates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from posecore.evaluation.bootstrap import Estimate
from posecore.workflows.budget.trial import Score


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    Attributes:
        name: of the trial.
        step: of the rung that decided; 0 where nothing was tried.
        equals: those that cannot be told from the one with the lowest error, itself among them.
    """

    name: str
    step: int = 0
    equals: tuple[str, ...] = ()


def ranked(scores: Sequence[Score], order: Sequence[str]) -> list[Score]:
    """Those first that go on.

    Args:
        scores: of the trials at a rung.
        order: names of the candidates.
    """
    equals = _equals(scores)
    rest = [score for score in scores if score not in equals]
    return [
        *sorted(equals, key=lambda score: order.index(score.name)),
        *sorted(rest, key=lambda score: (score.error, score.name)),
    ]


def choose(scores: Sequence[Score], order: Sequence[str]) -> Choice:
    """Chooses among all scores of a search, of which the last rung counts."""
    step = max(score.step for score in scores)
    last = ranked([score for score in scores if score.step == step], order)
    return Choice(last[0].name, step, tuple(score.name for score in _equals(last)))


def gain(score: Score, parent: Score) -> Estimate:
    """By how much the error on the held-out subjects is larger than the parent's."""
    return score.validation.change_from(parent.validation)


def _equals(scores: Sequence[Score]) -> list[Score]:
    best = min(scores, key=lambda score: (score.error, score.name))
    return [score for score in scores if not score.validation.change_from(best.validation).low > 0]
