"""What an adaptation ends in: tables of parent and child, the verdict, the registered version and the report."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from rich.table import Table

from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.clinical_comparison import ClinicalComparison, compare_clinic
from posecore.evaluation.paired import compare_predictions
from posecore.evaluation.prediction_files import read_predictions
from posecore.evaluation.protocols import metric_class
from posecore.evaluation.tables import Change, forgetting_table
from posecore.evaluation.traits import Traits
from posecore.labels.suspects import TABLE_NAME
from posecore.lineage.ancestry.measurements import MEASURED
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.jobs.steps import Outputs, StepResult, Workflow
from posecore.lineage.registry.gates import Check, Gate
from posecore.lineage.registry.promotion import check
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.shards.store import open_store
from posecore.storage import AnyPath, as_path
from posecore.viz.adaptation_report import AdaptationReport, BothByGroup, LabelFindings, write_adaptation_report
from posecore.viz.estimate_text import signed_figure
from posecore.viz.findings import Finding, change_finding, worse_finding
from posecore.viz.report import EvaluationSection, ReportTable
from posecore.viz.suspects import suspect_pictures
from posecore.workflows.adaptation.job import AdaptationJob, Group
from posecore.workflows.adaptation.start import Start
from posecore.workflows.data_steps import Split, made_reports, vouched
from posecore.workflows.fetched_model import FetchedModel
from posecore.workflows.judge_step import as_registered
from posecore.workflows.label_check import suspects
from posecore.workflows.register_step import register_step
from posecore.workflows.run_folder import Begun
from posecore.workflows.training_story import training_story

_CLINICAL_ROWS = {"torso/error": -1, "torso/PCK_0.2": 1}
"""Metrics that stand for a set judged for clinics, and the sign of a gain."""
_TITLES: Mapping[str, Group] = {"target": "target", "forgetting": "kept", "generalisation": "independent"}
_WORST_LABELS = 20
_PICTURES = 12


@dataclass(frozen=True)
class SearchOrigin:
    """The search by which a child's strategy was chosen.

    Attributes:
        run_id: the MLflow run that holds its trials.
        told: the choice in a sentence.
        page: of its trials.
        begun: the chosen trial, which the child goes on from; None where nothing was tried.
    """

    run_id: str
    told: str
    page: str
    begun: Begun | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Parent and child on every set.

    Attributes:
        parent: the step that judged the parent.
        child: the step that judged the child.
        tables: ``target``, ``forgetting`` and ``generalisation``, of which there are sets, to what was gained on them.
        clinical: name of the set to both models in torso lengths, or to the child alone where nothing stands for the
            parent, for sets that were judged so.
    """

    parent: StepResult
    child: StepResult
    tables: Mapping[str, Sequence[Change]]
    clinical: Mapping[str, ClinicalComparison | ClinicalResult]

    def changes(self, name: str) -> dict[str, float]:
        """``torso/error_change``, child - parent on a set, and its interval, ``_low`` and ``_high``; what exists."""
        found = self.clinical.get(name)
        if not isinstance(found, ClinicalComparison):
            return {}
        change = found.whole.error
        ends = {"": change.value, "_low": change.low, "_high": change.high}
        return {f"torso/error_change{end}": value for end, value in ends.items() if np.isfinite(value)}


