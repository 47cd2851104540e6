#!/usr/bin/env python
"""The main job: several datasets with different skeletons in, one registered model out.

::

    ray job submit --working-dir . -- python pipelines/multidataset_train.py --config pipelines/configs/demo.yaml
    python pipelines/multidataset_train.py --config pipelines/configs/demo.yaml        # the same on a laptop

Every named dataset is ingested into shards, the splits are audited for leakage, one backbone with a head per dataset is
trained on all of them, every dataset is judged by its own protocol, and the model is registered with its lineage. Each
of these is a step of a recorded workflow: a resubmitted job continues where it stopped, an unchanged one reuses
everything.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import ray
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from pipelines.evaluate import evaluate_stores
from pipelines.ingest import ingest_split
from pipelines.multidataset_worker import MultiDatasetWorker, PeriodicEvaluation
from pipelines.ray_training import RayTrainingConfig, train_with_ray
from posecore.config import Config, digest_json, load_config, parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset, source_for
from posecore.errors import PoseCoreError, PreflightError
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.protocols import PROTOCOLS
from posecore.ingest.audit import AuditConfig, compare, refuse_leakage
from posecore.ingest.plan import IngestSettings
from posecore.ingest.source_stamp import stamp_source
from posecore.lineage.dataset_inputs import DatasetUse, Role, log_dataset_inputs
from posecore.lineage.registry import register_model
from posecore.lineage.steps import OutputFile, Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog, TrackingConfig, connect
from posecore.lineage.versions import EvaluationResult
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureEntry
from posecore.methods.sharing import HeadsConfig, MethodConfig
from posecore.models.architecture import ModelConfig
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE, save_model
from posecore.schema import Json
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import open_store
from posecore.storage import as_path
from posecore.training.loop import TrainingConfig
from posecore.training.preflight import crops_per_rank

_LEAST_FREE_BYTES = 1 << 30


class DatasetEntry(Config):
    """One dataset of the run; its name is also the name of its head.

    Attributes:
        name: of the entry.
        definition: name of the dataset definition, or path of a ``dataset.yaml``; default the entry's name.
        root: folder of the download, relative to ``data_folder`` unless absolute; local or any fsspec URL.
        train: split to train on; None for a set that is only judged.
        evaluate: split to judge on; None for a set that is only trained on.
        head: for a set that is only judged, the entry whose head answers.
        weight: share of the samples, for ``sampling: explicit``.
        augment: other augmentation than the run's.
        changes: fields of the definition that differ for this run, nested as in ``dataset.yaml``.
    """

    name: str
    definition: str = ""
    root: str
    train: str | None = None
    evaluate: str | None = None
    head: str | None = None
    weight: float | None = None
    augment: AugmentConfig | None = None
    changes: dict[str, Json] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train is None and self.evaluate is None:
            raise ValueError(f"{self.name}: give train, evaluate or both.")
        if (self.train is None) == (self.head is None):
            raise ValueError(f"{self.name}: head is needed exactly where train is not given.")
        return self

    @property
    def answering_head(self) -> str:
        """The head that predicts this set: its own, or the one named."""
        return self.head or self.name

    def split(self, role: Role) -> str:
        """Name of the split for one of the entry's roles."""
        split = self.train if role == "training" else self.evaluate
        assert split is not None, f"{self.name} has no {role} split"
        return split

    def load(self) -> DatasetDefinition:
        """The definition with this run's changes."""
        definition = load_dataset(self.definition or self.name)
        if not self.changes:
            return definition
        merged = _merged(definition.model_dump(), self.changes) | {"folder": definition.folder}
        return parse_config(merged, DatasetDefinition, origin=f"datasets.{self.name}.changes")


class LoaderSettings(Config):
    """How batches are drawn and made; the datasets themselves come from ``datasets``.

    Attributes:
        sampling: see :class:`~posecore.loading.mixture.MixtureConfig`.
        temperature: likewise.
        shuffle_window: likewise.
        augment: of every dataset that has none of its own.
        num_threads: decoding threads per worker.
        prefetch: batches prepared ahead.
        cache_bytes: bound on the decoded images a worker keeps.
    """

    sampling: Literal["natural", "temperature", "explicit"] = "natural"
    temperature: float = 1.0
    shuffle_window: int = 8
    augment: AugmentConfig = AugmentConfig()
    num_threads: int = 2
    prefetch: int = 2
    cache_bytes: int = 1 << 30


