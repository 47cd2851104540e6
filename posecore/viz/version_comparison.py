"""The page of two versions side by side: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from posecore.evaluation.bootstrap import FEW_SUBJECTS
from posecore.evaluation.clinical_comparison import ClinicalComparison
from posecore.evaluation.paired import Pair, PairedErrors
from posecore.storage import AnyPath, write_atomically
from posecore.viz.comparison_section import ComparisonSection
from posecore.viz.estimate_text import interval, percent, plural, signed_points
from posecore.viz.gallery import data_url
from posecore.viz.report import Failure, figure

Rows = Sequence[tuple[str, str, str]]
"""Of a table: what, in the first, in the second."""


@dataclass(frozen=True, kw_only=True)
class SetSection:
    """Both versions on one set.

    Attributes:
        name: of the set.
        digest: of the split.
        metrics: of its protocol, → (first, second).
        paired: errors relative to the box.
        clinical: in torso lengths, or None.
        better: pictures of the bodies that gained most.
        worse: of those that lost most.
    """

    name: str
    digest: str
    metrics: Mapping[str, tuple[float, float]]
    paired: PairedErrors
    clinical: ClinicalComparison | None
    better: Sequence[Failure]
    worse: Sequence[Failure]

    @property
    def lines(self) -> list[tuple[str, list[str], str]]:
        """Measure, values with intervals of both and of the difference, and whether that is for the better."""
        return [
            ("mean error, of the box", *_cells(self.paired.error, better=-1)),
            ("points within a tenth of the box", *_cells(self.paired.near, better=1)),
        ]

    @property
    def figures(self) -> list[tuple[str, str, str, str]]:
        """Metric, both values and their difference."""
        return [
            (name, figure(before), figure(after), "–" if -1 in (before, after) else f"{after - before:+.4f}")
            for name, (before, after) in self.metrics.items()
        ]

    @property
    def resampled(self) -> str:
        """What the intervals come from."""
        return " and ".join(f"{count} {plural(kind, count)}" for kind, count in self.paired.units.items())

    @property
    def few(self) -> bool:
        """Whether there are too few of them."""
        return sum(self.paired.units.values()) < FEW_SUBJECTS


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


def write_version_page(path: AnyPath, page: VersionPage) -> AnyPath:
    """Writes the page and returns its path."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = data_url
    clinical = {each.digest: ComparisonSection(each.clinical) for each in page.sets if each.clinical is not None}
    text = environment.get_template("version_comparison.html.j2").render(page=page, clinical=clinical)
    write_atomically(path, text.encode())
    return path


def _cells(pair: Pair, better: int) -> tuple[list[str], str]:
    """Three values with their intervals, and ``good`` or ``bad`` if the difference's interval does not hold 0."""
    direction = ""
    if pair.difference.low > 0 or pair.difference.high < 0:  # NaN, where there is no interval, compares false
        direction = "good" if better * pair.difference.value > 0 else "bad"
    written = ((pair.first, percent), (pair.second, percent), (pair.difference, signed_points))
    return [f"{write(each.value)} {interval(each, write)}".strip() for each, write in written], direction
