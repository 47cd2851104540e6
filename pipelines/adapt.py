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
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.errors import UsageError
from posecore.lineage.jobs.steps import Reuse, StepResult
from posecore.lineage.store.tracking import connect
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.sharing import pinned
from posecore.models.architecture import ModelCard
from posecore.training.preflight import crops_per_rank
from posecore.workflows.adaptation.checks import check_labels, check_roles
from posecore.workflows.adaptation.child import adaptation, trainer, with_own_proportions
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.adaptation.results import (
    SearchOrigin,
    changes_table,
    outcome,
    register_child,
    report_step,
    verdict,
    verdict_word,
)
from posecore.workflows.adaptation.start import Start, make_start, plan_table
from posecore.workflows.budget.contest import find_strategy, foresee
from posecore.workflows.command_line import Flags, job_parser, read_job
from posecore.workflows.data_steps import Split, audit_step, check_places, ingest_splits
from posecore.workflows.fetched_model import FetchedModel, fetch_model
from posecore.workflows.job import JobWorkflow
from posecore.workflows.judge_step import JudgedSet, judge_step
from posecore.workflows.label_check import LabelCheckConfig, check_losses, check_proportions
from posecore.workflows.machines import Machines
from posecore.workflows.protocol_check import check_best, check_judged_labels, check_protocols
from posecore.workflows.train_step import judge_while_training, train_step


def run(config: AdaptationJob, reuse: Reuse, machines: Machines, search: SearchOrigin | None = None) -> str:
    """The whole job as a list of steps; returns the URI of the registered model.

    Args:
        config: the run file.
        reuse: what of earlier submissions may be used.
        machines: do the work.
        search: by which the strategy in the run file was chosen; None where it was named.
    """
    console = Console(soft_wrap=True)
    if config.search is not None:
        found = find_strategy(config, reuse, machines)
        uri = run(found.config, reuse, machines, found.origin)
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
        check_judged_labels(evaluation, config.training.best)
        leaks = audit_step(workflow, config, training, evaluation)
        looks = config.label_check or LabelCheckConfig()
        labels = {"proportions of bodies": check_proportions(workflow, looks, target, config.folder)}
        method = with_own_proportions(method, config, labels["proportions of bodies"])
        sets = [JudgedSet.of(split) for split in evaluation]
        before = judge_step(workflow, "parent", start.folder, sets, config.inference)
        child = train(workflow, config, method, parent, start, training, evaluation, search)
        after = judge_step(workflow, "child", child.values["folder"], sets, config.inference)
        if config.label_check is not None:
            (labels["losses in training"],) = check_losses(workflow, config.label_check, [target], child)
        judged = outcome(config, start, evaluation, before, after)
        registered = register_child(workflow, config, parent, child, splits, judged, leaks, search)
        version = RegisteredVersion(config.name, registered.values["version"])
        checks = verdict(config, start, evaluation, judged, tracking, version)
        report = report_step(workflow, config, start, child, judged, labels, splits, checks, version, search)
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


def train(
    workflow: JobWorkflow,
    config: AdaptationJob,
    method: AdaptationConfig,
    parent: FetchedModel,
    start: Start,
    training: Sequence[Split],
    evaluation: Sequence[Split],
    search: SearchOrigin | None = None,
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
        begun=None if search is None else search.begun,
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the job's own flags."""
    parser.add_argument("--model", metavar="MODEL", help="the parent: models:/name@alias or /version, a file, a name")
    parser.add_argument("--target", metavar="DATASET", help="the entry to adapt to, by its name or its folder")
    parser.add_argument("--strategy", help="what learns, such as full, lora or two-stage")
    parser.add_argument("--budget", help="find the strategy by trials within, such as 600steps, 20min or 2h")
    parser.add_argument("--memory", help="find it within what a training process may hold, such as 8GiB")
    parser.add_argument("--labels", type=int, help="find it within so many labelled bodies of the target")
    parser.add_argument("--keep", metavar="SET,SET", help="entries whose accuracy is to be kept; default: all")


def overrides(options: argparse.Namespace) -> list[str]:
    """What the flags change in the run file, as ``key=value``."""
    bounds = [f"--{name}" for name in ("budget", "memory", "labels") if getattr(options, name)]
    if options.strategy and bounds:
        raise UsageError(f"--strategy says what {bounds[0]} is to find out; give one of them.")
    changes = {
        "parent": options.model,
        "target": options.target and Path(options.target).name,
        "method.strategy": options.strategy,
        "search.budget": options.budget and json.dumps(options.budget),
        "search.memory": options.memory and json.dumps(options.memory),
        "search.labels": options.labels,
        "keep": None if options.keep is None else f"[{options.keep}]",
    }
    return [f"{key}={value}" for key, value in changes.items() if value]


FLAGS = Flags(declare, overrides, foresee=foresee)


def build_parser() -> CommandParser:
    """The options of the command line."""
    return job_parser(__doc__, FLAGS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return launched(read_job(build_parser(), AdaptationJob, run, arguments, FLAGS))


if __name__ == "__main__":
    sys.exit(main())
