"""The report of an evaluation or a training: one HTML file, complete in itself, which begins with the answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from posecore.counting import counted
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.body_errors import BodyErrors
from posecore.evaluation.bootstrap import Estimate
from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.keypoint_errors import (
    KeypointError,
    SubjectError,
    keypoint_errors,
    subject_errors,
    whole_error,
)
from posecore.evaluation.protocols import bodies_of, metric_class
from posecore.evaluation.traits import Traits
from posecore.evaluation.uncertainty import TrustedGroup, UncertaintyResult
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath, write_atomically
from posecore.viz.clinical_section import ClinicalSection
from posecore.viz.close_ups import ShownBody, sample_cases, worst_cases
from posecore.viz.curves import Chart, Curve
from posecore.viz.estimate_text import interval, percent
from posecore.viz.findings import Finding
from posecore.viz.page import figure, render

_MOST_BARS = 40
_MOST_SUBJECTS = 30
_NAMED = 3
"""Of points and subjects that the answer names."""
SAMPLES = 6
"""Pictures of held-out bodies of each set."""


@dataclass(frozen=True)
class ReportTable:
    """A plain table.

    Attributes:
        columns: headings.
        rows: as many cells each.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class _Bar:
    error: KeypointError
    width_percent: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSection:
    """One evaluation set of the report.

    Attributes:
        name: of the set, such as ``coco/val``.
        protocol: name of its protocol.
        metrics: as :func:`posecore.evaluation.protocols.evaluate` returns them.
        error: mean distance of a labelled point as a share of √(w·h) of its box.
        units: what the intervals are resampled from → how many of them.
        errors: per keypoint.
        subjects: per subject, the largest error first.
        samples: some bodies from the whole of the set.
        worst: the worst cases, worst first.
        license: licence id of the data.
        digest: dataset digest.
        num_images: images judged.
        num_instances: instances judged.
        bodies: which were missed, answered too often or mixed up; None where the protocol has no OKS.
        clinical: the part for clinics, or None.
        uncertainty: whether the model knows how far off it is; None where it was not calibrated to say.
    """

    name: str
    protocol: str
    metrics: Mapping[str, float]
    error: Estimate = field(default_factory=lambda: Estimate(np.nan))
    units: Mapping[str, int] = field(default_factory=dict)
    errors: Sequence[KeypointError] = ()
    subjects: Sequence[SubjectError] = ()
    samples: Sequence[ShownBody] = ()
    worst: Sequence[ShownBody] = ()
    license: str = ""
    digest: str = ""
    num_images: int = 0
    num_instances: int = 0
    bodies: BodyErrors | None = None
    clinical: ClinicalResult | None = None
    uncertainty: UncertaintyResult | None = None

    @classmethod
    def of(
        cls,
        name: str,
        store: ShardStore,
        truth: GroundTruth,
        predictions: Predictions,
        metrics: Mapping[str, float],
        *,
        worst: int = 12,
        samples: int = SAMPLES,
        clinical: ClinicalResult | None = None,
        uncertainty: UncertaintyResult | None = None,
    ) -> "EvaluationSection":
        """What a model said of a split.

        Args:
            name: of the set.
            store: the split.
            truth: its annotations.
            predictions: what was said of them.
            metrics: of its protocol.
            worst: pictures of the worst cases.
            samples: pictures of bodies from the whole of it.
            clinical: the part for clinics.
            uncertainty: whether the model knows how far off it is.

        Raises:
            IntegrityError: an image of the store does not decode.
        """
        definition, traits = store.manifest.definition, Traits.from_store(store)
        error, units = whole_error(truth, predictions, traits)
        skeleton = definition.skeleton
        return cls(
            name=name,
            protocol=definition.evaluation.protocol,
            metrics=metrics,
            error=error,
            units=units,
            errors=keypoint_errors(truth, predictions, skeleton, traits),
            subjects=subject_errors(truth, predictions, traits),
            samples=sample_cases(store, skeleton, truth, predictions, samples),
            worst=worst_cases(store, skeleton, truth, predictions, worst),
            license=definition.license.id,
            digest=store.manifest.digest,
            num_images=len(truth.image_ids),
            num_instances=int(truth.labelled.sum()),
            bodies=bodies_of(definition.evaluation, skeleton, truth, predictions),
            clinical=clinical,
            uncertainty=uncertainty,
        )

    @property
    def primary(self) -> str:
        """Name of the metric that stands for the set."""
        return metric_class(self.protocol).primary

    def metric_tables(self) -> list[dict[str, dict[str, float]]]:
        """Metrics as tables of row → column → value; parts that share their metrics are rows of one table.

        The part of a metric's name before the slash is its row; metrics without one are the row "overall". A part of
        which something could not be judged has NaN there.
        """
        rows: dict[str, dict[str, float]] = {}
        for name, value in self.metrics.items():
            row, _, column = name.rpartition("/")
            rows.setdefault(row or "overall", {})[column] = value
        tables: list[dict[str, dict[str, float]]] = []
        for row, values in rows.items():
            fits = (each for each in tables if _are_alike(row, values.keys(), *next(reversed(each.items()))))
            table = next(fits, None)
            if table is None:
                tables.append({row: values})
            else:
                table[row] = values
        return [_squared(table) for table in tables]

    @property
    def bars(self) -> list[_Bar]:
        """The keypoints with the largest relative error, largest first; the longest bar is full width."""
        known = sorted((error for error in self.errors if error.labelled), key=lambda error: -error.relative)
        longest = max((error.relative for error in known), default=0.0) or 1.0
        return [_Bar(error=error, width_percent=100 * error.relative / longest) for error in known[:_MOST_BARS]]

    @property
    def shown_subjects(self) -> Sequence[SubjectError]:
        """The subjects that the page has room for."""
        return self.subjects[:_MOST_SUBJECTS]

    @property
    def resampled(self) -> str:
        """What the intervals come from."""
        return " and ".join(counted(count, kind) for kind, count in self.units.items())

    def finding(self) -> Finding:
        """How good the model is on the set, on which points it is worst, and for whom."""
        told = f"{self.name}: {self.primary} {figure(self.metrics[self.primary])}"
        if np.isfinite(self.error.value):
            told += f", mean error {percent(self.error.value)} of the box {interval(self.error, percent)}".rstrip()
        told += "."
        hard = [f"{bar.error.name} ({percent(bar.error.relative)})" for bar in self.bars[:_NAMED]]
        if len(self.bars) > _NAMED:
            told += f" Worst on {', '.join(hard)}."
        apart = [each for each in self.subjects if each.error.low > self.error.value]
        if apart:
            named = ", ".join(f"{each.name} ({percent(each.error.value)})" for each in apart[:_NAMED])
            told += f" Clearly worse than the mean for {len(apart)} of {len(self.subjects)}: {named}"
            told += " …" if len(apart) > _NAMED else "."
        return Finding(told)