class JobConfig(Config):
    """A complete run.

    Attributes:
        name: of the workflow, and of the registered model.
        run_folder: everything the run writes; a local folder, or one that every node mounts.
        data_folder: what relative dataset roots are relative to.
        tracking: MLflow store.
        datasets: what is trained and judged on.
        ingest: shape of the shards.
        audit: what counts as the same image.
        allow_leakage: go on although train and evaluation sets share images; recorded in the lineage.
        model: the architecture.
        method: how the model shares what it knows across skeletons: ``heads``, ``experts`` or ``prototypes``.
        loading: batches.
        training: the loop.
        cluster: workers.
        inference: how predictions are made for the evaluation.
        worst_cases: pictures of the worst cases per dataset in the report.
    """

    name: str
    run_folder: str
    data_folder: str = "."
    tracking: TrackingConfig = TrackingConfig()
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    ingest: IngestSettings = IngestSettings()
    audit: AuditConfig = AuditConfig()
    allow_leakage: bool = False
    model: ModelConfig
    method: MethodConfig = HeadsConfig()
    loading: LoaderSettings = LoaderSettings()
    training: TrainingConfig
    cluster: RayTrainingConfig = RayTrainingConfig()
    inference: InferenceSettings = InferenceSettings()
    worst_cases: int = Field(default=12, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [entry.name for entry in self.datasets]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"datasets: named twice: {', '.join(doubled)}.")
        if "://" in self.run_folder:
            raise ValueError(f"run_folder: {self.run_folder} is a URL; give a folder that every node mounts.")
        heads = {entry.name for entry in self.datasets if entry.train is not None}
        if not heads:
            raise ValueError("datasets: none has a train split.")
        for entry in self.datasets:
            if entry.head is not None and entry.head not in heads:
                raise ValueError(f"datasets.{entry.name}.head: {entry.head!r} is no entry with a train split.")
        return self

    @property
    def folder(self) -> Path:
        """The run folder, absolute: a submitted job runs in a directory that is thrown away."""
        return Path(self.run_folder).resolve()

    def root(self, entry: DatasetEntry) -> str:
        """Where an entry's download lies."""
        return str(as_path(self.data_folder) / entry.root) if "://" not in entry.root else entry.root

    def mixture(self) -> LoadingConfig:
        """The loader's configuration."""
        entries = tuple(
            MixtureEntry(name=entry.name, weight=entry.weight, augment=entry.augment)
            for entry in self.datasets
            if entry.train is not None
        )
        values = self.loading.model_dump(exclude={"sampling", "temperature", "shuffle_window"})
        mixture = {
            "entries": entries,
            "sampling": self.loading.sampling,
            "temperature": self.loading.temperature,
            "shuffle_window": self.loading.shuffle_window,
        }
        return parse_config({**values, "mixture": mixture}, LoadingConfig, origin="loading")


@dataclass(frozen=True)
class Split:
    """An ingested split of the run.

    Attributes:
        entry: whose.
        role: what it is used for.
        location: folder of the shards.
        digest: dataset digest.
        definition: of the dataset, changes included.
    """

    entry: DatasetEntry
    role: Role
    location: str
    digest: str
    definition: DatasetDefinition

    @property
    def use(self) -> DatasetUse:
        """As lineage records it."""
        license = self.definition.license
        return DatasetUse(
            name=self.definition.name,
            split=Path(self.location).name,
            digest=self.digest,
            role=self.role,
            location=self.location,
            license=license.id,
            commercial_use=license.commercial_use,
        )


def run(config: JobConfig, reuse: bool = True) -> None:
    """The whole job as a list of steps."""
    console = Console(soft_wrap=True)
    folder = config.folder
    definitions = {entry.name: entry.load() for entry in config.datasets}
    preflight(config, definitions)
    tracking = connect(config.tracking, folder)
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS") or "local", logging_level="WARNING")

    with Workflow(tracking, config.name, folder, config, reuse=reuse) as workflow:
        splits = [
            ingest_step(workflow, config, entry, definitions[entry.name], role)
            for entry in config.datasets
            for role in roles(entry)
        ]
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        leaks = audit_step(workflow, config, training, evaluation)
        model = train_step(workflow, config, training, evaluation)
        judged = [evaluate_step(workflow, config, split, model) for split in evaluation]
        registered = register_step(workflow, config, model, splits, judged, leaks)
        workflow.run.set_tags({"posecore.registered": registered.values["uri"]})

    console.print(results_table(evaluation, judged))
    console.print(f"model     {registered.values['uri']}   (folder {model.values['folder']})")
    for split, result in zip(evaluation, judged, strict=True):
        console.print(f"report    {split.entry.name}: {result.values['report']}")
    console.print(f"lineage   mlflow ui --backend-store-uri {tracking.uri}")


