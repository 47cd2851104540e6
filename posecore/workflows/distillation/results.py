"""What a distillation ends in: the student registered, and tables of student and teacher."""

from collections.abc import Sequence

from rich.table import Table

from posecore.evaluation.protocols import metric_class
from posecore.lineage.steps import Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog
from posecore.lineage.versions import COST
from posecore.models.cost import model_cost
from posecore.models.latency import forward_seconds
from posecore.models.saving import WEIGHTS_FILE, load_model
from posecore.storage import AnyPath, as_path
from posecore.workflows.data_steps import Split
from posecore.workflows.distillation.job import DistillationJob
from posecore.workflows.distillation.teacher import TeacherFiles
from posecore.workflows.judge_step import as_registered
from posecore.workflows.register_step import register_step


def measure_step(workflow: Workflow, config: DistillationJob, teacher: TeacherFiles, student: StepResult) -> StepResult:
    """Size, arithmetic and latency of student and teacher on the driver's machine, one crop and one head at a time."""
    folders = {"student": student.values["folder"], "teacher": teacher.source.source}

    def execute(log: RunLog) -> Outputs:
        measured = {who: _measured(as_path(folder)) for who, folder in folders.items()}
        log.log_metrics({f"{who}/{name}": value for who, values in measured.items() for name, value in values.items()})
        return Outputs(dict(measured))

    inputs = {"student": student, "teacher": teacher.source}
    return workflow.step("measure", execute, inputs=inputs, code=["posecore.models.latency", "posecore.models.cost"])


def _measured(folder: AnyPath) -> dict[str, float]:
    model = load_model(folder)
    points = {name: skeleton.num_keypoints for name, skeleton in model.skeletons.items()}
    uncounted = model.config.backbone.uncounted_parameters
    if uncounted is not None:
        counted = {"parameters": float(uncounted)}
    else:
        cost = model_cost(model.config, points)
        counted = {"parameters": cost.parameters, "gflops": cost.flops / 1e9}
    return {
        **counted,
        "megabytes": (folder / WEIGHTS_FILE).stat().st_size / 1e6,
        "latency_ms": 1e3 * forward_seconds(model, next(iter(model.skeletons))),
    }


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
    table = Table(title="results")
    for column in ("dataset", "metric", "student", "teacher"):
        table.add_column(column, overflow="fold")
    of_student, of_teacher = ({} if step is None else step.values["metrics"] for step in (judged, reference))
    for split in evaluation:
        name = split.entry.name
        primary = metric_class(split.definition.evaluation.protocol).primary
        theirs = f"{of_teacher[name][primary]:.3f}" if name in of_teacher else "other points"
        table.add_row(name, primary, f"{of_student[name][primary]:.3f}", theirs)
    return table


def cost_table(measured: StepResult) -> Table:
    """What student and teacher cost."""
    table = Table(title="cost of one pass")
    for column in ("", "parameters", "GFLOPs", "MB on disk", "latency here, ms"):
        table.add_column(column)
    for who, values in measured.values.items():
        table.add_row(
            who,
            f"{values['parameters']:,.0f}",
            f"{values['gflops']:.3f}" if "gflops" in values else "not counted",
            f"{values['megabytes']:.1f}",
            f"{values['latency_ms']:.1f}",
        )
    return table
