"""The page of two versions side by side: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from posecore.counting import counted
from posecore.evaluation.bootstrap import FEW_SUBJECTS
from posecore.evaluation.clinical_comparison import ClinicalComparison
from posecore.evaluation.paired import Pair, PairedErrors
from posecore.storage import AnyPath, write_atomically
from posecore.viz.close_ups import ShownBody
from posecore.viz.comparison_section import ComparisonSection
from posecore.viz.estimate_text import Writer, interval, number, percent, signed, signed_points
from posecore.viz.findings import Finding, change_finding, precision_finding
from posecore.viz.page import figure, render

Rows = Sequence[tuple[str, str, str]]
"""Of a table: what, in the first, in the second."""


@dataclass(frozen=True, kw_only=True)
class SetSection:
    """Both versions on one set.

    Attributes:
        name: of the set.
        digest: of the split.
        metrics: of its protocol, → (first, second).
        precisions: of those, the ones with intervals.
        bodies: labelled ones.
        units: what was resampled as one → how many of them.
        paired: errors relative to the box; None where a version finds bodies in whole pictures.
        clinical: in torso lengths, or None.
        better: pictures of the bodies that gained most.
        worse: of those that lost most.
    """

    name: str
    digest: str
    metrics: Mapping[str, tuple[float, float]]
    precisions: Mapping[str, Pair]
    bodies: int
    units: Mapping[str, int]
    paired: PairedErrors | None
    clinical: ClinicalComparison | None
    better: Sequence[ShownBody]
    worse: Sequence[ShownBody]

    @property
    def lines(self) -> list[tuple[str, list[str], str]]:
        """Measure, values with intervals of both and of the difference, and whether that is for the better."""
        by_body = []
        if self.paired is not None:
            by_body = [
                ("mean error, of the box", *_cells(self.paired.error, better=-1)),
                ("points within a tenth of the box", *_cells(self.paired.near, better=1)),
            ]
        precisions = self.precisions.items()
        return by_body + [(name, *_cells(pair, better=1, writers=(number, signed))) for name, pair in precisions]

    @property
    def figures(self) -> list[tuple[str, str, str, str]]:
        """Metric, both values and their difference."""
        return [
            (name, figure(before), figure(after), "–" if -1 in (before, after) else f"{after - before:+.4f}")
            for name, (before, after) in self.metrics.items()
            if name not in self.precisions
        ]

    @property
    def resampled(self) -> str:
        """What the intervals come from."""
        return " and ".join(counted(count, kind) for kind, count in self.units.items())

    @property
    def few(self) -> bool:
        """Whether there are too few of them."""
        return sum(self.units.values()) < FEW_SUBJECTS


@dataclass(frozen=True, kw_only=True)
class VersionPage:
    """Everything the page says, as plain text and numbers.

    Attributes:
        first: name of the first version.
        second: of the second.
        tables: title → rows that differ.
        data: a sentence for each split that differs, with pictures added and removed by name.
        sets: both on each set.
        unknown: what cannot be said.
    """

    first: str
    second: str
    tables: Mapping[str, Rows]
    data: Sequence[tuple[str, Sequence[str], Sequence[str]]]
    sets: Sequence[SetSection] = ()
    unknown: Sequence[str] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Which of the two is better on each set."""
        found = []
        for each in self.sets:
            if each.paired is not None:
                found.append(change_finding(each.name, each.paired))
            elif each.precisions:
                found.append(precision_finding(each.name, *next(iter(each.precisions.items()))))
        return found


def write_version_page(path: AnyPath, page: VersionPage) -> AnyPath:
    """Writes the page and returns its path."""
    clinical = {each.digest: ComparisonSection(each.clinical) for each in page.sets if each.clinical is not None}
    write_atomically(path, render("version_comparison.html.j2", page=page, clinical=clinical))
    return path


def _cells(pair: Pair, better: int, writers: tuple[Writer, Writer] = (percent, signed_points)) -> tuple[list[str], str]:
    """Three values with their intervals, and ``good`` or ``bad`` if the difference's interval does not hold 0."""
    direction = ""
    if pair.difference.low > 0 or pair.difference.high < 0:  # NaN, where there is no interval, compares false
        direction = "good" if better * pair.difference.value > 0 else "bad"
    value, change = writers
    written = ((pair.first, value), (pair.second, value), (pair.difference, change))
    return [f"{write(each.value)} {interval(each, write)}".strip() for each, write in written], direction
