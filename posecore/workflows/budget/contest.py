"""A search as a list of steps: who takes part, the data, the trials, and what the job goes on with."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError
from posecore.lineage.jobs.steps import Reuse
from posecore.lineage.store.tracking import RunLog, Tracking, connect, record_folders
from posecore.methods.sharing import pinned
from posecore.shards.store import open_store
from posecore.training.planner import Plan
from posecore.workflows.adaptation.checks import check_labels, check_roles
from posecore.workflows.adaptation.child import adaptation, trainer, with_own_proportions
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.adaptation.results import SearchOrigin
from posecore.workflows.adaptation.start import Start, make_start, planned
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.budget.candidates import (
    Fit,
    as_overrides,
    as_run_file,
    by_what_is_known,
    fits_of,
    refuse_none,
    usual,
)
from posecore.workflows.budget.competition import rungs_in_steps
from posecore.workflows.budget.held_out import hold_out, labels_within, learning_from, write_labels
from posecore.workflows.budget.search import refuse_several_processes, search_step
from posecore.workflows.budget.story import plan_of_search, trials_table
from posecore.workflows.budget.trial import JudgedOn
from posecore.workflows.data_steps import audit_step, check_places, ingest_splits
from posecore.workflows.fetched_model import FetchedModel, fetch_model
from posecore.workflows.job import JobWorkflow
from posecore.workflows.label_check import LabelCheckConfig, check_proportions
from posecore.workflows.machines import Machines
from posecore.workflows.periodic_evaluation import LabelRecording
from posecore.workflows.protocol_check import check_best, check_judged_labels, check_protocols
from posecore.workflows.run_folder import Begun


@dataclass(frozen=True)
class Found:
    """What a search ended in.

    Attributes:
        config: the run file of the adaptation that follows.
        run: of the search.
        origin: what the child says of where its strategy comes from, and the trial that it goes on from.
    """

    config: AdaptationJob
    run: RunLog
    origin: SearchOrigin


@dataclass(frozen=True)
class Contest:
    """What a search chooses among, before anything is trained.

    Attributes:
        config: of the search, with its parent's pace.
        data: the run file whose data all candidates find theirs among.
        definitions: of its datasets, by name of the entry.
        parent: the model.
        start: what stands for it.
        fits: all candidates, and whether they fit.
    """

    config: AdaptationJob
    data: AdaptationJob
    definitions: Mapping[str, DatasetDefinition]
    parent: FetchedModel
    start: Start
    fits: Sequence[Fit]


def contest(config: AdaptationJob, tracking: Tracking) -> Contest:
    """The candidates of a search, planned.

    Args:
        config: of the job, in whose run folder the parent is copied.
        tracking: where the parent may be registered.

    Raises:
        ConfigError: none fits, one does not go with the run file, or the parent finds bodies in whole pictures.
    """
    settings = config.search
    assert settings is not None
    config = config.model_copy(update={"method": pinned(config.method)})
    parent = fetch_model(config.parent, config.folder / "parent", tracking)
    if parent.model.config.whole_scenes:
        raise ConfigError(
            "search: trials are compared by one answer to every body, and the parent finds bodies itself, or misses "
            "them; name a strategy and leave the budget out."
        )
    config = config.at_the_pace_of(parent.model.config)
    listed = settings.candidates if settings.order == "listed" else by_what_is_known(settings.candidates)
    candidates = listed or usual(config, parent.model.config)
    runs = [as_run_file(config, candidate).taking_part() for candidate in candidates]
    data = next((run for run in runs if run.replayed), runs[0])
    definitions = {entry.name: entry.load() for entry in data.datasets}
    check_roles(data, definitions, parent)
    check_protocols(data, definitions)
    check_best(data, config.training)
    start = make_start(data, definitions, parent)

    def plan_of(own: AdaptationJob) -> Plan:
        own = own.taking_part()
        return planned(own, adaptation(own, parent), start)

    fits = list(fits_of(config, candidates, plan_of, settings.memory_bytes))
    refuse_none(fits, settings.memory_bytes)
    return Contest(config, data, definitions, parent, start, fits)


def find_strategy(config: AdaptationJob, reuse: Reuse, machines: Machines) -> Found:
    """Tries strategies within the budget; the chosen trial is the beginning of the adaptation that follows."""
    console, settings = Console(soft_wrap=True), config.search
    assert settings is not None
    refuse_several_processes(settings, machines)
    tracking = connect(config.tracking, config.folder)
    known = contest(config, tracking)
    check_places(known.data, known.definitions)
    console.print(plan_of_search(settings, known.fits, rungs_in_steps(settings, known.fits)))
    machines.connect(config.cluster.needs(config.folder, tracking.uri))
    with JobWorkflow(machines, tracking, config, reuse) as workflow:
        splits = ingest_splits(workflow, known.data, known.definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        target = next(split for split in training if split.entry.name == config.target)
        check_labels(target)
        check_judged_labels(evaluation, config.training.best)
        audit_step(workflow, known.data, training, evaluation)
        fewer = labels_within(settings, target, config.training.seed)
        target = replace(target, corrections=fewer or target.corrections)
        labels = check_proportions(workflow, config.label_check or LabelCheckConfig(), target, config.folder)
        held = hold_out(
            open_store(target.location, corrections=target.corrections), settings.validation_share, config.training.seed
        )
        console.print(f"held out  {held.told}")

        def worker_of(own: AdaptationJob) -> AdaptationWorker:
            own = own.taking_part()
            names = {own.target, *own.replayed, *own.unlabelled}
            chosen = [split for split in training if split.entry.name in names]
            worker = trainer(
                own, with_own_proportions(adaptation(own, known.parent), own, labels), known.parent, known.start, chosen
            )
            corrections = {split.entry.name: split.corrections for split in chosen if split.corrections is not None}
            return replace(worker, corrections={**corrections, own.target: held.learned})

        kept = [split for split in evaluation if config.group_of(split.entry) == "kept"]
        judged_on = JudgedOn(
            location=target.location,
            head=config.target,
            held_out=held.judged,
            kept={split.entry.name: (split.location, split.entry.answering_head) for split in kept},
            settings=config.inference,
        )
        recording = None
        if config.label_check is not None:
            corrections = {} if target.corrections is None else {config.target: target.corrections}
            recording = LabelRecording(
                stores={config.target: target.location}, corrections=corrections, folder="", settings=config.inference
            )
        found = search_step(
            workflow,
            known.config,
            known.fits,
            worker_of,
            judged_on,
            recording,
            known.start.folder,
            [split.use for split in (*training, *kept)],
            held.told,
        )
        workflow.run.set_tags({"posecore.chosen": found.values["chosen"]})
    console.print(trials_table(found.values["table"]))
    console.print(f"search    {found.values['told']}")
    console.print(f"trials    {found.values['page']}")
    begun = found.values["begun"]
    origin = SearchOrigin(
        found.run_id, found.values["told"], found.values["page"], None if begun is None else Begun(**begun)
    )
    candidate = next(fit.candidate for fit in known.fits if fit.candidate.name == found.values["chosen"])
    chosen = as_run_file(known.config, candidate, found.values["steps"])
    if fewer is not None:
        chosen = learning_from(chosen, write_labels(config.folder, fewer))
    console.print(f"by name   {' '.join(f'--set {shlex.quote(each)}' for each in as_overrides(chosen))}")
    return Found(chosen, workflow.run, origin)


def foresee(config: AdaptationJob) -> None:
    """Says what a search would try; nothing is trained, and nothing written to the run folder."""
    if config.search is None:
        return
    with TemporaryDirectory() as scratch:
        unrecorded = isinstance(config.folder, Path) and not record_folders(config.folder)
        tracking = connect(config.tracking, scratch if unrecorded else config.folder, records=False)
        fits = contest(config.model_copy(update={"run_folder": scratch}), tracking).fits
    Console(soft_wrap=True, stderr=True).print(plan_of_search(config.search, fits, rungs_in_steps(config.search, fits)))
