"""The step that makes a trained model a version in the registry, of every job that trains."""

from collections.abc import Mapping, Sequence

from posecore.lineage.jobs.steps import Outputs, StepResult, Workflow
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import log_dataset_inputs
from posecore.lineage.versions.tags import EvaluationResult, RegisteredVersion
from posecore.storage import as_path, local_copy
from posecore.workflows.data_steps import Split
from posecore.workflows.progress import HARDWARE


def register_step(
    workflow: Workflow,
    model: StepResult,
    splits: Sequence[Split],
    judged: Sequence[EvaluationResult],
    leaks: StepResult,
    *,
    parent: RegisteredVersion | None = None,
    tags: Mapping[str, str] | None = None,
    summary: str = "",
    adapter: Sequence[str] = (),
) -> StepResult:
    """The model as a new version of the job's name, with everything it came from and what it was found to be.

    Args:
        workflow: the step is recorded in.
        model: the step that trained it.
        splits: all that it was trained and judged on.
        judged: its results.
        leaks: the step that audited the splits.
        parent: the version it was made from, if that is a registered one.
        tags: more to say of the version.
        summary: a sentence for whoever finds it.
        adapter: files of low-rank updates, kept with the version as they are.

    Returns:
        ``uri`` and ``version``.
    """

    def execute(log: RunLog) -> Outputs:
        for path in adapter:
            log.log_file(path, "adapter")
        said = {"training_run_id": model.run_id, "leaked_pairs": str(leaks.values["shared"]), **(tags or {})}
        uses = [split.use_in(model.values.get("shares", {})) for split in splits]
        trained = workflow.tracking.ask(lambda client: client.get_run(model.run_id))
        parameters = workflow.parameters | {"hardware": trained.data.tags.get(HARDWARE, "")}
        with local_copy(as_path(model.values["folder"])) as folder:
            version = register_model(
                log,
                workflow.name,
                folder,
                uses,
                judged,
                parent=parent,
                tags=said,
                summary=summary,
                parameters=parameters,
                training=dict(trained.data.metrics),
            )
        shown = {f"{result.name}/{name}": value for result in judged for name, value in result.metrics.items()}
        workflow.run.log_metrics(shown)
        log_dataset_inputs(workflow.run, uses)
        return Outputs({"uri": version.uri, "version": version.version}, versions=(version,))

    inputs = {
        "name": workflow.name,
        "model": model,
        "parent": None if parent is None else parent.uri,
        "judged": [result.model_dump(mode="json") for result in judged],
        "tags": dict(tags or {}),
        "summary": summary,
        "audit": leaks,
    }
    return workflow.step("register", execute, inputs=inputs, code=["posecore.lineage.registry.registration"])
