"""What the part "for clinics" of the report shows: sentences, numbers as text, and where marks go."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posecore.counting import counted
from posecore.evaluation.bootstrap import FEW_SUBJECTS, Estimate
from posecore.evaluation.clinical import ClinicalResult, GroupResult
from posecore.viz.estimate_text import Writer, interval, number, percent, signed

_METHODS = {
    "expanded": "expanded percentile",
    "percentile": "percentile",
    "bca": "bias-corrected and accelerated",
}
KINDS = ("view", "posture", "subject", "keypoint")
"""Ways of dividing a set, as they are shown: few groups first, the many joints last."""
UNORDERED = ("subject", "keypoint")
"""Those whose groups have no natural order, and are shown worst first."""
MOST_ROWS = 30
"""Of a table of groups."""
_FEW_POINTS = 20
"""A bin of fewer points is drawn pale."""
_PLOT_PX = 240
"""Side of the reliability diagram's square."""
_COUNT_PX = 44
"""Height of the bars that count points."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A measure of the whole set.

    Attributes:
        name: what is measured, for a person.
        value: as text.
        interval: as text; "" if there can be none.
        note: what to know about it.
    """

    name: str
    value: str
    interval: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A group in a table of groups.

    Attributes:
        group: its numbers.
        cells: error, PCK at each threshold and perhaps missed bodies, as (value, interval).
        dot: place of the mean error, in percent of the axis; None if there is none.
        span: start and width of its interval, likewise.
        few: intervals of so few subjects are not to be relied on.
    """

    group: GroupResult
    cells: Sequence[tuple[str, str]]
    dot: float | None
    span: tuple[float, float] | None
    few: bool


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """One way of dividing the set.

    Attributes:
        kind: ``view``, ``posture``, ``subject`` or ``keypoint``.
        rows: worst first where there is no natural order, the whole set last.
        left_out: how many rows are not shown.
        reference: place of the whole set's mean error, in percent of the axis.
        axis_end: torso lengths at the end of the axis.
    """

    kind: str
    rows: Sequence[Row]
    left_out: int
    reference: float | None
    axis_end: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bin of the reliability diagram, in pixels of the picture, y downwards.

    Attributes:
        x: left edge.
        width: of the bar.
        right_y: top of the bar whose height is the share right.
        right_height: its height.
        gap_y: top of the gap to the mean confidence.
        gap_height: its height.
        said_y: height of the mark at the mean confidence.
        count_height: of the bar that counts points.
        few: too few points to read anything into it.
        text: the numbers, for whoever points at it.
    """

    x: float
    width: float
    right_y: float
    right_height: float
    gap_y: float
    gap_height: float
    said_y: float
    count_height: float
    few: bool
    text: str