def outcome(
    config: AdaptationJob, start: Start, evaluation: Sequence[Split], before: StepResult, after: StepResult
) -> Outcome:
    """What was gained on the target, forgotten of kept sets and gained on independent ones.

    Args:
        config: says which set is what.
        start: says where it stands for the parent.
        evaluation: the judged splits.
        before: the step that judged the parent.
        after: the step that judged the child.
    """
    tables = {}
    for title, group in _TITLES.items():
        splits = {split.entry.name: split for split in evaluation if config.group_of(split.entry) == group}
        child = {name: after.values["metrics"][name] for name in splits}
        parent = {name: before.values["metrics"][name] for name in splits if start.stands_for_parent(group)}
        protocols = {name: split.definition.evaluation.protocol for name, split in splits.items()}
        rows = forgetting_table(parent, child, protocols)
        tables[title] = [
            each
            for row in rows
            for each in (row, *_clinical_rows(row, parent.get(row.eval_set, {}), child[row.eval_set]))
        ]
    compared = _compared(config, start)
    clinical: dict[str, ClinicalComparison | ClinicalResult] = {}
    for name, path in after.values["clinical"].items():
        own = _read_clinical(path)
        parents = before.values["clinical"][name]
        clinical[name] = compare_clinic(_read_clinical(parents), own) if name in compared else own
    return Outcome(
        parent=before,
        child=after,
        tables={title: rows for title, rows in tables.items() if rows},
        clinical=clinical,
    )


def _compared(config: AdaptationJob, start: Start) -> set[str]:
    """Sets on which the child's start stands for the parent."""
    return {entry.name for entry in config.datasets if start.stands_for_parent(config.group_of(entry))}


def _clinical_rows(row: Change, parent: Mapping[str, float], child: Mapping[str, float]) -> list[Change]:
    rows = []
    for metric, sign in _CLINICAL_ROWS.items():
        if metric in child:
            before, after = parent.get(metric), child[metric]
            gain = None if before is None else sign * (after - before)
            rows.append(replace(row, metric=metric, parent=before, child=after, gain=gain))
    return rows


def _read_clinical(path: str) -> ClinicalResult:
    return ClinicalResult.from_json(as_path(path).read_bytes(), path)


def verdict(
    config: AdaptationJob,
    start: Start,
    evaluation: Sequence[Split],
    judged: Outcome,
    tracking: Tracking,
    version: RegisteredVersion,
) -> list[Check]:
    """Every gate, those of the run file and those that follow from the parent's own figures."""
    gates, checks = list(config.gates.gates), list[Check]()
    for split in evaluation:
        name, protocol = split.entry.name, metric_class(split.definition.evaluation.protocol)
        group = config.group_of(split.entry)
        if group == "target":
            checks += _evidence(config, name, judged.child.values[MEASURED][name])
        allowed = {"target": 0.0 if config.gates.must_gain else None, "kept": config.gates.max_forgetting}.get(group)
        if allowed is None or not start.stands_for_parent(group):
            continue
        value = judged.parent.values["metrics"][name][protocol.primary]
        sign = 1 if protocol.higher_is_better else -1
        gates.append(
            Gate(
                metric=f"{name}/{protocol.primary}",
                operator=">=" if protocol.higher_is_better else "<=",
                bound=value - sign * allowed,
            )
        )
    wanted = config.gates.model_copy(update={"gates": tuple(gates)})
    more = {split.entry.name: judged.changes(split.entry.name) for split in evaluation}
    asked = check(tracking, LineageGraph.load(tracking), version, None, [wanted], more)
    return [*asked, *checks] if asked else []


def _evidence(config: AdaptationJob, name: str, on: Mapping[str, int]) -> Iterator[Check]:
    gates = config.gates
    for what, least in (("subjects", gates.target_subjects), ("bodies", gates.target_bodies)):
        if least and (on[what] or what == "bodies"):  # of people whom nobody names the number is not known
            statement = f"{name} was judged on {on[what]:,} {what}, required at least {least:,} (gates.target_{what})."
            yield Check(passed=on[what] >= least, statement=statement)


def verdict_word(checks: Sequence[Check]) -> str:
    """The verdict in words."""
    if not checks:
        return "no verdict, for no gate was asked"
    return "may be promoted" if all(check.passed for check in checks) else "must not be promoted"


