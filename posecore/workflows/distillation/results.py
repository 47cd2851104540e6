"""What a distillation ends in: the student registered, and tables of student and teacher."""

from collections.abc import Sequence

from rich.table import Table

from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.paired import compare_predictions
from posecore.evaluation.prediction_files import read_predictions
from posecore.evaluation.protocols import metric_class
from posecore.evaluation.traits import Traits
from posecore.lineage.jobs.steps import Outputs, StepResult, Workflow
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.tags import COST
from posecore.models.running_costs import running_costs
from posecore.storage import as_path
from posecore.viz.findings import Finding, change_finding, worse_finding
from posecore.viz.report import ReportTable
from posecore.workflows.data_steps import Split
from posecore.workflows.distillation.job import DistillationJob
from posecore.workflows.distillation.teacher import TeacherFiles
from posecore.workflows.judge_step import as_registered
from posecore.workflows.register_step import register_step
from posecore.workflows.training_report import Told


def measure_step(workflow: Workflow, config: DistillationJob, teacher: TeacherFiles, student: StepResult) -> StepResult:
    """Size, arithmetic and latency of student and teacher on the driver's machine, one crop and one head at a time."""
    folders = {"student": student.values["folder"], "teacher": teacher.source.source}

    def execute(log: RunLog) -> Outputs:
        measured = {who: running_costs(as_path(folder)) for who, folder in folders.items()}
        log.log_metrics({f"{who}/{name}": value for who, values in measured.items() for name, value in values.items()})
        return Outputs(dict(measured))

    inputs = {"student": student, "teacher": teacher.source}
    return workflow.step("measure", execute, inputs=inputs, code=[running_costs.__module__])


def register_student(
    workflow: Workflow,
    teacher: TeacherFiles,
    student: StepResult,
    splits: Sequence[Split],
    judged: StepResult | None,
    measured: StepResult,
    leaks: StepResult,
) -> StepResult:
    """The student as a new version in the registry, a child of its teacher's version if that is registered."""
    evaluation = [split for split in splits if split.role == "evaluation"]
    return register_step(
        workflow,
        student,
        splits,
        [] if judged is None else as_registered(evaluation, judged),
        leaks,
        parent=teacher.parent,
        tags={f"{COST}{name}": f"{value:.6g}" for name, value in measured.values["student"].items()},
        summary=f"Distilled from {teacher.record['source']}.",
    )


def results_table(evaluation: Sequence[Split], judged: StepResult | None, reference: StepResult | None) -> Table:
    """One row per judged set: student beside teacher, where the teacher knows the same points."""
    return _as_shown("results", _results(evaluation, judged, reference))


def cost_table(measured: StepResult) -> Table:
    """What student and teacher cost."""
    return _as_shown("cost of one pass", _costs(measured))


def beside_teacher(
    evaluation: Sequence[Split],
    judged: StepResult | None,
    reference: StepResult | None,
    measured: StepResult,
    whole_scenes: bool,
) -> Told:
    """What the student's page says of it beside its teacher: how near it comes, for whom not, and at which cost.

    Args:
        evaluation: the judged sets.
        judged: the step that judged the student.
        reference: the one that judged the teacher, on the sets whose points it knows.
        measured: size and speed of both.
        whole_scenes: whether they find bodies in whole pictures, of which no body has one answer.
    """
    findings = []
    if judged is not None and reference is not None and not whole_scenes:
        for name, file in reference.values["predictions"].items():
            said, _, store = read_predictions(as_path(judged.values["predictions"][name]))
            taught, _, _ = read_predictions(as_path(file))
            paired = compare_predictions(GroundTruth.from_store(store), taught, said, Traits.from_store(store))
            points = dict(zip(store.manifest.definition.skeleton.names, paired.points, strict=True))
            findings += [change_finding(f"{name}, teacher → student", paired), worse_finding(name, paired, points)]
    student, teacher = measured.values["student"], measured.values["teacher"]
    shares = {name: student[name] / teacher[name] for name in ("parameters", "latency_ms")}
    findings.append(
        Finding(f"{shares['parameters']:.2f} of the teacher's parameters, {shares['latency_ms']:.2f} of its time here.")
    )
    tables = {"student and teacher": _results(evaluation, judged, reference), "cost of one pass": _costs(measured)}
    return Told(findings, tables)


def _as_shown(title: str, found: ReportTable) -> Table:
    table = Table(title=title)
    for column in found.columns:
        table.add_column(column, overflow="fold")
    for row in found.rows:
        table.add_row(*row)
    return table


def _results(evaluation: Sequence[Split], judged: StepResult | None, reference: StepResult | None) -> ReportTable:
    rows = []
    of_student, of_teacher = ({} if step is None else step.values["metrics"] for step in (judged, reference))
    for split in evaluation:
        name = split.entry.name
        primary = metric_class(split.definition.evaluation.protocol).primary
        theirs = f"{of_teacher[name][primary]:.3f}" if name in of_teacher else "other points"
        rows.append((name, primary, f"{of_student[name][primary]:.3f}", theirs))
    return ReportTable(("dataset", "metric", "student", "teacher"), rows)


def _costs(measured: StepResult) -> ReportTable:
    rows = [
        (
            who,
            f"{values['parameters']:,.0f}",
            f"{values['gflops']:.3f}" if "gflops" in values else "not counted",
            f"{values['megabytes']:.1f}",
            f"{values['latency_ms']:.1f}",
        )
        for who, values in measured.values.items()
    ]
    return ReportTable(("", "parameters", "GFLOPs", "MB on disk", "latency here, ms"), rows)