class ClinicalSection:
    """A :class:`~posecore.evaluation.clinical.ClinicalResult` as the template shows it.

    Attributes:
        result: the numbers.
        plot_px: side of the reliability diagram.
        count_px: height of the counts below it.
        few_points: bins of fewer are drawn pale.
    """

    def __init__(self, result: ClinicalResult) -> None:
        self.result = result
        self.plot_px = _PLOT_PX
        self.count_px = _COUNT_PX
        self.few_points = _FEW_POINTS

    @property
    def how(self) -> str:
        """How the intervals were made."""
        settings = self.result.settings.bootstrap
        method = _METHODS[settings.method]
        resampled = " and ".join(counted(count, kind) for kind, count in self.result.units.items())
        return (
            f"In brackets, {100 * settings.level:g} % intervals: {method} bootstrap, "
            f"{counted(settings.resamples, 'resample')} of {resampled}, seed {settings.seed}. No interval: the sample "
            f"cannot tell. In italics: of fewer than {FEW_SUBJECTS}."
        )

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before believing a number."""
        result, said = self.result, []
        unnamed = {kind: count for kind, count in result.units.items() if kind != "subject"}
        if unnamed:
            stand_ins = " and ".join(counted(count, kind) for kind, count in unnamed.items())
            said.append(
                f"Subjects are not named everywhere: {stand_ins} stand for theirs. If one body is in several of them, "
                "the intervals are too narrow."
            )
        if (units := sum(result.units.values())) < FEW_SUBJECTS:
            said.append(
                f"So few as {counted(units, 'subject')}: such intervals hold the true value less often than they say."
            )
        if result.whole.missed is not None:
            said.append("Points of missed bodies are within no distance for PCK; errors are those of found bodies.")
        if result.without_torso:
            said.append(
                "Left out for want of labels at all ends of the torso: "
                f"{counted(result.without_torso, 'labelled body')}."
            )
        if result.not_recorded:
            said.append(f"Not recorded in this data, and so not broken down: {', '.join(result.not_recorded)}.")
        return said

    @property
    def lines(self) -> list[Line]:
        """The whole set."""
        result, whole = self.result, self.result.whole
        lines = [
            _line("mean error", whole.error, number, "torso lengths, over points"),
            _line("mean over subjects", result.mean_over_subjects, number, "each subject weighs alike"),
            Line(name="median error", value=number(result.median_error), note="torso lengths, over points"),
            *(
                _line(f"PCK at {limit:g}", pck, percent, f"of points within {limit:g} torso lengths")
                for limit, pck in whole.pck.items()
            ),
        ]
        if whole.missed is None:
            lines.append(Line(name="missed bodies", value="–", note="boxes were given"))
        else:
            lines.append(_line("missed bodies", whole.missed, percent, f"of {counted(whole.instances, 'body')}"))
            lines.append(
                Line(name="redundant answers", value=str(result.redundant), note="answer no body of a labelled image")
            )
        calibration = result.calibration
        surplus = calibration.surplus.value
        lines.append(_line("calibration error (ECE)", calibration.expected_error, number, "0 is honest"))
        verdict = "too sure" if surplus > 0 else "not sure enough"
        lines.append(_line("confidence - share right", calibration.surplus, signed, verdict if surplus else ""))
        return lines

    @property
    def tables(self) -> list[GroupTable]:
        """The breakdowns."""
        by = self.result.by
        return [self._table(kind, by[kind]) for kind in KINDS if kind in by]

    @property
    def thresholds(self) -> Sequence[float]:
        """Shares of the torso at which PCK is given."""
        return self.result.settings.thresholds

    @property
    def bars(self) -> list[Bar]:
        """Bins of the reliability diagram that hold a point."""
        bins = self.result.calibration.bins
        most = max(one.points for one in bins) or 1
        return [
            Bar(
                x=_PLOT_PX * one.low + 1,
                width=_PLOT_PX * (one.high - one.low) - 2,
                right_y=_PLOT_PX * (1 - one.right),
                right_height=_PLOT_PX * one.right,
                gap_y=_PLOT_PX * (1 - max(one.right, one.confidence)),
                gap_height=_PLOT_PX * abs(one.right - one.confidence),
                said_y=_PLOT_PX * (1 - one.confidence),
                count_height=_COUNT_PX * one.points / most,
                few=one.points < _FEW_POINTS,
                text=f"confidence {one.low:g} to {one.high:g}: {counted(one.points, 'point')}, "
                f"said {percent(one.confidence)}, right {percent(one.right)}",
            )
            for one in bins
            if one.points
        ]

    def _table(self, kind: str, groups: Sequence[GroupResult]) -> GroupTable:
        groups = [group for group in groups if group.points]
        if kind in UNORDERED:
            groups = sorted(groups, key=lambda group: -np.nan_to_num(group.error.value, nan=np.inf))
        shown = [*groups[:MOST_ROWS], self.result.whole]
        end = end_of_axis(shown)
        rows = [self._row(group, end) for group in shown]
        return GroupTable(
            kind=kind,
            rows=rows,
            left_out=max(0, len(groups) - MOST_ROWS),
            reference=rows[-1].dot,
            axis_end=end,
        )

    def _row(self, group: GroupResult, axis_end: float) -> Row:
        estimates = [(group.error, number), *((pck, percent) for pck in group.pck.values())]
        if group.missed is not None:
            estimates.append((group.missed, percent))
        dot, span = places(group, axis_end)
        return Row(
            group=group,
            cells=[(write(estimate.value), interval(estimate, write)) for estimate, write in estimates],
            dot=dot,
            span=span,
            few=group.units < FEW_SUBJECTS,
        )


def _line(name: str, estimate: Estimate, write: Writer, note: str = "") -> Line:
    return Line(name=name, value=write(estimate.value), interval=interval(estimate, write), note=note)


def end_of_axis(groups: Sequence[GroupResult]) -> float:
    """Torso lengths at the end of an axis for their mean errors."""
    ends = [end for group in groups for end in (group.error.value, group.error.high) if np.isfinite(end)]
    # One body that is far off must not press all others against the axis.
    return max(min(max(ends), 4 * float(np.median(ends))), 1e-9) if ends else 1.0


def places(group: GroupResult, axis_end: float) -> tuple[float | None, tuple[float, float] | None]:
    """Place of the mean error, and start and width of its interval, in percent of the axis; None for what is not."""
    error = group.error
    place = [100 * min(value / axis_end, 1.0) for value in (error.value, error.low, error.high)]
    dot = place[0] if np.isfinite(error.value) else None
    return dot, (place[1], place[2] - place[1]) if np.isfinite(error.low) else None
