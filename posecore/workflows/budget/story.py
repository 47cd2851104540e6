"""What a search tells: a sentence, a table for the terminal, and its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from posecore.schema import Json
from posecore.training.gpus import GIB
from posecore.viz.budget_page import BudgetPage, Marker
from posecore.viz.curves import MOST_LINES, Curve
from posecore.viz.estimate_text import interval, signed_points
from posecore.viz.findings import Finding
from posecore.viz.report import ReportTable
from posecore.workflows.budget.candidates import Fit
from posecore.workflows.budget.choice import Choice, gain
from posecore.workflows.budget.halving import Halving
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.budget.trial import Score

COLUMNS = ("trial", "learns", "steps", "error", "change from the parent", "forgetting", "seconds", "what became of it")
"""Of the table of trials."""
RULE = (
    "The rule: of the trials at the last rung, those whose error on subjects that nothing was learned from is below "
    "the parent's with the whole interval; of these the lowest error; among those that cannot be told from it, the "
    "least forgetting on the parent's sets. If none beats the parent, the parent stays."
)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a search tells.

    Attributes:
        sentence: what was decided.
        good: whether something beats the parent.
        settings: of the search.
        fits: all candidates.
        lasts: every trial's last score, the best first.
        parent: judged alike.
        choice: what was chosen.
        halving: the rungs.
        scores: at all of them.
        stopped: why it ended before its last rung; "" if it did not.
        failed: trials that an error ended, and what it was.
    """

    sentence: str
    good: bool
    settings: SearchConfig
    fits: Sequence[Fit]
    lasts: Sequence[Score]
    parent: Score
    choice: Choice
    halving: Halving
    scores: Sequence[Score]
    stopped: str
    failed: Mapping[str, str]

    def rows(self) -> list[Json]:
        """The table of trials, as :data:`COLUMNS`."""
        rows: list[Json] = []
        for score in self.lasts:
            change = gain(score, self.parent)
            fit = next(fit for fit in self.fits if fit.candidate.name == score.name)
            seconds = sum(s.train_s + s.judge_s for s in self.scores if s.name == score.name)
            rows.append(
                [
                    score.name,
                    f"{fit.trained:,} of {fit.total:,}",
                    f"{score.step:,}",
                    f"{100 * score.error:.2f}",
                    f"{signed_points(change.value)} {interval(change, signed_points)}".rstrip(),
                    f"{100 * score.forgetting(self.parent):.2f}" if score.kept else "–",
                    f"{seconds:.1f}",
                    self._became(score),
                ]
            )
        rows += [
            [fit.candidate.name, f"{fit.trained:,} of {fit.total:,}", "–", "–", "–", "–", "–", self._absent(fit)]
            for fit in self.fits
            if not fit.fits or fit.candidate.name in self.failed
        ]
        return rows

    def _absent(self, fit: Fit) -> str:
        if fit.candidate.name in self.failed:
            return f"failed: {self.failed[fit.candidate.name]}"
        return f"not tried: {fit.memory / GIB:.2f} GiB of memory planned"

    def _became(self, score: Score) -> str:
        if score.name == self.choice.name:
            return "chosen"
        if score.step < self.choice.step:
            return f"ended after {score.step:,} steps"
        if score.name in self.choice.equals:
            return "an equal, which forgets more"
        if score.name in self.choice.better:
            return "beats the parent, and is behind the best"
        return "does not beat the parent"

    def page(self, target: str, held_out: str, name: str) -> BudgetPage:
        """The page.

        Args:
            target: that was adapted to.
            held_out: how many of what trials were judged on, in words.
            name: of the workflow.
        """
        findings = [Finding(self.sentence, "good" if self.good else "bad")]
        if self.stopped:
            findings.append(Finding(f"The search ended early: {self.stopped}.", "bad"))
        findings += [Finding(f"{name} failed: {told}", "bad") for name, told in self.failed.items()]
        markers = [
            Marker(
                name=score.name,
                family=score.name.removesuffix("-replay"),
                error=score.error,
                forgetting=score.forgetting(self.parent),
                cost=sum(s.train_s for s in self.scores if s.name == score.name),
                chosen=score.name == self.choice.name,
                last=score.step == self.choice.step,
            )
            for score in self.lasts
        ]
        lines = {
            score.name: _line([each for each in self.scores if each.name == score.name], self.parent)
            for score in self.lasts[:MOST_LINES]
        }
        return BudgetPage(
            title=f"{name}: which strategy for {target}",
            findings=findings,
            rule=RULE,
            markers=markers,
            parent_error=self.parent.error,
            trials=ReportTable(COLUMNS, [[str(cell) for cell in row] for row in self.rows()]),
            rungs=self._rungs(),
            curve=Curve(
                title="error by steps; the first point is the parent",
                x_label="steps",
                y_label="error, % of the box",
                series=lines,
                from_zero=False,
            ),
            facts=self._facts(held_out),
        )

    def _rungs(self) -> ReportTable:
        rows = []
        for number, (count, step) in enumerate(zip(self.halving.counts, self.halving.rungs, strict=True), 1):
            here = sorted((score for score in self.scores if score.step == step), key=lambda score: score.error)
            order = ", ".join(f"{score.name} {100 * score.error:.2f}" for score in here)
            rows.append([str(number), f"{step:,}", f"{len(here)} of {count}", order])
        return ReportTable(("rung", "steps", "trials", "error, % of the box, the best first"), rows)

    def _facts(self, held_out: str) -> dict[str, str]:
        timed = self.settings.steps is None
        made = f"{self.halving.search_steps:,} in the search and {self.halving.final:,} in the adaptation"
        facts = {
            "budget": self.settings.budget,
            "steps": f"{made}, planned from the first steps" if timed else made,
            "memory": self.settings.memory or "not bounded",
            "labels": "all" if self.settings.labels is None else f"{self.settings.labels} bodies",
            "judged on": held_out,
            "eta": str(self.settings.eta),
            "scheduler": self.settings.scheduler,
        }
        if timed:
            facts["again"] = (
                "A budget in time gives other steps on another machine or day; one in the steps stated here gives the "
                "same answer."
            )
        if self.settings.scheduler == "asha":
            facts["again"] = (
                "Ray Tune's asha decides in the order in which trials arrive, so that may differ next time."
            )
        return facts


