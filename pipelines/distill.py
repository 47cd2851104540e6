#!/usr/bin/env python
"""Distillation: a trained model of any family in, a small one that it has taught out.

::

    python pipelines/distill.py --teacher models:/whole-body@champion --student rtmpose-m --data coco_wholebody=/coco
    python pipelines/distill.py --config pipelines/configs/distill_demo.yaml

The data are ingested and audited as in the main job. If asked, the teacher first learns a knowledge token for its
student. In a first stage the student learns from labels and from its
teacher's features and outputs; in a second one a fresh head learns from the first stage's. Student and teacher are
judged on the same sets, their size, arithmetic and latency are measured, and the student is registered as its teacher's
child.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.jobs.steps import Reuse
from posecore.lineage.store.tracking import connect
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.methods.knowledge_token import with_tokens
from posecore.models.weights.initial import pin
from posecore.training.preflight import crops_per_rank
from posecore.workflows.command_line import Flags, foresee_recipe, job_parser, read_job
from posecore.workflows.data_steps import audit_step, check_places, ingest_splits
from posecore.workflows.datasets_job import learned_by
from posecore.workflows.distillation.flags import declare, overrides
from posecore.workflows.distillation.job import DistillationJob
from posecore.workflows.distillation.results import (
    beside_teacher,
    cost_table,
    measure_step,
    register_student,
    results_table,
)
from posecore.workflows.distillation.stages import first_stage, second_stage, train
from posecore.workflows.distillation.teacher import answers_of, fetch_teacher, token_step
from posecore.workflows.fetched_model import fetch_start, refuse_other_conventions
from posecore.workflows.job import JobWorkflow
from posecore.workflows.judge_step import JudgedSet, judge_step
from posecore.workflows.machines import Machines
from posecore.workflows.named_model import is_registered
from posecore.workflows.protocol_check import check_best, check_judged_labels, check_protocols
from posecore.workflows.training_report import training_report_step

RUN_FILE = Path(__file__).with_name("configs") / "distill.yaml"
"""What the flags change where there is no ``--config``."""
RESULTS = "posecore.workflows.distillation.results"
"""Whose code the report is made by as well."""


def run(config: DistillationJob, reuse: Reuse, machines: Machines) -> str:
    """The whole job as a list of steps; returns the URI of the registered model."""
    console = Console(soft_wrap=True)
    definitions = {entry.name: entry.load() for entry in config.datasets}
    followed = config.followed(definitions)
    config = followed.config
    for line in followed.lines():
        console.print(line)
    check(config, definitions)
    check_places(config, definitions)
    # A store made new for this run has no teacher.
    tracking = connect(config.tracking, config.folder, must_exist=is_registered(config.teacher.source))
    teacher = fetch_teacher(config, definitions, tracking)
    if config.token is not None:
        student_config = with_tokens(config.student, teacher.architecture, config.token.number)
        config = config.model_copy(update={"student": student_config})
    if config.weights is not None:
        config = config.model_copy(update={"weights": pin(config.weights)})
    start = None
    if config.weights is not None:
        start = fetch_start(config.weights, config.folder / "weights")
        refuse_other_conventions(config.student, learned_by(config.datasets, definitions), start)
    machines.connect(config.cluster.needs(config.folder, tracking.uri))

    with JobWorkflow(machines, tracking, config, reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        check_judged_labels(evaluation, config.training.best)
        leaks = audit_step(workflow, config, training, evaluation)
        cached = training if config.cache else []
        with machines.kept():
            answers = {split.entry.name: answers_of(workflow, config, teacher, split, definitions) for split in cached}
        recipe = followed.record()
        token = None if config.token is None else token_step(workflow, config, config.token, teacher, training)
        student = train(
            workflow, config, first_stage(config, teacher, start, token, answers, recipe), teacher, training, evaluation
        )
        if config.second_stage:
            student = train(workflow, config, second_stage(config, student), teacher, training, evaluation)
        judged = reference = None
        known = [split for split in evaluation if split.entry.answering_head in teacher.comparable]
        heads = {split.entry.name: teacher.heads[split.entry.answering_head] for split in known}
        with machines.kept():
            if evaluation:
                judged = judge_step(
                    workflow, "student", student.values["folder"], list(map(JudgedSet.of, evaluation)), config.inference
                )
            if known:
                asked = [JudgedSet.of(split, heads) for split in known]
                reference = judge_step(workflow, "teacher", teacher.source.source, asked, config.inference)
        measured = measure_step(workflow, config, teacher, student)
        registered = register_student(workflow, teacher, student, splits, judged, measured, leaks)
        version = RegisteredVersion(config.name, registered.values["version"])
        by_set = {} if judged is None else {split.entry.name: judged for split in evaluation}
        asked_of = {"measured": measured, **({} if reference is None else {"teacher": reference})}
        tell = partial(beside_teacher, evaluation, judged, reference, measured, config.student.whole_scenes)
        report = training_report_step(
            workflow, config, student, splits, by_set, version, beside=asked_of, tell=tell, told_by=[RESULTS]
        )
        workflow.run.set_tags({"posecore.registered": registered.values["uri"]})

    console.print(results_table(evaluation, judged, reference))
    console.print(cost_table(measured))
    console.print(f"model     {registered.values['uri']}   (folder {student.values['folder']})")
    console.print(f"report    {report.values['report']}")
    console.print(f"lineage   {tracking.to_look_at()}")
    return str(registered.values["uri"])


def check(config: DistillationJob, definitions: Mapping[str, DatasetDefinition]) -> None:
    """Refuses what the run file alone says will fail; no data are looked at, and nothing is written."""
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    check_best(config, config.training)
    check_protocols(config, definitions, whole_scenes=config.student.whole_scenes)


FLAGS = Flags(declare, overrides, RUN_FILE, partial(foresee_recipe, check))


def build_parser() -> CommandParser:
    """The options of the command line."""
    return job_parser(__doc__, FLAGS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return launched(read_job(build_parser(), DistillationJob, run, arguments, FLAGS))


if __name__ == "__main__":
    sys.exit(main())