def register_child(
    workflow: Workflow,
    config: AdaptationJob,
    parent: FetchedModel,
    child: StepResult,
    splits: Sequence[Split],
    judged: Outcome,
    leaks: StepResult,
    search: SearchOrigin | None = None,
) -> StepResult:
    """The child as a new version in the registry, parent and search named, low-rank updates as further artifacts."""
    evaluation = [split for split in splits if split.role == "evaluation"]
    kind = config.method.strategy.kind
    return register_step(
        workflow,
        child,
        splits,
        [
            result.model_copy(update={"metrics": result.metrics | judged.changes(result.name)})
            for result in as_registered(evaluation, judged.child)
        ],
        leaks,
        parent=parent.version,
        tags={"strategy": kind, "target": config.target} | ({} if search is None else {"search_run_id": search.run_id}),
        summary=f"Adapted to {config.target} from {parent.record['source']} by {kind}"
        + ("." if search is None else f", which the search of run {search.run_id} chose."),
        adapter=child.values["beside"],
    )


def report_step(
    workflow: Workflow,
    config: AdaptationJob,
    start: Start,
    child: StepResult,
    judged: Outcome,
    labels: Mapping[str, StepResult],
    splits: Sequence[Split],
    checks: Sequence[Check],
    version: RegisteredVersion,
    search: SearchOrigin | None = None,
) -> StepResult:
    """One HTML file with everything, the two reports of all metrics apart.

    Args:
        workflow: the step is recorded in.
        config: the run file.
        start: what the child took from its parent.
        child: the step that trained it.
        judged: parent and child on every set.
        labels: title of each check of the target's labels to its step.
        splits: all that the child was trained and judged on.
        checks: the gates.
        version: the child in the registry.
        search: by which the strategy was chosen; None where it was named.
    """
    path = as_path(child.values["run_dir"]) / "adaptation.html"
    target = next(split for split in splits if split.role == "training" and split.entry.name == config.target)
    # Models of whole pictures may answer a body not at all, so that nothing could be paired.
    compared = set() if start.card.architecture.whole_scenes else _compared(config, start)
    groups = {entry.name: config.group_of(entry) for entry in config.datasets}
    order = sorted(judged.clinical, key=_rank(groups))

    def execute(log: RunLog) -> Outputs:
        judged_sets = sorted(judged.child.values["predictions"], key=_rank(groups))
        seen = [_seen(name, judged, name in compared) for name in judged_sets]
        story = training_story(workflow, child, splits)
        report = AdaptationReport(
            title=f"{config.target}: {version.uri}",
            facts={
                "parent": str(config.parent.source),
                "strategy": config.method.strategy.model_dump_json(),
                "chosen by": "the run file" if search is None else _search(search, path.parent),
                "kept": ", ".join(entry.name for entry in config.kept) or "nothing",
                "replay": f"{config.replay_share:g} of the crops",
                "unlabelled": _taught(config),
                "distillation from the parent": f"{config.method.distillation:g}",
                "L2-SP": f"{config.l2_sp:g}",
                "proportions": _proportions(config),
                "depth": "is an input of the child" if config.depth_input else "as the parent has it",
                "model": child.values["folder"],
            },
            verdict=verdict_word(checks),
            checks=[(check.passed, check.statement) for check in checks],
            changes={title: list(rows) for title, rows in judged.tables.items()},
            findings=[finding for each in seen for finding in each.findings],
            curves=story.curves,
            sections=[each.section for each in seen],
            paired={each.section.name: each.both for each in seen if each.both is not None},
            tables=story.tables,
            warm_start=ReportTable(
                ("part", "from", "copied", "freshly initialised"),
                [
                    (r.what, r.source, f"{r.copied} of {r.total} {r.unit}", ", ".join(r.fresh))
                    for r in start.report.rows
                ],
            ),
            clinical={f"{name} ({groups[name]})": judged.clinical[name] for name in order},
            labels=[_label_findings(title, target, result, path.parent) for title, result in labels.items()],
            differences=start.differences,
            details={"parent": judged.parent.values["report"], "child": judged.child.values["report"]},
        )
        write_adaptation_report(path, report)
        log.log_file(path)
        for name in judged.clinical:
            log.log_metrics({f"{name}/{metric}": value for metric, value in judged.changes(name).items()})
        files = vouched(path)
        return Outputs({"report": str(path)}, files, made=made_reports(files))

    inputs = {
        "before": judged.parent,
        "after": judged.child,
        "labels": labels,
        "checks": [check.model_dump() for check in checks],
        "start": start.report.as_dict(),
        "differences": list(start.differences),
        "version": version.uri,
        "search": None if search is None else search.run_id,
        "out": str(path),
    }
    return workflow.step("report", execute, inputs=inputs, code=["posecore.workflows.adaptation.results"])


