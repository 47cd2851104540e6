#!/usr/bin/env python
"""Pre-training: images without labels in, a backbone that fine-tuning starts from out.

::

    ray job submit --working-dir . -- python pipelines/pretrain.py --config pipelines/configs/pretrain_demo.yaml
    python pipelines/pretrain.py --config pipelines/configs/pretrain_demo.yaml         # the same on a laptop
    torchrun --nproc-per-node 2 pipelines/pretrain.py --config pipelines/configs/pretrain_demo.yaml      # without Ray

Every named dataset is ingested into shards as for any other job; labels may be there and are not looked at. A masked
autoencoder is trained on crops of bodies or of whole images, its reconstructions are drawn, and its encoder is
registered with its lineage. The main job starts from it with ``weights: {source: <folder>}``.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import sys
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from rich.console import Console

from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.jobs.steps import Reuse, StepResult
from posecore.lineage.store.tracking import connect
from posecore.lineage.versions.tags import EvaluationResult
from posecore.loading.loader import LoadingConfig
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.methods.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig, pretraining_model
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.training.loop import TrainingConfig
from posecore.training.preflight import crops_per_rank
from posecore.workflows.command_line import job_parser, read_job
from posecore.workflows.data_steps import Split, audit_step, check_places, ingest_splits
from posecore.workflows.datasets_job import DatasetsJob, MixtureSettings
from posecore.workflows.job import JobWorkflow
from posecore.workflows.machines import Machines, WorkersConfig
from posecore.workflows.pretraining.judge import ReconstructionJudge
from posecore.workflows.pretraining.reconstruct_step import reconstruct_step
from posecore.workflows.pretraining.worker import PretrainingWorker
from posecore.workflows.register_step import register_step
from posecore.workflows.train_step import train_step

_SUMMARY = "A masked autoencoder's encoder, to start fine-tuning from; it has no head and predicts no points."


class PretrainingConfig(DatasetsJob):
    """A complete run, whose data and folders are those of a :class:`~posecore.workflows.datasets_job.DatasetsJob`.

    A dataset's ``evaluate`` split, if it has one, is held out: reconstructions are judged and drawn on it.

    Attributes:
        model: backbone and input size; the head is what fine-tuning may add, and is not trained.
        method: what is hidden and how it is predicted.
        crops: bodies or whole images, and how much of them.
        loading: batches.
        training: the loop. Published: AdamW with betas 0.9 and 0.95, weight decay 0.05, a learning rate of 1.5e-4 per
            256 crops of the global batch, cosine schedule.
        cluster: workers.
        pictures: reconstructions drawn per dataset.
    """

    model: ModelConfig
    method: MaskedAutoencoderConfig = MaskedAutoencoderConfig()
    crops: UnlabelledConfig = UnlabelledConfig()
    loading: MixtureSettings = MixtureSettings()
    training: TrainingConfig
    cluster: WorkersConfig = WorkersConfig()
    pictures: int = Field(default=8, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.training.optimizer.layer_decay != 1.0:
            raise ValueError("training.optimizer.layer_decay: no layer is trained yet that others could follow; set 1.")
        if self.training.compile:
            raise ValueError("training.compile: pre-training runs the backbone on parts of images; leave it off.")
        self.mixture()  # refuses what contradicts itself before anything starts
        for entry in self.datasets:
            if entry.augment is not None or entry.head is not None:
                raise ValueError(f"datasets.{entry.name}: augment and head belong to labels, and none are looked at.")
        return self

    def mixture(self) -> LoadingConfig:
        """The loader's configuration."""
        return self.loading.config(self.datasets, self.crops)


def run(config: PretrainingConfig, reuse: Reuse, machines: Machines) -> str:
    """The whole job as a list of steps; returns the URI of the registered model."""
    definitions = {entry.name: entry.load() for entry in config.datasets}
    preflight(config, definitions)
    tracking = connect(config.tracking, config.folder)
    machines.connect(config.cluster.needs(config.folder, tracking.uri))

    with JobWorkflow(machines, tracking, config, reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        leaks = audit_step(workflow, config, training, evaluation)
        held_out = {split.entry.name: split for split in evaluation}
        judged = {split.entry.name: held_out.get(split.entry.name, split) for split in training}
        worker = pretraining(config, training, judged)
        model = train(workflow, config, worker, training, evaluation)
        drawn = [reconstruct_step(workflow, worker, split, model, config.pictures) for split in judged.values()]
        results = [
            EvaluationResult(name=name, digest=split.digest, metrics={"masked_error": step.values["error"]})
            for (name, split), step in zip(judged.items(), drawn, strict=True)
        ]
        registered = register_step(workflow, model, splits, results, leaks, summary=_SUMMARY)
        workflow.run.set_tags({"posecore.registered": registered.values["uri"]})

    console = Console(soft_wrap=True)
    for result in drawn:
        console.print(f"{result.name}: masked error {result.values['error']:.3f}, picture {result.values['picture']}")
    console.print(f"model     {registered.values['uri']}   (folder {model.values['folder']})")
    console.print(f"lineage   {tracking.to_look_at()}")
    return str(registered.values["uri"])


def preflight(config: PretrainingConfig, definitions: Mapping[str, DatasetDefinition]) -> None:
    """What can be known to fail is refused before anything starts; the tracking store and the cluster are asked next.

    Raises:
        ConfigError: backbone, input size and masking ratio do not go together.
        DatasetError: a dataset has no split of that name.
        PreflightError: relative folders in a submitted job, batch arithmetic, or the run folder and its disk.
    """
    with torch.device("meta"):  # no memory, whatever the size
        MaskedAutoencoder(pretraining_model(config.model), config.method)
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    check_places(config, definitions)


def pretraining(config: PretrainingConfig, training: Sequence[Split], judged: Mapping[str, Split]) -> PretrainingWorker:
    """What each training process does.

    Args:
        config: the job.
        training: what is trained on.
        judged: name of the set to the split whose crops are filled in: held out, or its own of a set that holds none.
    """
    return PretrainingWorker(
        model=config.model,
        method=config.method,
        training=config.training,
        loading=config.mixture(),
        stores={split.entry.name: split.location for split in training},
        evaluate=ReconstructionJudge(
            stores={name: split.location for name, split in judged.items()},
            unlabelled=config.crops,
            num_threads=config.loading.num_threads,
        ),
    )


def train(
    workflow: JobWorkflow,
    config: PretrainingConfig,
    worker: PretrainingWorker,
    training: Sequence[Split],
    evaluation: Sequence[Split],
) -> StepResult:
    """Shards to a folder with the encoder, and a checkpoint with the decoder as well."""
    licenses = {split.entry.name: split.definition.license.id for split in training}

    def complete(card: ModelCard) -> ModelCard:
        return card.model_copy(update={"licenses": licenses})

    return train_step(workflow, "train", config, config.cluster, worker, training, complete, evaluation)


def build_parser() -> CommandParser:
    """The options of the command line."""
    return job_parser(__doc__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return launched(read_job(build_parser(), PretrainingConfig, run, arguments))


if __name__ == "__main__":
    sys.exit(main())
