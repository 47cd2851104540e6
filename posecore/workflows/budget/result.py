"""What a search ended in, before it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.lineage.store.tracking import RunLog
from posecore.schema import Json
from posecore.storage import AnyPath
from posecore.training.checkpoint import step_of
from posecore.workflows.budget.candidates import Fit
from posecore.workflows.budget.choice import Choice
from posecore.workflows.budget.halving import Halving
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.budget.trial import Score


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a search ended in.

    Attributes:
        settings: of the search.
        fits: all candidates, and whether they fit.
        halving: the rungs.
        parent: judged as trials are.
        scores: of the trials that did not fail, at all rungs.
        failed: trials that an error ended, and what it was.
        stopped: why the search ended before its last rung; "" if it did not.
        choice: what was chosen.
        begun: the checkpoint of its trial that is gone on from; None where nothing was tried.
        final: steps of its whole run.
        seconds: that the search took.
    """

    settings: SearchConfig
    fits: Sequence[Fit]
    halving: Halving
    parent: Score
    scores: Sequence[Score]
    failed: Mapping[str, str]
    stopped: str
    choice: Choice
    begun: AnyPath | None
    final: int
    seconds: float

    @property
    def lasts(self) -> list[Score]:
        """Every trial's last score, the best first."""
        last = {score.name: score for score in sorted(self.scores, key=lambda score: score.step)}
        return sorted(last.values(), key=lambda score: (-score.step, score.error, score.name))

    @property
    def lost_steps(self) -> int:
        """Steps of the trials that ended."""
        return sum(score.step for score in self.lasts if score.name != self.choice.name)

    def begins(self, search: str) -> Json:
        """Where the chosen trial lies and what decides it, of a search with that digest; None if nothing was tried."""
        if self.begun is None:
            return None
        trial: list[Json] = [self.choice.name, self.halving.lengths[self.choice.name], step_of(self.begun.name)]
        return {"folder": str(self.begun.parent.parent), "made_by": {"search": search, "trial": trial}}

    def log(self, log: RunLog) -> None:
        """What the search's own run shows."""
        log.set_tags({"posecore.chosen": self.choice.name})
        log.log_metrics(
            {
                "parent/validation_error": self.parent.error,
                "lost_steps": self.lost_steps,
                "final_steps": self.final,
                "search_seconds": self.seconds,
            }
        )