def story(
    settings: SearchConfig,
    fits: Sequence[Fit],
    scores: Sequence[Score],
    parent: Score,
    choice: Choice,
    halving: Halving,
    stopped: str,
    failed: Mapping[str, str],
) -> Told:
    """What to tell of a search; see :class:`Told`."""
    last: dict[str, Score] = {}
    for score in scores:
        if score.name not in last or last[score.name].step < score.step:
            last[score.name] = score
    lasts = sorted(last.values(), key=lambda score: (-score.step, score.error, score.name))
    if choice.name is None:
        best = lasts[0]
        change = gain(best, parent)
        sentence = (
            f"The parent stays: after {choice.step:,} steps no strategy is clearly better on the held-out subjects; "
            f"the best, {best.name}, changes the error by {signed_points(change.value)} points "
            f"{interval(change, signed_points)}".rstrip()
            + ". Longer trials may tell otherwise: give a larger budget, or name a strategy."
        )
    else:
        chosen = last[choice.name]
        change = gain(chosen, parent)
        others = len(choice.equals) - 1
        why = "the lowest error" if not others else f"the least forgetting of {others + 1} that cannot be told apart"
        lost = chosen.forgetting(parent)
        forgets = f"; the parent's sets lose {100 * lost:.1f} points" if lost else ""
        sentence = (
            f"{choice.name} is chosen, for {why}: error {100 * parent.error:.1f} → {100 * chosen.error:.1f} % of the "
            f"box on held-out subjects, {signed_points(change.value)} points {interval(change, signed_points)}".rstrip()
            + f" after {choice.step:,} steps{forgets}."
        )
    return Told(
        sentence=sentence,
        good=choice.name is not None,
        settings=settings,
        fits=fits,
        lasts=lasts,
        parent=parent,
        choice=choice,
        halving=halving,
        scores=scores,
        stopped=stopped,
        failed=failed,
    )


def trials_table(rows: Sequence[Sequence[str]]) -> Table:
    """The trials for a terminal."""
    table = Table(title="trials; errors in percent of the box")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def plan_of_search(settings: SearchConfig, fits: Sequence[Fit], halving: Halving | None) -> Table:
    """What a search will try, before anything starts.

    Args:
        settings: of the search.
        fits: all candidates.
        halving: the rungs, or None for a budget in time, whose steps are measured first.
    """
    within = settings.budget + (f" and {settings.memory}" if settings.memory else "")
    table = Table(title=f"search within {within}; memory and time planned, time for kind {fits[0].config.plan_gpu}")
    for column in ("candidate", "strategy", "replay", "rate", "trained parameters", "share", "memory", "step", ""):
        table.add_column(column, overflow="fold")
    for fit in fits:
        table.add_row(
            fit.candidate.name,
            fit.candidate.strategy.kind,
            f"{fit.config.replay_share:g}",
            f"{fit.config.training.optimizer.lr:.3g}",
            f"{fit.trained:,}",
            f"{fit.trained / fit.total:.1%}",
            f"{fit.memory / GIB:.2f} GiB",
            f"{1e3 * fit.step_s:.3g} ms",
            "" if fit.fits else "does not fit",
        )
    if halving is None:
        table.caption = "the rungs follow from first steps, which are measured"
    else:
        rungs = ", then ".join(
            f"{count} trials to {step:,} steps" for count, step in zip(halving.counts, halving.rungs, strict=True)
        )
        table.caption = f"{rungs}; {halving.final:,} steps of what is chosen: {halving.total_steps:,} together"
    return table


def _line(scores: Sequence[Score], parent: Score) -> tuple[list[float], list[float]]:
    ordered = sorted(scores, key=lambda score: score.step)
    return [0.0, *(float(each.step) for each in ordered)], [100 * each.error for each in (parent, *ordered)]
