"""The report of an adaptation: one HTML file with what was gained, what was forgotten, and whether that will do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.clinical_comparison import ClinicalComparison
from posecore.evaluation.tables import Change
from posecore.storage import AnyPath, write_atomically
from posecore.viz.clinical_section import ClinicalSection
from posecore.viz.comparison_section import ComparisonSection
from posecore.viz.gallery import data_url


@dataclass(frozen=True)
class ReportTable:
    """A plain table.

    Attributes:
        columns: headings.
        rows: as many cells each.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()


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
    worst: ReportTable = ReportTable(())
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
        errors: set to keypoint to the mean error of parent and child, as shares of the box; None where it is labelled
            nowhere.
        warm_start: what the child took from its parent.
        differences: points that look like the parent's and are not, a sentence each.
        details: who was judged to the file with all metrics and the worst cases.
    """

    title: str
    facts: Mapping[str, str]
    verdict: str
    checks: Sequence[tuple[bool, str]]
    changes: Mapping[str, Sequence[Change]]
    errors: Mapping[str, Mapping[str, tuple[float | None, float | None]]]
    warm_start: ReportTable
    clinical: Mapping[str, ClinicalComparison | ClinicalResult] = field(default_factory=dict)
    labels: Sequence[LabelFindings] = ()
    differences: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)


def write_adaptation_report(path: AnyPath, report: AdaptationReport) -> AnyPath:
    """Writes the report and returns its path."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = data_url
    clinical = {
        title: ("comparison.html.j2", ComparisonSection(found))
        if isinstance(found, ClinicalComparison)
        else ("clinical.html.j2", ClinicalSection(found))
        for title, found in report.clinical.items()
    }
    page = environment.get_template("adaptation_report.html.j2").render(report=report, clinical=clinical)
    write_atomically(path, page.encode())
    return path
