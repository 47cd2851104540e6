"""What the report of an adaptation shows of a set that was judged for clinics: parent, child and their difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from posecore.counting import counted
from posecore.evaluation.bootstrap import FEW_SUBJECTS, Estimate
from posecore.evaluation.clinical_comparison import ClinicalComparison, GroupChange
from posecore.viz.clinical_section import KINDS, MOST_ROWS, UNORDERED, ClinicalSection, end_of_axis, places
from posecore.viz.estimate_text import Writer, interval, number, percent, signed, signed_points

Direction: TypeAlias = Literal["good", "bad", ""]
"""Whether a difference is for the better or the worse; "" where the subjects do not tell."""


@dataclass(frozen=True, kw_only=True)
class Triple:
    """A measure of both models, as (value, interval).

    Attributes:
        parent: of the first.
        child: of the second.
        difference: child - parent; ("", "") where it has no interval to go by.
        direction: what the difference says.
    """

    parent: tuple[str, str]
    child: tuple[str, str]
    difference: tuple[str, str] = ("", "")
    direction: Direction = ""


@dataclass(frozen=True, kw_only=True)
class ComparedLine:
    """A measure of the whole set.

    Attributes:
        name: what is measured, for a person.
        values: of both models.
        note: what to know about it.
    """

    name: str
    values: Triple
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """A mean error and its interval on an axis, in percent of it; None where there is none."""

    dot: float | None
    span: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """A group in a table of groups.

    Attributes:
        name: of the group.
        whiskers: of parent and child.
        measures: error, and PCK at one threshold.
        counts: subjects, bodies and points.
        few: intervals of so few subjects are not to be relied on.
    """

    name: str
    whiskers: tuple[Whisker, Whisker]
    measures: Sequence[Triple]
    counts: tuple[int, int, int]
    few: bool


@dataclass(frozen=True, kw_only=True)
class ComparedTable:
    """One way of dividing the set.

    Attributes:
        kind: ``view``, ``posture``, ``subject`` or ``keypoint``.
        rows: the child's worst first where there is no natural order, the whole set last.
        left_out: how many rows are not shown.
        axis_end: torso lengths at the end of the axis.
    """

    kind: str
    rows: Sequence[ComparedRow]
    left_out: int
    axis_end: float


class ComparisonSection:
    """A :class:`~posecore.evaluation.clinical_comparison.ClinicalComparison` as the template shows it.

    Attributes:
        parent: the first model's section.
        child: the second's.
    """

    def __init__(self, comparison: ClinicalComparison) -> None:
        self._comparison = comparison
        self.parent = ClinicalSection(comparison.parent)
        self.child = ClinicalSection(comparison.child)

    @property
    def limit(self) -> float:
        """The threshold whose PCK tables of groups show: the one nearest to what counts as right."""
        settings = self._comparison.child.settings
        return min(settings.thresholds, key=lambda limit: abs(limit - settings.right_within))

    @property
    def lines(self) -> list[ComparedLine]:
        """The whole set."""
        whole, before, after = self._comparison.whole, self._comparison.parent, self._comparison.child
        lines = [
            ComparedLine(name="mean error", values=_error(whole), note="torso lengths, over points"),
            ComparedLine(
                name="mean over subjects",
                values=_pair(before.mean_over_subjects, after.mean_over_subjects, number),
                note="each subject weighs alike",
            ),
            ComparedLine(
                name="median error",
                values=Triple(parent=(number(before.median_error), ""), child=(number(after.median_error), "")),
                note="torso lengths, over points",
            ),
            *(
                ComparedLine(
                    name=f"PCK at {limit:g}",
                    values=_pck(whole, limit),
                    note=f"of points within {limit:g} torso lengths",
                )
                for limit in whole.pck
            ),
        ]
        if whole.missed is not None and whole.parent.missed is not None and whole.child.missed is not None:
            missed = _triple(whole.parent.missed, whole.child.missed, percent, whole.missed, signed_points, better=-1)
            lines.append(
                ComparedLine(name="missed bodies", values=missed, note=f"of {counted(whole.child.instances, 'body')}")
            )
        old, new = before.calibration, after.calibration
        lines += [
            ComparedLine(
                name="calibration error (ECE)",
                values=_pair(old.expected_error, new.expected_error, number),
                note="0 is honest",
            ),
            ComparedLine(
                name="confidence - share right",
                values=_pair(old.surplus, new.surplus, signed),
                note="above 0: too sure",
            ),
        ]
        return lines

    @property
    def tables(self) -> list[ComparedTable]:
        """The breakdowns."""
        by = self._comparison.by
        return [self._table(kind, by[kind]) for kind in KINDS if kind in by]

    def _table(self, kind: str, changes: Sequence[GroupChange]) -> ComparedTable:
        changes = [change for change in changes if change.child.points]
        if kind in UNORDERED:
            changes = sorted(changes, key=lambda change: -np.nan_to_num(change.child.error.value, nan=np.inf))
        shown = [*changes[:MOST_ROWS], self._comparison.whole]
        end = end_of_axis([group for change in shown for group in (change.parent, change.child)])
        return ComparedTable(
            kind=kind,
            rows=[self._row(change, end) for change in shown],
            left_out=max(0, len(changes) - MOST_ROWS),
            axis_end=end,
        )

    def _row(self, change: GroupChange, axis_end: float) -> ComparedRow:
        (old_dot, old_span), (new_dot, new_span) = (places(each, axis_end) for each in (change.parent, change.child))
        child = change.child
        return ComparedRow(
            name=child.name,
            whiskers=(Whisker(dot=old_dot, span=old_span), Whisker(dot=new_dot, span=new_span)),
            measures=(_error(change), _pck(change, self.limit)),
            counts=(child.units, child.instances, child.points),
            few=child.units < FEW_SUBJECTS,
        )


def _error(change: GroupChange) -> Triple:
    return _triple(change.parent.error, change.child.error, number, change.error, signed, better=-1)


def _pck(change: GroupChange, limit: float) -> Triple:
    before, after = change.parent.pck[limit], change.child.pck[limit]
    return _triple(before, after, percent, change.pck[limit], signed_points, better=1)


def _pair(parent: Estimate, child: Estimate, write: Writer) -> Triple:
    return Triple(parent=_text(parent, write), child=_text(child, write))


def _triple(
    parent: Estimate, child: Estimate, write: Writer, difference: Estimate, write_difference: Writer, better: int
) -> Triple:
    """``better`` is the sign of a difference for the better."""
    direction: Direction = ""
    if difference.low > 0 or difference.high < 0:  # NaN, where there is no interval, compares false
        direction = "good" if better * difference.value > 0 else "bad"
    return Triple(
        parent=_text(parent, write),
        child=_text(child, write),
        difference=_text(difference, write_difference),
        direction=direction,
    )


def _text(estimate: Estimate, write: Writer) -> tuple[str, str]:
    return write(estimate.value), interval(estimate, write)
