"""The step that searches: trials climb the rungs within the budget, each a run of its own in the record."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from posecore.config import Config, digest_json
from posecore.errors import PreflightError
from posecore.lineage.code.version import code_digest, own_digest
from posecore.lineage.jobs.steps import Outputs, StepResult
from posecore.lineage.store.parameters import flat_parameters
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import DatasetUse, log_dataset_inputs
from posecore.models.sources import ModelFolder
from posecore.schema import Json
from posecore.storage import remove_folder
from posecore.training.checkpoint import MANIFEST_FILE
from posecore.viz.budget_page import PAGE_NAME, write_budget_page
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.budget.candidates import Fit
from posecore.workflows.budget.competition import Competition, WorkerOf
from posecore.workflows.budget.record import TrialRuns
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.budget.story import Told
from posecore.workflows.budget.trial import JudgedOn
from posecore.workflows.data_steps import made_reports, vouched
from posecore.workflows.job import JobWorkflow
from posecore.workflows.machines import Machines
from posecore.workflows.periodic_evaluation import LabelRecording
from posecore.workflows.train_step import code_of
from posecore.workflows.without_ray import ThisProcess

_PACKAGE = "posecore.workflows.budget"
CODE = tuple(f"{_PACKAGE}.{name}" for name in ("choice", "halving", "trial"))
"""What decides a search beside its trainings; how it is told does not."""
OWN_CODE = (*(f"{_PACKAGE}.{name}" for name in ("candidates", "competition")), "posecore.labels.dynamics")
"""Decides as well, but imports the whole job, or decides by a constant: only its own text counts."""
RACE_CODE = "posecore.cluster.tune"
"""Likewise, where trials do not wait for one another."""


def search_step(
    workflow: JobWorkflow,
    config: AdaptationJob,
    fits: Sequence[Fit],
    worker_of: WorkerOf,
    judged_on: JudgedOn,
    recording: LabelRecording | None,
    parent: str,
    uses: Sequence[DatasetUse],
    held_out: str,
) -> StepResult:
    """Tries every candidate that fits, and chooses.

    Args:
        workflow: the step is recorded in.
        config: of the search, with nothing left to its parent.
        fits: all candidates, and whether they fit.
        worker_of: what trains one.
        judged_on: what decides.
        recording: of the labels' losses, see :class:`~posecore.workflows.budget.competition.Competition`.
        parent: folder of the model that stands for the parent.
        uses: what is learned from and judged on.
        held_out: how many subjects trials are judged on, in words.

    Returns:
        ``chosen``, the candidate's name; ``steps`` of its whole run; ``begun``, where its trial lies and what decides
        it, None if nothing was tried; ``told``, what was decided in a sentence; ``table`` of the trials, ``page``,
        ``rungs``, and what was spent: ``lost_steps`` of other trials, and ``seconds``.
    """
    settings = config.search
    assert settings is not None
    fitting = [fit for fit in fits if fit.fits]
    workers = {fit.candidate.name: worker_of(fit.config) for fit in fitting}
    records = recording is not None
    run = {name for each in workers.values() for name in code_of(each, judges=False, records=records)}
    code = sorted({*CODE, *run})
    inputs: dict[str, Any] = {
        "search": settings,
        "parent": ModelFolder.at(parent),
        "candidates": {name: worker.decided_by() for name, worker in workers.items()},
        "data": data_of(uses),
        "held_out": judged_on.held_out.digest,
        "settings": judged_on.settings,
        "own_code": own_digest(own_code(settings)),
        "records_labels": records,
    }
    key = workflow.portable(_plain({**inputs, "code": code_digest(code)}))
    folder = config.folder / "search" / digest_json(key)[:12]

    def execute(log: RunLog) -> Outputs:
        if not workflow.reuse.finished:
            remove_folder(folder)
        log_dataset_inputs(log, uses)
        log.log_params({**flat_parameters(settings.model_dump(mode="json")), "run_dir": str(folder)})
        competition = Competition(
            machines=workflow.machines,
            config=config,
            settings=settings,
            fits=fitting,
            worker_of=worker_of,
            judged_on=judged_on,
            recording=recording,
            parent=parent,
            folder=folder,
            runs=TrialRuns(log, {fit.candidate.name: fit for fit in fitting}),
            note=workflow.note,
        )
        result = competition.run(fits)
        result.log(log)
        told = Told(result)
        page = write_budget_page(folder / PAGE_NAME, told.page(config.target, held_out, workflow.name))
        log.log_file(page)
        competition.tidy(result.begun)
        files = vouched(page, *([] if result.begun is None else [result.begun / MANIFEST_FILE]))
        values: dict[str, Json] = {
            "chosen": result.choice.name,
            "steps": result.final,
            # Of what trains the trial, the child's own step and the folder of its checkpoints know the code.
            "begun": result.begins(digest_json(workflow.portable(_plain({**inputs, "code": code_digest(CODE)})))),
            "rungs": list(result.halving.rungs),
            "lost_steps": result.lost_steps,
            "seconds": round(result.seconds, 1),
            "told": told.sentence,
            "table": told.rows(),
            "page": str(page),
        }
        return Outputs(values, files, made=made_reports(files))

    return workflow.step("search", execute, inputs=inputs, code=code, continues=True)


def data_of(uses: Sequence[DatasetUse]) -> list[Json]:
    """What decides of the splits that a search reads: their contents, and which labels of them are dropped."""
    return [[use.label, use.role, use.digest, use.corrections] for use in uses]


def own_code(settings: SearchConfig) -> tuple[str, ...]:
    """The modules whose own text counts as a search's code."""
    return (*OWN_CODE, RACE_CODE) if settings.scheduler == "asha" else OWN_CODE


def refuse_several_processes(settings: SearchConfig, machines: Machines) -> None:
    """Refuses what no search can be spread over.

    Raises:
        PreflightError: torchrun started several processes, or several trials at a time are wanted of one.
    """
    if not isinstance(machines, ThisProcess):
        return
    if (world_size := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise PreflightError(
            f"search: a trial is trained by one process, and torchrun started {world_size}; start one, or run without "
            "torchrun on a Ray cluster, whose processes share the trials out (search.at_once)."
        )
    if settings.at_once > 1 or settings.scheduler == "asha":
        raise PreflightError(
            "search: this process does one trial after the other; leave out search.at_once and search.scheduler, or "
            "run without torchrun on a Ray cluster."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value
