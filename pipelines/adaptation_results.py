"""What an adaptation ends in: tables of parent and child, the verdict, the registered version and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from pipelines.adaptation_job import AdaptationJob, Group
from pipelines.adaptation_start import Start
from pipelines.fetched_model import FetchedModel
from pipelines.judge_step import as_registered
from pipelines.steps import Split, vouched
from posecore.evaluation.protocols import PROTOCOLS
from posecore.evaluation.tables import Change, forgetting_table
from posecore.lineage.promotion import Check, Gate, check_gates
from posecore.lineage.registry import register_model
from posecore.lineage.steps import Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog, Tracking
from posecore.lineage.versions import RegisteredVersion
from posecore.viz.adaptation_report import AdaptationReport, ReportTable, write_adaptation_report


def outcome(
    config: AdaptationJob, start: Start, evaluation: Sequence[Split], before: StepResult, after: StepResult
) -> dict[str, list[Change]]:
    """What was gained on the target, forgotten of kept sets and gained on independent ones; no empty tables."""
    tables = {}
    titles: dict[str, Group] = {"target": "target", "forgetting": "kept", "generalisation": "independent"}
    for title, group in titles.items():
        splits = {split.entry.name: split for split in evaluation if config.group_of(split.entry) == group}
        if splits:
            parent, child = ({name: result.values["metrics"][name] for name in splits} for result in (before, after))
            parent = parent if start.stands_for_parent(group) else {}
            protocols = {name: split.definition.evaluation.protocol for name, split in splits.items()}
            tables[title] = forgetting_table(parent, child, protocols)
    return tables


def verdict(
    config: AdaptationJob,
    start: Start,
    evaluation: Sequence[Split],
    before: StepResult,
    tracking: Tracking,
    child: RegisteredVersion,
) -> list[Check]:
    """Every gate, those of the run file and those that follow from the parent's own figures."""
    gates = list(config.gates.gates)
    for split in evaluation:
        group, protocol = config.group_of(split.entry), PROTOCOLS[split.definition.evaluation.protocol]
        allowed = {"target": 0.0 if config.gates.must_gain else None, "kept": config.gates.max_forgetting}.get(group)
        if allowed is None or not start.stands_for_parent(group):
            continue
        value = before.values["metrics"][split.entry.name][protocol.primary]
        sign = 1 if protocol.higher_is_better else -1
        gates.append(
            Gate(
                metric=f"{split.entry.name}/{protocol.primary}",
                operator=">=" if protocol.higher_is_better else "<=",
                bound=value - sign * allowed,
            )
        )
    return check_gates(tracking, child, None, config.gates.model_copy(update={"gates": tuple(gates)}))


def verdict_word(checks: Sequence[Check]) -> str:
    """The verdict in words."""
    if not checks:
        return "may not be judged, for no gate was asked"
    return "may be promoted" if all(check.passed for check in checks) else "must not be promoted"


def register_step(
    workflow: Workflow,
    config: AdaptationJob,
    parent: FetchedModel,
    child: StepResult,
    splits: Sequence[Split],
    judged: StepResult,
    leaks: StepResult,
) -> StepResult:
    """The child as a new version in the registry, its parent named, low-rank updates as further artifacts."""
    evaluation = [split for split in splits if split.role == "evaluation"]

    def execute(log: RunLog) -> Outputs:
        for path in child.values["beside"]:
            log.log_file(Path(path), "adapter")
        version = register_model(
            log,
            config.name,
            Path(child.values["folder"]),
            [split.use for split in splits],
            as_registered(evaluation, judged),
            parent=parent.version,
            tags={
                "training_run_id": child.run_id,
                "leaked_pairs": str(leaks.values["shared"]),
                "strategy": config.method.strategy.kind,
                "target": config.target,
            },
            summary=f"Adapted to {config.target} from {parent.record['source']} by {config.method.strategy.kind}.",
        )
        return Outputs({"uri": version.uri, "version": version.version})

    inputs = {
        "name": config.name,
        "model": child,
        "parent": parent.version.uri if parent.version else None,
        "judged": judged,
        "audit": leaks,
    }
    return workflow.step("register", execute, inputs=inputs, code=["posecore.lineage.registry"])


def report_step(
    workflow: Workflow,
    config: AdaptationJob,
    start: Start,
    child: StepResult,
    before: StepResult,
    after: StepResult,
    tables: Mapping[str, Sequence[Change]],
    checks: Sequence[Check],
    version: RegisteredVersion,
) -> StepResult:
    """One HTML file with everything; the worst cases are in the two reports it names."""
    path = Path(child.values["run_dir"]) / "adaptation.html"
    earlier, later = before.values["errors"], after.values["errors"]
    compared = {entry.name for entry in config.datasets if start.stands_for_parent(config.group_of(entry))}
    errors = {
        name: {point: (earlier[name][point] if name in compared else None, error) for point, error in points.items()}
        for name, points in later.items()
    }

    def execute(log: RunLog) -> Outputs:
        report = AdaptationReport(
            title=f"{config.target}: {version.uri}",
            facts={
                "parent": str(config.parent.source),
                "strategy": config.method.strategy.model_dump_json(),
                "kept": ", ".join(entry.name for entry in config.kept) or "nothing",
                "replay": f"{config.replay_share:g} of the crops",
                "unlabelled": _taught(config),
                "distillation from the parent": f"{config.method.distillation:g}",
                "L2-SP": f"{config.l2_sp:g}",
                "model": child.values["folder"],
            },
            verdict=verdict_word(checks),
            checks=[(check.passed, check.statement) for check in checks],
            changes={title: list(rows) for title, rows in tables.items()},
            errors=errors,
            warm_start=ReportTable(
                ("part", "from", "copied", "freshly initialised"),
                [
                    (r.what, r.source, f"{r.copied} of {r.total} {r.unit}", ", ".join(r.fresh))
                    for r in start.report.rows
                ],
            ),
            differences=start.differences,
            details={"parent": before.values["report"], "child": after.values["report"]},
        )
        write_adaptation_report(path, report)
        log.log_file(path)
        return Outputs({"report": str(path)}, vouched(path))

    inputs = {
        "before": before,
        "after": after,
        "checks": [check.model_dump() for check in checks],
        "start": start.report.as_dict(),
        "differences": list(start.differences),
        "version": version.uri,
        "out": str(path),
    }
    return workflow.step("report", execute, inputs=inputs, code=["posecore.viz.adaptation_report"])


def _taught(config: AdaptationJob) -> str:
    names = ", ".join(config.unlabelled)
    return f"{names}: {config.unlabelled_share:g} of the crops" if names else "nothing"


def changes_table(title: str, rows: Sequence[Change]) -> Table:
    """Parent and child, one row per set."""
    table = Table(title=title)
    for column in ("set", "metric", "parent", "child", "gain"):
        table.add_column(column, overflow="fold")
    for row in rows:
        values = [f"{value:.4f}" if value is not None else "–" for value in (row.parent, row.child)]
        table.add_row(row.eval_set, row.metric, *values, f"{row.gain:+.4f}" if row.gain is not None else "–")
    return table
