"""What a file of results came to, as plain data: metrics with intervals, counts, tables, curves, the worst pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from posecore.evaluation.arrays import Predictions
from posecore.evaluation.bootstrap import Estimate
from posecore.evaluation.image_units import Measure, Units
from posecore.scoring.truth import Truth
from posecore.viz.curves import Curve

Cell = str | int | float | None
"""Of a table; a number that does not exist is None."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a heading.

    Attributes:
        title: heading.
        note: what the columns mean, one or two sentences.
        columns: names of the columns.
        rows: of as many cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class WorstPicture:
    """One picture on which much is wrong.

    Attributes:
        image_id: of the annotations.
        file: below the image folder, "" where not known.
        persons: annotated bodies that count.
        missed: of those, how many nobody found.
        redundant: detections that found nobody.
        loss: what the pictures are ordered by; its meaning is in the score's ``worst_note``.
    """

    image_id: str
    file: str
    persons: int
    missed: int
    redundant: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """Everything said of one file.

    Attributes:
        protocol: by which it was judged.
        results: the file.
        truth: the annotations.
        primary: the metric that stands for the result.
        higher_is_better: its direction.
        metrics: name → value; -1 where an OKS metric has nothing to judge.
        intervals: name → value with its interval, of the metrics that have one.
        units: what was resampled as one → how many of them; empty where nothing was.
        counts: what was counted → how often.
        remarks: what a reader must know, a sentence each.
        tables: by part.
        curves: likewise.
        worst: pictures, worst first.
        worst_note: what makes a picture bad.
    """

    protocol: str
    results: str
    truth: str
    primary: str
    higher_is_better: bool
    metrics: Mapping[str, float]
    intervals: Mapping[str, Estimate] = field(default_factory=dict)
    units: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    tables: Sequence[Table] = ()
    curves: Sequence[Curve] = ()
    worst: Sequence[WorstPicture] = ()
    worst_note: str = ""

    @property
    def judged(self) -> dict[str, float]:
        """The metrics that had something to judge."""
        return {name: value for name, value in self.metrics.items() if value != -1.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A score, and what a comparison with another file needs of it.

    Attributes:
        score: of the file.
        measure: the metrics with intervals, of any resample of the images.
        units: what is resampled as one.
        truth: what the file was held against.
        answers: for each body that has one, its answer; ``instance_row`` names the body.
    """

    score: Score
    measure: Measure
    units: Units
    truth: Truth
    answers: Predictions