def _rank(groups: Mapping[str, Group]) -> Callable[[str], int]:
    """The target's sets first, and those that are only to be kept last."""
    return lambda name: ("target", "independent", "kept").index(groups[name])


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the page shows of a set."""

    findings: Sequence[Finding]
    section: EvaluationSection
    both: BothByGroup | None


def _seen(name: str, judged: Outcome, compared: bool) -> _Seen:
    said, _, store = read_predictions(as_path(judged.child.values["predictions"][name]))
    truth = GroundTruth.from_store(store)
    metrics = judged.child.values["metrics"][name]
    section = EvaluationSection.of(name, store, truth, said, metrics, worst=_PICTURES)
    if not compared:
        return _Seen(findings=[section.finding()], section=section, both=None)
    before, _, _ = read_predictions(as_path(judged.parent.values["predictions"][name]))
    paired = compare_predictions(truth, before, said, Traits.from_store(store))
    names = store.manifest.definition.skeleton.names
    points = {point: pair for point, pair in zip(names, paired.points, strict=True) if np.isfinite(pair.second.value)}
    return _Seen(
        findings=[change_finding(name, paired), worse_finding(name, paired, points)],
        section=section,
        both=BothByGroup(points=points, subjects=paired.subjects),
    )


def _label_findings(title: str, target: Split, checked: StepResult, beside: AnyPath) -> LabelFindings:
    """What one check found; ``beside`` is the report's folder."""
    page, found = checked.values["page"], suspects(checked)
    if not page:
        return LabelFindings(title=title, told=f"{checked.values['told']}.")
    table = (as_path(page).parent / TABLE_NAME).read_bytes().decode()
    columns, *rows = islice(csv.reader(io.StringIO(table, newline="")), 1 + _WORST_LABELS)
    store = open_store(target.location, corrections=target.corrections)
    return LabelFindings(
        title=title,
        told=f"{checked.values['told']}.",
        worst=ReportTable(columns, rows),
        pictures=list(suspect_pictures(store, found, _PICTURES)),
        page=os.path.relpath(page, str(beside)),
    )


def _search(search: SearchOrigin, beside: AnyPath) -> str:
    page = os.path.relpath(search.page, str(beside))
    return f"the search of run {search.run_id}, whose trials are on {page}: {search.told}"


def _taught(config: AdaptationJob) -> str:
    names = ", ".join(config.unlabelled)
    return f"{names}: {config.unlabelled_share:g} of the crops" if names else "nothing"


def _proportions(config: AdaptationJob) -> str:
    if config.own_proportions:
        return f"of the target's own labels, weight {config.own_proportions:g}"
    prior = config.method.prior
    return "no term of the loss" if prior is None else f"of {prior.source}, weight {prior.weight:g}"


def changes_table(title: str, rows: Sequence[Change]) -> Table:
    """Parent and child, one row per set."""
    table = Table(title=title)
    for column in ("set", "metric", "parent", "child", "gain"):
        table.add_column(column, overflow="fold")
    for row in rows:
        values = [f"{value:.4f}" if value is not None else "–" for value in (row.parent, row.child)]
        table.add_row(row.eval_set, row.metric, *values, signed_figure(row.gain))
    return table
