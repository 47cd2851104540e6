"""The report of an adaptation: one HTML file with what was gained, what was forgotten, and whether that will do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.clinical_comparison import ClinicalComparison
from posecore.evaluation.paired import Pair
from posecore.evaluation.tables import Change
from posecore.storage import AnyPath, write_atomically
from posecore.viz.clinical_section import ClinicalSection
from posecore.viz.comparison_section import ComparisonSection
from posecore.viz.curves import Chart, Curve
from posecore.viz.findings import Finding
from posecore.viz.page import render
from posecore.viz.report import EvaluationSection, ReportTable


@dataclass(frozen=True, kw_only=True)
class BothByGroup:
    """Parent and child on one set, by name of the group.

    Attributes:
        points: by keypoint.
        subjects: by subject.
    """

    points: Mapping[str, Pair]
    subjects: Mapping[str, Pair]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFindings:
    """What one check says of the target's labels.

    Attributes:
        title: of the check.
        told: how many labels it found, or why it could not look, as a sentence.
        worst: the most suspicious labels.
        pictures: (H, W, 3) uint8 RGB of their bodies, each with its caption.
        page: where all of them are, relative to the report; "" if there is none.
    """

    title: str
    told: str
    worst: ReportTable = field(default_factory=lambda: ReportTable(()))
    pictures: Sequence[tuple[NDArray[np.uint8], str]] = ()
    page: str = ""


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """Everything the report says, as plain text and numbers.

    Attributes:
        title: heading.
        facts: lines of the head.
        verdict: in words.
        checks: whether each gate holds, and the sentence about it.
        changes: title such as ``forgetting`` to its rows.
        clinical: title of a set to both models on it, or to the child alone where there is nothing to compare it with,
            for sets that were judged for clinics.
        labels: what each check says of the target's labels.
        findings: what the page begins with.
        curves: of the child's training.
        sections: the child on each set, with pictures.
        paired: name of a set to both models on it, where the parent is compared.
        warm_start: what the child took from its parent.
        differences: points that look like the parent's and are not, a sentence each.
        details: who was judged to the file with all metrics and the worst cases.
        tables: title to what else there is to know, such as data and cost.
    """

    title: str
    facts: Mapping[str, str]
    verdict: str
    checks: Sequence[tuple[bool, str]]
    changes: Mapping[str, Sequence[Change]]
    warm_start: ReportTable
    clinical: Mapping[str, ClinicalComparison | ClinicalResult] = field(default_factory=dict)
    labels: Sequence[LabelFindings] = ()
    differences: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    curves: Sequence[Curve] = ()
    sections: Sequence[EvaluationSection] = ()
    paired: Mapping[str, BothByGroup] = field(default_factory=dict)
    tables: Mapping[str, ReportTable] = field(default_factory=dict)


def write_adaptation_report(path: AnyPath, report: AdaptationReport) -> AnyPath:
    """Writes the report and returns its path."""
    clinical = {
        title: ("comparison.html.j2", ComparisonSection(found))
        if isinstance(found, ClinicalComparison)
        else ("clinical.html.j2", ClinicalSection(found))
        for title, found in report.clinical.items()
    }
    page = render(
        "adaptation_report.html.j2",
        report=report,
        clinical=clinical,
        curves=[Chart(curve) for curve in report.curves],
        tone="" if not report.checks else "good" if all(passed for passed, _ in report.checks) else "bad",
    )
    write_atomically(path, page)
    return path
