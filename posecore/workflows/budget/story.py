"""What a search tells: a sentence, a table for the terminal, and its page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from posecore.counting import counted
from posecore.schema import Json
from posecore.training.gpus import GIB
from posecore.viz.budget_page import BudgetPage, Marker
from posecore.viz.curves import MOST_LINES, Curve
from posecore.viz.estimate_text import interval, signed_points
from posecore.viz.findings import Finding
from posecore.viz.report import ReportTable
from posecore.workflows.budget.candidates import Fit
from posecore.workflows.budget.choice import gain
from posecore.workflows.budget.halving import Halving
from posecore.workflows.budget.result import Result
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.budget.trial import Score

COLUMNS = ("trial", "learns", "steps", "error", "change from the parent", "forgetting", "seconds", "what became of it")
"""Of the table of trials."""
RULE = (
    "The rule: of the trials at a rung, the lowest error on subjects that none of them learned from, and whichever "
    "cannot be told from it on them, as their interval holds 0; of these the first in the order of the candidates. It "
    "goes on from where it is, on all labels. What adapts is at first worse than its parent; what the finished child "
    "is worth is in its own report, and for the gates."
)


@dataclass(frozen=True)
class Told:
    """What a search tells.

    Attributes:
        result: of the search.
    """

    result: Result

    @property
    def sentence(self) -> str:
        """What was decided, and why."""
        found, name = self.result, self.result.choice.name
        goes_on = f"{name} goes on to {counted(found.final, 'step')}"
        if not found.choice.step:
            settings = found.settings
            why = found.stopped or (
                f"{settings.budget} have no room for trials of {counted(settings.least_steps, 'step')} beside it "
                f"(search.tried_share {settings.tried_share:g})"
            )
            first = "that is left" if found.failed else "of the candidates"
            return f"{name} is taken untried and makes {counted(found.final, 'step')}, as the first {first}: {why}."
        chosen = self._chosen
        change, lost = gain(chosen, found.parent), chosen.forgetting(found.parent)
        others = len(found.choice.equals) - 1
        why = f"as the first of {others + 1} that cannot be told apart" if others else "for the lowest error"
        forgets = f"; the parent's sets lose {100 * lost:.1f} points" if lost else ""
        return (
            f"{goes_on}, {why} after {found.choice.step:,}: {100 * chosen.error:.1f} % of the box on held-out "
            f"subjects, {signed_points(change.value)} points from the parent {interval(change, signed_points)}".rstrip()
            + f"{forgets}."
        )

    def rows(self) -> list[Json]:
        """The table of trials, as :data:`COLUMNS`."""
        rows: list[Json] = []
        tried = {score.name for score in self.result.lasts}
        for score in self.result.lasts:
            change = gain(score, self.result.parent)
            fit = next(fit for fit in self.result.fits if fit.candidate.name == score.name)
            seconds = sum(s.train_s + s.judge_s for s in self._of_trial(score.name))
            rows.append(
                [
                    score.name,
                    f"{fit.trained:,} of {fit.total:,}",
                    f"{score.step:,}",
                    f"{100 * score.error:.2f}",
                    f"{signed_points(change.value)} {interval(change, signed_points)}".rstrip(),
                    f"{100 * score.forgetting(self.result.parent):.2f}" if score.kept else "–",
                    f"{seconds:.1f}",
                    self._became(score),
                ]
            )
        rows += [
            [fit.candidate.name, f"{fit.trained:,} of {fit.total:,}", "–", "–", "–", "–", "–", self._absent(fit)]
            for fit in self.result.fits
            if fit.candidate.name not in tried
        ]
        return rows

    def _tone(self) -> str:
        """Good where the chosen trial is ahead of its parent already; behind it is where all begin."""
        if not self.result.choice.step:
            return "bad"
        return "good" if gain(self._chosen, self.result.parent).high < 0 else ""

    def _of_trial(self, name: str) -> list[Score]:
        """Its scores, at all rungs."""
        return [score for score in self.result.scores if score.name == name]

    @property
    def _chosen(self) -> Score:
        """The chosen trial at the rung that decided; it may have gone further before the search stopped."""
        choice = self.result.choice
        return next(score for score in self.result.scores if (score.name, score.step) == (choice.name, choice.step))

    def _absent(self, fit: Fit) -> str:
        name = fit.candidate.name
        if name in self.result.failed:
            return f"failed: {self.result.failed[name]}"
        if not fit.fits:
            return f"not tried: {fit.memory / GIB:.2f} GiB of memory planned"
        if name == self.result.choice.name:
            return "goes on untried"
        return "not tried: no room in the budget"

    def _became(self, score: Score) -> str:
        choice = self.result.choice
        if score.name == choice.name:
            return f"goes on to {counted(self.result.final, 'step')}"
        if score.step < choice.step:
            return f"ended after {counted(score.step, 'step')}"
        return "cannot be told from the best" if score.name in choice.equals else "behind the best"

    def page(self, target: str, held_out: str, name: str) -> BudgetPage:
        """The page.

        Args:
            target: that was adapted to.
            held_out: how many of what trials were judged on, in words.
            name: of the workflow.
        """
        found = self.result
        findings = [Finding(self.sentence, self._tone())]
        if found.stopped:
            findings.append(Finding(f"The search ended early: {found.stopped}.", "bad"))
        findings += [Finding(f"{failed} failed: {told}", "bad") for failed, told in found.failed.items()]
        markers = [
            Marker(
                name=score.name,
                family=score.name.removesuffix("-replay"),
                error=score.error,
                forgetting=score.forgetting(found.parent),
                cost=sum(s.train_s for s in self._of_trial(score.name)),
                chosen=score.name == found.choice.name,
                last=score.step >= found.choice.step,
            )
            for score in found.lasts
        ]
        lines = {score.name: _line(self._of_trial(score.name), found.parent) for score in found.lasts[:MOST_LINES]}
        return BudgetPage(
            title=f"{name}: which strategy for {target}",
            findings=findings,
            rule=RULE,
            markers=markers,
            parent_error=self.result.parent.error,
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
        for number, (count, step) in enumerate(
            zip(self.result.halving.counts, self.result.halving.rungs, strict=True), 1
        ):
            here = sorted((score for score in self.result.scores if score.step == step), key=lambda score: score.error)
            order = ", ".join(f"{score.name} {100 * score.error:.2f}" for score in here)
            rows.append([str(number), f"{step:,}", f"{len(here)} of {count}", order])
        return ReportTable(("rung", "steps", "trials", "error, % of the box, the best first"), rows)

    def _facts(self, held_out: str) -> dict[str, str]:
        timed = self.result.settings.steps is None
        made = f"{self.result.lost_steps:,} in trials that ended and {self.result.final:,} of what goes on"
        facts = {
            "budget": self.result.settings.budget,
            "steps": f"{made}, planned from the first steps" if timed else made,
            "memory": self.result.settings.memory or "not bounded",
            "labels": "all"
            if self.result.settings.labels is None
            else f"{counted(self.result.settings.labels, 'body')}",
            "judged on": held_out,
            "tried_share": f"{self.result.settings.tried_share:g}",
            "least_steps": f"{self.result.settings.least_steps:,}",
            "eta": str(self.result.settings.eta),
            "scheduler": self.result.settings.scheduler,
        }
        if timed:
            facts["again"] = (
                "A budget in time gives other steps on another machine or day, and may choose otherwise then; one in "
                "steps does not."
            )
        if self.result.settings.scheduler == "asha":
            facts["again"] = (
                "Ray Tune's asha decides in the order in which trials arrive, so that may differ next time."
            )
        return facts


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
            _left_out(fit, halving),
        )
    if halving is None:
        table.caption = "the rungs follow from first steps, which are measured"
        return table
    longest = max(halving.lengths.values())
    if not halving.rungs:
        table.caption = f"the budget has no room for trials: {halving.names[0]} makes {counted(longest, 'step')}"
        return table
    rungs = ", then ".join(
        f"{counted(count, 'trial')} to {counted(step, 'step')}"
        for count, step in zip(halving.counts, halving.rungs, strict=True)
    )
    lost = halving.search_steps - halving.rungs[-1]
    table.caption = f"{rungs}; the best of them goes on to {counted(longest, 'step')}; {lost:,} in the others"
    return table


def _left_out(fit: Fit, halving: Halving | None) -> str:
    if not fit.fits:
        return "does not fit"
    return "" if halving is None or fit.candidate.name in halving.names else "no room in the budget"


def _line(scores: Sequence[Score], parent: Score) -> tuple[list[float], list[float]]:
    ordered = sorted(scores, key=lambda score: score.step)
    return [0.0, *(float(each.step) for each in ordered)], [100 * each.error for each in (parent, *ordered)]
