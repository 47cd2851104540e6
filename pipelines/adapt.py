#!/usr/bin/env python
"""Adaptation: a trained model in, its child for another population out, with what that cost the parent's own datasets.

::

    python pipelines/adapt.py --config pipelines/configs/adapt_demo.yaml
    python pipelines/adapt.py --config my.yaml --model models:/body@champion --target datasets/my_infants \
        --strategy lora --keep coco,mpii

A run file says everything; the flags are short for its fields ``parent``, ``target``, ``strategy`` and ``keep``. The
target, the kept sets and any independent sets of the target's population are ingested and audited, memory and time are
planned, the child is trained, parent and child are judged on everything, the gates are checked, and the child is
registered with one report that has all of it.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from posecore.cluster.launch import launched
from posecore.errors import ConfigError, DatasetError
from posecore.lineage.steps import Reuse, StepResult
from posecore.lineage.tracking import RunLog, connect
from posecore.lineage.versions import RegisteredVersion
from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.mean_teacher import MeanTeacherConfig
from posecore.methods.pose_prior import PosePriorConfig
from posecore.methods.sharing import pinned
from posecore.methods.strategies import Roles
from posecore.models.architecture import ModelCard
from posecore.models.sources import StartFolder
from posecore.shards.store import open_store
from posecore.training.planner import Plan
from posecore.training.preflight import crops_per_rank
from posecore.workflows.adaptation.checks import check_labels, check_roles
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.adaptation.results import (
    changes_table,
    outcome,
    register_child,
    report_step,
    verdict,
    verdict_word,
)
from posecore.workflows.adaptation.start import Start, make_start, plan_table, planned
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.budget.candidates import Fit, as_overrides, as_run_file, fits_of, refuse_none, usual
from posecore.workflows.budget.held_out import hold_out, labels_within, learning_from, write_labels
from posecore.workflows.budget.search import refuse_several_processes, rungs_in_steps, search_step
from posecore.workflows.budget.story import plan_of_search, trials_table
from posecore.workflows.budget.trial import PARENT, JudgedOn
from posecore.workflows.command_line import Flags, read_job
from posecore.workflows.data_steps import Split, audit_step, check_places, ingest_splits
from posecore.workflows.fetched_model import FetchedModel, fetch_model
from posecore.workflows.job import JobWorkflow
from posecore.workflows.judge_step import JudgedSet, judge_step
from posecore.workflows.label_check import LabelCheckConfig, check_losses, check_proportions
from posecore.workflows.machines import Machines
from posecore.workflows.protocol_check import check_best, check_judged_labels, check_protocols
from posecore.workflows.train_step import judge_while_training, train_step


def run(config: AdaptationJob, reuse: Reuse, machines: Machines) -> str:
    """The whole job as a list of steps; returns the URI of the registered model, or the parent if that stays."""
    console = Console(soft_wrap=True)
    if config.search is not None:
        found = search(config, reuse, machines)
        if found.config is None:
            return str(config.parent.source)
        uri = run(found.config, reuse, machines)
        found.run.set_tags({"posecore.registered": uri})
        return uri
    config = config.taking_part()
    config = config.model_copy(update={"method": pinned(config.method)})
    definitions = {entry.name: entry.load() for entry in config.datasets}
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    check_places(config, definitions)
    check_best(config, config.training)
    tracking = connect(config.tracking, config.folder)
    parent = fetch_model(config.parent, config.folder / "parent", tracking)
    config = config.at_the_pace_of(parent.model.config)
    check_roles(config, definitions, parent)
    check_protocols(config, definitions, whole_scenes=parent.model.config.whole_scenes)
    start = make_start(config, definitions, parent)
    method = adaptation(config, parent)
    console.print(start.report.table())
    for sentence in start.differences:
        console.print(f"note      {sentence}")
    if start.fresh_head:
        console.print(f"note      {config.target}: its head begins at chance, so the parent is not compared on it.")
    planned = plan_table(config, method, start)
    console.print(planned)
    machines.connect(config.cluster.needs(config.folder, tracking.uri))

    with JobWorkflow(machines, tracking, config, reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        target = next(split for split in training if split.entry.name == config.target)
        check_labels(target)
        check_judged_labels(evaluation)
        leaks = audit_step(workflow, config, training, evaluation)
        looks = config.label_check or LabelCheckConfig()
        labels = {"proportions of bodies": check_proportions(workflow, looks, target, config.folder)}
        method = with_own_proportions(method, config, labels["proportions of bodies"])
        sets = [JudgedSet.of(split) for split in evaluation]
        before = judge_step(workflow, "parent", start.folder, sets, config.inference)
        child = train(workflow, config, method, parent, start, training, evaluation)
        after = judge_step(workflow, "child", child.values["folder"], sets, config.inference)
        if config.label_check is not None:
            (labels["losses in training"],) = check_losses(workflow, config.label_check, [target], child)
        judged = outcome(config, start, evaluation, before, after)
        registered = register_child(workflow, config, parent, child, splits, judged, leaks)
        version = RegisteredVersion(config.name, registered.values["version"])
        checks = verdict(config, start, evaluation, judged, tracking, version)
        report = report_step(workflow, config, start, child, judged, labels, splits, checks, version)
        workflow.run.set_tags({"posecore.registered": version.uri, "posecore.verdict": verdict_word(checks)})

    for title, rows in judged.tables.items():
        console.print(changes_table(title, rows))
    for check in checks:
        console.print(f"{'holds ' if check.passed else 'FAILS '}    {check.statement}")
    console.print(f"verdict   {verdict_word(checks)}")
    console.print(f"model     {version.uri}   (folder {child.values['folder']})")
    for path in child.values["beside"]:
        console.print(f"adapter   {path}")
    for result in labels.values():
        console.print(f"labels    {result.values['told']}   {result.values['page']}")
    console.print(f"report    {report.values['report']}")
    console.print(f"lineage   {tracking.to_look_at()}")
    return version.uri


@dataclass(frozen=True)
class Found:
    """What a search ended in.

    Attributes:
        config: the run file of the adaptation that follows; None if the parent stays.
        run: of the search.
    """

    config: AdaptationJob | None
    run: RunLog


@dataclass(frozen=True)
class Field:
    """What a search chooses among, before anything is trained.

    Attributes:
        config: of the search, with its parent's pace.
        data: the run file whose data all candidates find theirs among.
        parent: the model.
        start: what stands for it.
        fits: all candidates, and whether they fit.
    """

    config: AdaptationJob
    data: AdaptationJob
    parent: FetchedModel
    start: Start
    fits: Sequence[Fit]


def field(config: AdaptationJob) -> Field:
    """The candidates of a search, planned."""
    settings = config.search
    assert settings is not None
    config = config.model_copy(update={"method": pinned(config.method)})
    parent = fetch_model(config.parent, config.folder / "parent", connect(config.tracking, config.folder))
    config = config.at_the_pace_of(parent.model.config)
    candidates = settings.candidates or usual(config, parent.model.config)
    runs = [as_run_file(config, candidate).taking_part() for candidate in candidates]
    data = next((run for run in runs if run.replayed), runs[0])
    definitions = {entry.name: entry.load() for entry in data.datasets}
    check_places(data, definitions)
    check_roles(data, definitions, parent)
    check_protocols(data, definitions, whole_scenes=parent.model.config.whole_scenes)
    start = make_start(data, definitions, parent)

    def plan_of(own: AdaptationJob) -> Plan:
        own = own.taking_part()
        return planned(own, adaptation(own, parent), start)

    fits = list(fits_of(config, candidates, plan_of, settings.memory_bytes))
    refuse_none(fits, settings.memory_bytes)
    return Field(config, data, parent, start, fits)


def search(config: AdaptationJob, reuse: Reuse, machines: Machines) -> Found:
    """Tries strategies within the budget; what is chosen then adapts the parent as if it had been named."""
    console, settings = Console(soft_wrap=True), config.search
    assert settings is not None
    refuse_several_processes(settings, machines)
    known = field(config)
    console.print(plan_of_search(settings, known.fits, rungs_in_steps(settings, known.fits)))
    tracking = connect(config.tracking, config.folder)
    machines.connect(config.cluster.needs(config.folder, tracking.uri))
    with JobWorkflow(machines, tracking, config, reuse) as workflow:
        splits = ingest_splits(workflow, known.data, {entry.name: entry.load() for entry in known.data.datasets})
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        target = next(split for split in training if split.entry.name == config.target)
        check_labels(target)
        audit_step(workflow, known.data, training, evaluation)
        labels = check_proportions(workflow, config.label_check or LabelCheckConfig(), target, config.folder)
        fewer = labels_within(settings, target, config.training.seed)
        target = replace(target, corrections=fewer or target.corrections)
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
        uses = [split.use for split in (*training, *kept)]
        found = search_step(
            workflow, known.config, known.fits, worker_of, judged_on, known.start.folder, uses, held.told
        )
        workflow.run.set_tags({"posecore.chosen": found.values["chosen"] or PARENT})
    console.print(trials_table(found.values["table"]))
    console.print(f"search    {found.values['told']}")
    console.print(f"trials    {found.values['page']}")
    if found.values["chosen"] is None:
        return Found(None, workflow.run)
    candidate = next(fit.candidate for fit in known.fits if fit.candidate.name == found.values["chosen"])
    chosen = as_run_file(known.config, candidate, found.values["steps"])
    if fewer is not None:
        chosen = learning_from(chosen, write_labels(config.folder, fewer))
    console.print(f"the same  {' '.join(f'--set {shlex.quote(each)}' for each in as_overrides(chosen))}")
    return Found(chosen, workflow.run)


def adaptation(config: AdaptationJob, parent: FetchedModel) -> AdaptationConfig:
    """What every worker does to the child."""
    teacher = (config.method.unlabelled or MeanTeacherConfig()) if config.unlabelled else None
    return AdaptationConfig(
        terms=config.method.model_copy(update={"unlabelled": teacher}),
        roles=Roles(
            target=config.target,
            replayed=config.replayed,
            parent_has_embedding=parent.model.config.embedding is not None,
            new_depth=config.depth_input and not parent.model.takes_depth,
        ),
        parent=parent.source,
        old_heads=tuple(dict.fromkeys(entry.answering_head for entry in config.kept)),
        unlabelled_sets=config.unlabelled,
    )


def with_own_proportions(method: AdaptationConfig, config: AdaptationJob, checked: StepResult) -> AdaptationConfig:
    """The method whose loss looks at the proportions that the target's own labels have, if that is wanted.

    Raises:
        DatasetError: the labels are too few to have any.
    """
    if not config.own_proportions:
        return method
    if not (learned := checked.values.get("proportions")):
        raise DatasetError(f"own_proportions must be 0 here: {checked.values['told']}.")
    prior = PosePriorConfig(source=learned, weight=config.own_proportions, datasets=(config.target,))
    return method.model_copy(update={"terms": method.terms.model_copy(update={"prior": prior.pinned()})})


def trainer(
    config: AdaptationJob, method: AdaptationConfig, parent: FetchedModel, start: Start, training: Sequence[Split]
) -> AdaptationWorker:
    """What every worker does with the shards; it judges nothing."""
    return AdaptationWorker(
        model=start.card.architecture,
        method=method,
        weights=StartFolder.at(start.folder),
        training=config.loop(),
        loading=config.mixture(start.card.architecture.takes_depth, start.card.architecture.whole_scenes),
        stores={split.entry.name: split.location for split in training},
        parent=str(parent.record["source"]),
        card=start.card,
    )


def train(
    workflow: JobWorkflow,
    config: AdaptationJob,
    method: AdaptationConfig,
    parent: FetchedModel,
    start: Start,
    training: Sequence[Split],
    evaluation: Sequence[Split],
) -> StepResult:
    """Shards to a child whose card names its parent and the parent's terms."""
    worker = replace(
        trainer(config, method, parent, start, training), evaluate=judge_while_training(evaluation, config.inference)
    )

    def adapted(card: ModelCard) -> ModelCard:
        # The weights are the parent's: the folder they were read from belongs to this run alone.
        weights = {"copied": start.report.as_dict(), **parent.record}
        strategy = config.method.strategy.model_dump(mode="json")
        lineage = {**card.lineage, "weights": weights, "parent": dict(parent.record), "strategy": strategy}
        return card.model_copy(update={"lineage": lineage})

    # Kept sets are not under suspicion here, and unlabelled ones have no labels.
    recorded = [] if config.label_check is None else [config.target]
    return train_step(
        workflow,
        "train",
        config,
        config.cluster,
        worker,
        training,
        adapted,
        evaluation=evaluation,
        record_labels=recorded,
        inference=config.inference,
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the job's own flags."""
    parser.add_argument("--model", metavar="MODEL", help="the parent: models:/name@alias or /version, a file, a name")
    parser.add_argument("--target", metavar="DATASET", help="the entry to adapt to, by its name or its folder")
    parser.add_argument("--strategy", help="what learns, such as full, lora or two-stage")
    parser.add_argument("--budget", help="find the strategy by trials within, such as 600steps, 20min or 2h")
    parser.add_argument("--memory", help="with --budget: what a training process may hold, such as 8GiB")
    parser.add_argument("--labels", type=int, help="with --budget: labelled bodies of the target to be learned from")
    parser.add_argument("--keep", metavar="SET,SET", help="entries whose accuracy is to be kept; default: all")


def overrides(options: argparse.Namespace) -> list[str]:
    """What the flags change in the run file, as ``key=value``."""
    if options.strategy and options.budget:
        raise ConfigError("--strategy says what --budget is to find out; give one of them.")
    changes = {
        "parent": options.model,
        "target": options.target and Path(options.target).name,
        "method.strategy": options.strategy,
        "search.budget": options.budget,
        "search.memory": options.memory,
        "search.labels": options.labels,
        "keep": None if options.keep is None else f"[{options.keep}]",
    }
    return [f"{key}={value}" for key, value in changes.items() if value]


def foresee(config: AdaptationJob) -> None:
    """Says what a search would try; nothing is trained."""
    if config.search is not None:
        fits = field(config).fits
        Console(soft_wrap=True, stderr=True).print(
            plan_of_search(config.search, fits, rungs_in_steps(config.search, fits))
        )


FLAGS = Flags(declare, overrides, foresee=foresee)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return launched(read_job(__doc__, AdaptationJob, run, arguments, FLAGS))


if __name__ == "__main__":
    sys.exit(main())