def preflight(config: JobConfig, definitions: Mapping[str, DatasetDefinition]) -> None:
    """What can be known to fail is refused before anything starts; the tracking store and the cluster are asked next.

    Raises:
        DatasetError: a dataset has no split of that name.
        PreflightError: relative folders in a submitted job, batch arithmetic, or the run folder and its disk.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # Ray sets it for the entrypoint of a submitted job
        for name, location in (("run_folder", config.run_folder), ("data_folder", config.data_folder)):
            if "://" not in location and not Path(location).is_absolute():
                raise PreflightError(
                    f"{name}: {location} is relative, but a submitted job runs in a copy of the working directory that "
                    f"is thrown away; give an absolute path, for example --set {name}=/data/{name}."
                )
    for entry in config.datasets:
        for role in roles(entry):
            source_for(definitions[entry.name], entry.split(role), config.root(entry))
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(f"run_folder {config.folder} cannot be made: {error.strerror}.") from None
    free = shutil.disk_usage(config.folder).free
    if free < _LEAST_FREE_BYTES:
        raise PreflightError(
            f"run_folder {config.folder}: {free / 2**30:.1f} GiB are free, less than the {_LEAST_FREE_BYTES / 2**30:g} "
            "GiB a run wants at least; free some space or choose another run_folder."
        )


def roles(entry: DatasetEntry) -> list[Role]:
    """What an entry is used for."""
    wanted: list[tuple[Role, str | None]] = [("training", entry.train), ("evaluation", entry.evaluate)]
    return [role for role, split in wanted if split is not None]


def ingest_step(
    workflow: Workflow, config: JobConfig, entry: DatasetEntry, definition: DatasetDefinition, role: Role
) -> Split:
    """Raw files of one split to shards."""
    split = entry.split(role)
    root = config.root(entry)
    # Entries may change a definition, so each has shards of its own.
    out = config.folder / "shards" / entry.name
    location = out / definition.name / split

    def execute(log: RunLog) -> Outputs:
        manifest = ingest_split(definition, split, root, out, config.ingest)
        log.log_metrics({"images": manifest.num_images, "instances": manifest.num_instances, **manifest.rejects})
        return Outputs({"location": str(location), "digest": manifest.digest}, _vouched(location / MANIFEST_NAME))

    result = workflow.step(
        f"ingest:{entry.name}:{split}",
        execute,
        inputs={
            "definition": definition.digest(),
            "split": split,
            "settings": config.ingest,
            "source": stamp_source(definition, split, root),
            "out": str(out),
        },
        code=["pipelines.ingest", definition.reader.partition(":")[0]],
    )
    return Split(entry, role, str(location), result.values["digest"], definition)


def audit_step(
    workflow: Workflow, config: JobConfig, training: Sequence[Split], evaluation: Sequence[Split]
) -> StepResult:
    """Refuses a training set that shares images, subjects or videos with an evaluation set."""

    def execute(log: RunLog) -> Outputs:
        reports = [
            compare(open_store(seen.location), open_store(judged.location), config.audit)
            for seen in training
            for judged in evaluation
        ]
        found = {f"{report.a} x {report.b}": [str(pair) for pair in report.pairs] for report in reports}
        log.log_dict(found, "audit.json")
        refuse_leakage(reports, allow=config.allow_leakage)
        return Outputs({"shared": sum(len(pairs) for pairs in found.values())})

    return workflow.step(
        "audit",
        execute,
        inputs={
            "training": [split.digest for split in training],
            "evaluation": [split.digest for split in evaluation],
            "settings": config.audit,
            "allow_leakage": config.allow_leakage,
        },
        code=["posecore.ingest.audit"],
    )


def train_step(
    workflow: Workflow, config: JobConfig, training: Sequence[Split], evaluation: Sequence[Split]
) -> StepResult:
    """Shards to a model folder; judged now and then on the way if ``training.evaluate_every`` says so."""
    inputs: dict[str, Any] = {
        "data": {split.entry.name: split.digest for split in training},
        "model": config.model,
        "method": config.method,
        "loading": config.mixture(),
        "training": config.training,
    }
    # A run folder of its own for everything that decides the result: an interrupted run continues in it, a changed
    # one never meets foreign checkpoints. A run may go on with another number of workers, on the same samples.
    key = digest_json({name: _plain(value) for name, value in inputs.items()})[:12]
    run_dir = config.folder / "training" / key
    worker = MultiDatasetWorker(
        model=config.model,
        method=config.method,
        training=config.training,
        loading=config.mixture(),
        stores={split.entry.name: split.location for split in training},
        evaluate=PeriodicEvaluation(
            stores={split.entry.name: split.location for split in evaluation},
            heads={split.entry.name: split.entry.answering_head for split in evaluation},
            settings=config.inference,
        ),
    )

    def execute(log: RunLog) -> Outputs:
        log.log_params({"steps": config.training.steps, "run_dir": run_dir})
        log_dataset_inputs(log, [split.use for split in training])
        trained = train_with_ray(worker, run_dir, config.cluster, log.log_metrics)
        model = worker.trained_model(trained.checkpoint)
        lineage = {"run_id": log.run_id, "step": config.training.steps, "data": inputs["data"]}
        model.card = model.card.model_copy(update={"lineage": lineage})
        folder = save_model(model, run_dir / "model")
        files = _vouched(folder / CARD_FILE, folder / WEIGHTS_FILE)
        return Outputs({"folder": str(folder), "run_dir": str(run_dir)}, files)

    return workflow.step("train", execute, inputs=inputs, code=["pipelines.multidataset_worker"])


def evaluate_step(workflow: Workflow, config: JobConfig, split: Split, model: StepResult) -> StepResult:
    """A model on one split, by that dataset's protocol, with an HTML report."""
    name = split.entry.name
    head = split.entry.answering_head
    out = Path(model.values["run_dir"]) / "evaluation" / name

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [split.use])
        result = evaluate_stores(
            model.values["folder"],
            {name: split.location},
            config.inference,
            heads={name: head},
            out=out,
            worst_cases=config.worst_cases,
        )
        metrics = result.metrics[name]
        log.log_metrics(metrics)
        log.log_file(Path(result.report))
        return Outputs({"metrics": metrics, "report": str(result.report)}, _vouched(result.report))

    return workflow.step(
        f"evaluate:{name}",
        execute,
        inputs={
            "model": model,
            "data": split.digest,
            "head": head,
            "settings": config.inference,
            "worst_cases": config.worst_cases,
            "out": str(out),
        },
        code=["pipelines.evaluate"],
    )