def _are_alike(row: str, columns: Iterable[str], other: str, others: Iterable[str]) -> bool:
    """Whether two rows belong into one table: of two parts, one may lack what could not be judged of it."""
    one, two = set(columns), set(others)
    return one == two or ("overall" not in (row, other) and (one <= two or one >= two))


def _squared(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    longest_first = sorted(table.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(column for values in longest_first for column in values))
    return {row: {column: values.get(column, np.nan) for column in columns} for row, values in table.items()}


def trust_table(result: UncertaintyResult) -> ReportTable:
    """By group, how many points are where they were promised to be, and how far probabilities are off."""

    def cells(trait: str, group: TrustedGroup) -> tuple[str, ...]:
        radius = f"{group.radius:.1f}" if np.isfinite(group.radius) else ""
        estimates = (group.coverage, group.ellipse, group.visible_error)
        texts = [f"{percent(each.value)} {interval(each, percent)}".strip() for each in estimates]
        told = [text if np.isfinite(each.value) else "" for text, each in zip(texts, estimates, strict=True)]
        return trait, group.name, *told, radius, str(group.points), str(group.units)

    columns = ("group of", "", "within the radius", "within the ellipse", "error of P(visible)")
    rows = [cells(trait, group) for trait, groups in result.by.items() for group in groups]
    return ReportTable((*columns, "median radius, px", "points", "units"), [cells("all", result.whole), *rows])


def write_report(
    path: AnyPath,
    title: str,
    sections: Sequence[EvaluationSection],
    facts: Mapping[str, str] | None = None,
    *,
    findings: Sequence[Finding] = (),
    curves: Sequence[Curve] = (),
    tables: Mapping[str, ReportTable] | None = None,
) -> AnyPath:
    """Writes the report.

    Args:
        path: the HTML file.
        title: heading, plain text.
        sections: one per evaluation set, in this order.
        facts: settings, folded at the end, such as model digest, code version and settings; plain text.
        findings: sentences that the page begins with, before one on each set.
        curves: of the training.
        tables: title → what else there is to know, such as data and cost.

    Returns:
        ``path``.
    """
    page = render(
        "report.html.j2",
        title=title,
        facts=facts or {},
        sections=sections,
        findings=[*findings, *(section.finding() for section in sections)],
        curves=[Chart(curve) for curve in curves],
        tables=tables or {},
        clinical={s.name: ClinicalSection(s.clinical) for s in sections if s.clinical is not None},
        trusted={s.name: trust_table(s.uncertainty) for s in sections if s.uncertainty is not None},
    )
    write_atomically(path, page)
    return path
