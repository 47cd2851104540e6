#!/usr/bin/env python
"""The main job: several datasets with different skeletons in, one registered model out.

::

    ray job submit --working-dir . -- python pipelines/multidataset_train.py --config pipelines/configs/demo.yaml
    python pipelines/multidataset_train.py --config pipelines/configs/demo.yaml        # the same on a laptop
    python pipelines/multidataset_train.py --data coco=/data/coco --model vitpose-small          # without a run file
    torchrun --nproc-per-node 2 pipelines/multidataset_train.py --config pipelines/configs/demo.yaml     # without Ray

Every named dataset is ingested into shards, the splits are audited for leakage, one backbone with a head per dataset is
trained on all of them, every dataset is judged by its own protocol, and the model is registered with its lineage. Each
of these is a step of a recorded workflow: a resubmitted job continues where it stopped, an unchanged one reuses
everything.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.datasets.definition import DatasetDefinition
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.protocols import metric_class
from posecore.lineage.jobs.steps import Reuse, StepResult
from posecore.lineage.store.tracking import connect
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.loading.loader import LoadingConfig
from posecore.methods.heads import HeadsConfig
from posecore.methods.sharing import MethodConfig, pinned
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import check_heads
from posecore.models.sources import StartFolder
from posecore.models.weights.initial import WeightsConfig, pin
from posecore.schema import Json
from posecore.training.loop import TrainingConfig
from posecore.training.preflight import crops_per_rank
from posecore.training.recipe import Followed, Pupil, RecipeChoice, RecipeConfig, follow
from posecore.training.recipes import RECIPES
from posecore.workflows.command_line import Flags, foresee_recipe, job_parser, read_job
from posecore.workflows.data_steps import Split, audit_step, check_places, ingest_splits
from posecore.workflows.datasets_job import DatasetsJob, LoaderSettings, learned_by
from posecore.workflows.fetched_model import fetch_start, refuse_other_conventions
from posecore.workflows.further_step import StepConfig, further_steps
from posecore.workflows.job import JobWorkflow
from posecore.workflows.judge_step import JudgedSet, as_registered, judge_step
from posecore.workflows.label_check import LabelCheckConfig, check_losses, check_passes
from posecore.workflows.machines import Machines, WorkersConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.protocol_check import check_best, check_judged_labels, check_protocols
from posecore.workflows.register_step import register_step
from posecore.workflows.train_flags import declare, overrides
from posecore.workflows.train_step import judge_while_training, train_step
from posecore.workflows.training_report import training_report_step


class JobConfig(DatasetsJob):
    """A complete run, whose data and folders are those of a :class:`~posecore.workflows.datasets_job.DatasetsJob`.

    Attributes:
        model: the architecture.
        method: how the model shares what it knows across skeletons: ``heads``, ``experts`` or ``prototypes``.
        weights: published weights or an earlier model to start from; None starts from fresh ones.
        recipe: published training that gives whatever ``method``, ``loading`` and ``training`` leave out; left out, the
            one published for the backbone, if any. ``none`` for none.
        loading: batches.
        training: the loop.
        cluster: workers.
        inference: how predictions are made for the evaluation.
        worst_cases: pictures of the worst cases per dataset in the report.
        steps: further steps of one's own, between judging the model and registering it
            (:class:`~posecore.workflows.further_step.FurtherStep`).
        label_check: look for wrong labels by how their losses moved; None does not.
    """

    model: ModelConfig
    method: MethodConfig = HeadsConfig()
    weights: WeightsConfig | None = None
    recipe: RecipeChoice = RecipeConfig()
    loading: LoaderSettings = LoaderSettings()
    training: TrainingConfig
    cluster: WorkersConfig = WorkersConfig()
    inference: InferenceSettings = InferenceSettings()
    worst_cases: int = Field(default=12, ge=0)
    steps: tuple[StepConfig, ...] = ()
    label_check: LabelCheckConfig | None = None

    @model_validator(mode="after")
    def _check_passes(self) -> Self:
        if self.label_check is not None:
            if self.model.whole_scenes:
                raise ValueError(
                    "label_check: it looks at crops of single bodies, and the model finds bodies in whole pictures; "
                    "leave it out."
                )
            check_passes(self.training)
        return self

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        datasets = [entry.name for entry in self.mixture().mixture.entries]
        check_heads(datasets, self.model.shared_heads)
        self.method.check_loss_weights(datasets)
        architecture = self.method.architecture(self.model)
        if self.inference.path != "regression" and architecture.embedding is None:
            raise ValueError(
                f"inference.path: {self.inference.path} needs a model with prototypes; choose method: prototypes, or "
                "path: regression."
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.method.rests_first and self.weights is None:
            raise ValueError(
                "method.stages freezes heads and backbone at first, which a model without weights has not trained yet; "
                "name weights, or set method.stages to joint."
            )
        return self

    def mixture(self) -> LoadingConfig:
        """The loader's configuration; depth is cut where the model takes it or the method asks for it."""
        config = self.loading.config(self.datasets).of_heads(whole_scenes=self.model.whole_scenes)
        return config.model_copy(update={"depth": self.model.takes_depth or self.method.depth is not None})

    def followed(self, definitions: Mapping[str, DatasetDefinition]) -> "Followed[JobConfig]":
        """The job, completed by its recipe.

        Raises:
            ConfigError: the recipe is none of this backbone's.
        """
        pupil = Pupil(
            model=self.method.architecture(self.model),
            keypoints=self.num_keypoints(definitions),
            method=self.method.kind if "method" in self.model_fields_set else None,
        )
        return follow(self, self.recipe, pupil, RECIPES)