def register_step(
    workflow: Workflow,
    config: JobConfig,
    model: StepResult,
    splits: Sequence[Split],
    judged: Sequence[StepResult],
    leaks: StepResult,
) -> StepResult:
    """The model as a new version in the registry, with everything it came from."""
    evaluation = [split for split in splits if split.role == "evaluation"]

    def execute(log: RunLog) -> Outputs:
        version = register_model(
            log,
            config.name,
            Path(model.values["folder"]),
            [split.use for split in splits],
            [
                EvaluationResult(name=split.entry.name, digest=split.digest, metrics=result.values["metrics"])
                for split, result in zip(evaluation, judged, strict=True)
            ],
            tags={"training_run_id": model.run_id, "leaked_pairs": str(leaks.values["shared"])},
        )
        return Outputs({"uri": version.uri, "version": version.version})

    return workflow.step(
        "register",
        execute,
        inputs={"name": config.name, "model": model, "judged": list(judged), "audit": leaks},
        code=["posecore.lineage.registry"],
    )


def results_table(evaluation: Sequence[Split], judged: Sequence[StepResult]) -> Table:
    """One row per judged set."""
    table = Table(title="results")
    for column in ("dataset", "protocol", "metric", "value", "all metrics"):
        table.add_column(column, overflow="fold")
    for split, result in zip(evaluation, judged, strict=True):
        protocol = split.definition.evaluation.protocol
        metrics = result.values["metrics"]
        primary = PROTOCOLS[protocol].primary
        others = ", ".join(f"{name} {value:.3f}" for name, value in list(metrics.items())[:6])
        table.add_row(split.entry.name, protocol, primary, f"{metrics[primary]:.3f}", others)
    return table


def _vouched(*paths: Any) -> tuple[OutputFile, ...]:
    return tuple(OutputFile.of(path) for path in paths)


def _plain(value: Any) -> Json:
    return value.model_dump(mode="json") if isinstance(value, Config) else value


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="run file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--allow-leakage", action="store_true", help="go on although train and evaluation sets overlap")
    parser.add_argument("--no-reuse", action="store_true", help="run every step again")
    options = parser.parse_args(arguments)
    overrides = [*options.set, *(["allow_leakage=true"] if options.allow_leakage else [])]
    try:
        run(load_config(options.config, JobConfig, overrides), reuse=not options.no_reuse)
    except (PoseCoreError, OSError) as error:  # an OSError names the file, as ours do
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
