#!/usr/bin/env python
"""Pre-training: images without labels in, a backbone that fine-tuning starts from out.

::

    ray job submit --working-dir . -- python pipelines/pretrain.py --config pipelines/configs/pretrain_demo.yaml
    python pipelines/pretrain.py --config pipelines/configs/pretrain_demo.yaml         # the same on a laptop

Every named dataset is ingested into shards as for any other job; labels may be there and are not looked at. A masked
autoencoder is trained on crops of bodies or of whole images, its reconstructions are drawn, and its encoder is
registered with its lineage. The main job starts from it with ``weights: {source: <folder>}``.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from rich.console import Console

from posecore.cluster.connection import connect_to_ray
from posecore.cluster.training import RayTrainingConfig, train_with_ray
from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.code_version import code_digest
from posecore.lineage.contents import origin_tags
from posecore.lineage.curve import CurveLog
from posecore.lineage.dataset_inputs import log_dataset_inputs
from posecore.lineage.registry import register_model
from posecore.lineage.steps import Outputs, Reuse, StepResult, Workflow
from posecore.lineage.tracking import RunLog, connect
from posecore.lineage.versions import EvaluationResult
from posecore.lineage.weights_use import weights_in
from posecore.loading.loader import LoadingConfig
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.methods.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig, pretraining_model
from posecore.models.architecture import ModelConfig
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE
from posecore.storage import as_path, write_atomically
from posecore.training.checkpoint import MANIFEST_FILE
from posecore.training.loop import TrainingConfig
from posecore.training.preflight import crops_per_rank
from posecore.viz.gallery import encode_png
from posecore.viz.reconstruction import reconstruction_sheet
from posecore.workflows.bad_samples import log_bad_samples
from posecore.workflows.datasets_job import DatasetsJob, MixtureSettings
from posecore.workflows.pretraining.judge import ReconstructionJudge
from posecore.workflows.pretraining.worker import PretrainingWorker
from posecore.workflows.run_folder import RunFolders
from posecore.workflows.steps import Split, audit_step, check_places, ingest_splits, made_of_training, run_job, vouched


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
    cluster: RayTrainingConfig = RayTrainingConfig()
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


@dataclass(frozen=True)
class Pretraining:
    """A run's worker and everything that decides its result.

    Attributes:
        worker: what each training process does.
        inputs: for the step's fingerprint.
        judge: fills in held-out crops, or training crops of sets that hold none out.
        judged: name of the set to the split the judge takes.
    """

    worker: PretrainingWorker
    inputs: dict[str, Any]
    judge: ReconstructionJudge
    judged: Mapping[str, Split]


def run(config: PretrainingConfig, reuse: Reuse) -> None:
    """The whole job as a list of steps."""
    definitions = {entry.name: entry.load() for entry in config.datasets}
    preflight(config, definitions)
    tracking = connect(config.tracking, config.folder)
    connect_to_ray()

    with Workflow(tracking, config.name, config.folder, config, reuse=reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        leaks = audit_step(workflow, config, training, evaluation)
        plan = plan_training(config, training, evaluation)
        model = train_step(workflow, config, plan, training)
        drawn = [reconstruct_step(workflow, config, plan, name, model) for name in plan.judged]
        registered = register_step(workflow, config, model, splits, plan, drawn, leaks)
        workflow.run.set_tags({"posecore.registered": registered.values["uri"]})

    console = Console(soft_wrap=True)
    for result in drawn:
        console.print(f"{result.name}: masked error {result.values['error']:.3f}, picture {result.values['picture']}")
    console.print(f"model     {registered.values['uri']}   (folder {model.values['folder']})")
    console.print(f"lineage   mlflow ui --backend-store-uri {tracking.uri}")


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


def plan_training(config: PretrainingConfig, training: Sequence[Split], evaluation: Sequence[Split]) -> Pretraining:
    """Puts the worker together."""
    inputs: dict[str, Any] = {
        "data": {split.entry.name: split.digest for split in training},
        "model": config.model,
        "method": config.method,
        "loading": config.mixture(),
        "training": config.training,
    }
    held_out = {split.entry.name: split for split in evaluation}
    judged = {split.entry.name: held_out.get(split.entry.name, split) for split in training}
    judge = ReconstructionJudge(
        stores={name: split.location for name, split in judged.items()},
        unlabelled=config.crops,
        num_threads=config.loading.num_threads,
    )
    worker = PretrainingWorker(
        model=config.model,
        method=config.method,
        training=config.training,
        loading=config.mixture(),
        stores={split.entry.name: split.location for split in training},
        evaluate=judge,
    )
    return Pretraining(worker, inputs, judge, judged)


def train_step(
    workflow: Workflow, config: PretrainingConfig, plan: Pretraining, training: Sequence[Split]
) -> StepResult:
    """Shards to a folder with the encoder, and a checkpoint with the decoder as well."""
    code = [PretrainingWorker.__module__]
    if config.training.evaluate_every:
        code.append(ReconstructionJudge.__module__)
    folders = RunFolders.of(config.folder, plan.inputs, code_digest(code), workflow)

    def execute(log: RunLog) -> Outputs:
        run_dir = folders.open(clean=not workflow.reuse.finished)
        log.set_tags({f"posecore.{key}": value for key, value in folders.inputs.items()})
        log.log_params({"steps": config.training.steps, "run_dir": run_dir})
        log_dataset_inputs(log, [split.use for split in training])
        trained = train_with_ray(plan.worker, run_dir, config.cluster, CurveLog(log, str(config.folder)))
        log_bad_samples(log, trained.checkpoint)
        model = plan.worker.trained(trained.checkpoint)
        lineage = {"run_id": log.run_id, "step": config.training.steps} | folders.inputs
        lineage["data"] = [split.use.portable for split in training]
        licenses = {split.entry.name: split.definition.license.id for split in training}
        card = model.card.model_copy(update={"lineage": lineage, "licenses": licenses})
        folder = model.save(run_dir / "model", card)
        files = vouched(folder / CARD_FILE, folder / WEIGHTS_FILE, trained.checkpoint / MANIFEST_FILE)
        values = {"folder": str(folder), "run_dir": str(run_dir), "checkpoint": str(trained.checkpoint)}
        log.set_tags(origin_tags(weights_in(lineage)))
        return Outputs(values, files, made=made_of_training(files))

    return workflow.step("train", execute, inputs=plan.inputs | folders.inputs, code=code, continues=True)


def reconstruct_step(
    workflow: Workflow, config: PretrainingConfig, plan: Pretraining, name: str, model: StepResult
) -> StepResult:
    """How well one set's hidden patches are filled in, as a number and as a picture."""
    picture = Path(model.values["run_dir"]) / "reconstruction" / f"{name}.png"

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [plan.judged[name].use])
        method = plan.worker.trained_method(as_path(model.values["checkpoint"]))
        error = plan.judge.error(method, name)
        log.log_metrics({f"{name}/masked_error": error})
        sheet = reconstruction_sheet(plan.judge.pictures(method, name, config.pictures))
        write_atomically(picture, encode_png(sheet))
        log.log_file(picture)
        return Outputs({"error": error, "picture": str(picture)}, vouched(picture))

    return workflow.step(
        f"reconstruct:{name}",
        execute,
        inputs={"model": model, "data": plan.judged[name].digest, "pictures": config.pictures, "out": str(picture)},
        code=[PretrainingWorker.__module__, ReconstructionJudge.__module__],
    )


def register_step(
    workflow: Workflow,
    config: PretrainingConfig,
    model: StepResult,
    splits: Sequence[Split],
    plan: Pretraining,
    drawn: Sequence[StepResult],
    leaks: StepResult,
) -> StepResult:
    """The encoder as a new version in the registry, with everything it came from."""

    def execute(log: RunLog) -> Outputs:
        version = register_model(
            log,
            config.name,
            Path(model.values["folder"]),
            [split.use for split in splits],
            [
                EvaluationResult(name=name, digest=split.digest, metrics={"masked_error": result.values["error"]})
                for (name, split), result in zip(plan.judged.items(), drawn, strict=True)
            ],
            tags={"training_run_id": model.run_id, "leaked_pairs": str(leaks.values["shared"])},
            summary="A masked autoencoder's encoder, to start fine-tuning from; it has no head and predicts no points.",
        )
        return Outputs({"uri": version.uri, "version": version.version}, versions=(version,))

    return workflow.step(
        "register",
        execute,
        inputs={"name": config.name, "model": model, "drawn": list(drawn), "audit": leaks},
        code=["posecore.lineage.registry"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return run_job(__doc__, PretrainingConfig, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