def run(config: JobConfig, reuse: Reuse, machines: Machines) -> str:
    """The whole job as a list of steps; returns the URI of the registered model."""
    console = Console(soft_wrap=True)
    folder = config.folder
    definitions = {entry.name: entry.load() for entry in config.datasets}
    followed = config.followed(definitions)
    config = followed.config
    for line in followed.lines():
        console.print(line)
    preflight(config, definitions)
    start = None
    if config.weights is not None:
        weights = pin(config.weights)
        config = config.model_copy(update={"weights": weights})
        start = fetch_start(weights, folder / "weights")
        architecture = config.method.architecture(config.model)
        refuse_other_conventions(architecture, learned_by(config.datasets, definitions), start)
    config = config.model_copy(update={"method": pinned(config.method)})
    tracking = connect(config.tracking, folder)
    machines.connect(config.cluster.needs(folder, tracking.uri))

    with JobWorkflow(machines, tracking, config, reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        check_judged_labels(evaluation, config.training.best)
        leaks = audit_step(workflow, config, training, evaluation)
        model = train(workflow, config, start, training, evaluation, followed.record())
        checked = [] if config.label_check is None else check_losses(workflow, config.label_check, training, model)
        with machines.kept():
            judged = [judge(workflow, config, split, model) for split in evaluation]
        results = [as_registered([split], step)[0] for split, step in zip(evaluation, judged, strict=True)]
        further_steps(workflow, config.steps, model, evaluation, judged)
        registered = register_step(workflow, model, splits, results, leaks)
        version = RegisteredVersion(config.name, registered.values["version"])
        by_set = {split.entry.name: step for split, step in zip(evaluation, judged, strict=True)}
        report = training_report_step(workflow, config, model, splits, by_set, version, config.worst_cases)
        workflow.run.set_tags({"posecore.registered": registered.values["uri"]})

    console.print(results_table(evaluation, judged))
    console.print(f"model     {registered.values['uri']}   (folder {model.values['folder']})")
    for split, result in zip(training, checked, strict=False):  # none was checked if it was not asked for
        console.print(f"labels    {split.entry.name}: {result.values['told']}   {result.values['page']}")
    console.print(f"report    {report.values['report']}")
    console.print(f"lineage   {tracking.to_look_at()}")
    return str(registered.values["uri"])


def preflight(config: JobConfig, definitions: Mapping[str, DatasetDefinition]) -> None:
    """What can be known to fail is refused before anything starts; the tracking store and the cluster are asked next.

    Raises:
        DatasetError: a dataset has no split of that name.
        PreflightError: relative folders in a submitted job, batch arithmetic, or the run folder and its disk.
    """
    check(config, definitions)
    check_places(config, definitions)


def check(config: JobConfig, definitions: Mapping[str, DatasetDefinition]) -> None:
    """The part of :func:`preflight` that neither looks at the data nor writes anything."""
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    check_best(config, config.training)
    check_protocols(config, definitions, whole_scenes=config.model.whole_scenes)


def train(
    workflow: JobWorkflow,
    config: JobConfig,
    start: StartFolder | None,
    training: Sequence[Split],
    evaluation: Sequence[Split],
    recipe: Mapping[str, Json],
) -> StepResult:
    """Shards to a model folder; judged now and then on the way if ``training.evaluate_every`` says so.

    The model's card says which recipe was followed, and where it was not.
    """
    worker = MultiDatasetWorker(
        model=config.model,
        method=config.method,
        weights=start,
        training=config.training,
        loading=config.mixture(),
        stores={split.entry.name: split.location for split in training},
        evaluate=judge_while_training(evaluation, config.inference),
    )
    return train_step(
        workflow,
        "train",
        config,
        config.cluster,
        worker,
        training,
        evaluation=evaluation,
        complete=lambda card: card.model_copy(update={"lineage": {**card.lineage, "recipe": dict(recipe)}}),
        record_labels=[] if config.label_check is None else list(worker.stores),
        inference=config.inference,
    )


def judge(workflow: JobWorkflow, config: JobConfig, split: Split, model: StepResult) -> StepResult:
    """The model on one split, by that dataset's protocol; a step of its own, so that a change judges no other again."""
    folder, pictures = model.values["folder"], config.worst_cases
    return judge_step(workflow, split.entry.name, folder, [JudgedSet.of(split)], config.inference, pictures)


def results_table(evaluation: Sequence[Split], judged: Sequence[StepResult]) -> Table:
    """One row per judged set."""
    table = Table(title="results")
    for column in ("dataset", "protocol", "metric", "value", "all metrics"):
        table.add_column(column, overflow="fold")
    for split, result in zip(evaluation, judged, strict=True):
        protocol = split.definition.evaluation.protocol
        metrics = result.values["metrics"][split.entry.name]
        primary = metric_class(protocol).primary
        others = ", ".join(f"{name} {value:.3f}" for name, value in list(metrics.items())[:6])
        table.add_row(split.entry.name, protocol, primary, f"{metrics[primary]:.3f}", others)
    return table


FLAGS = Flags(declare, overrides, Path(__file__).with_name("configs") / "train.yaml", partial(foresee_recipe, check))
"""``--data`` and ``--model``, which change that file where there is no ``--config``."""


def build_parser() -> CommandParser:
    """The options of the command line."""
    return job_parser(__doc__, FLAGS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return launched(read_job(build_parser(), JobConfig, run, arguments, FLAGS))


if __name__ == "__main__":
    sys.exit(main())
