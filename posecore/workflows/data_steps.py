"""Steps that jobs on several datasets have in common: check what can be checked, ingest, audit."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import source_for
from posecore.errors import PreflightError
from posecore.formats.files import check_annotations
from posecore.ingest.audit import compare, refuse_leakage
from posecore.ingest.source_stamp import stamp_source
from posecore.ingest.stage_code import codes_of, foreign_code, our_modules
from posecore.ingest.withdrawn import Withdrawn, read_withdrawn, without, write_withdrawn
from posecore.lineage.jobs.contents import Made
from posecore.lineage.jobs.steps import OutputFile, Outputs, StepResult
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import DatasetUse, Role
from posecore.lineage.withdrawal.record import withdrawn_from
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE
from posecore.shards.answers import AnswerShard
from posecore.shards.corrections import Corrections, read_corrections
from posecore.shards.manifest import MANIFEST_NAME, ShardEntry, read_manifest
from posecore.shards.store import open_store
from posecore.storage import AnyPath, as_path, make_writable
from posecore.training.checkpoint import MANIFEST_FILE as CHECKPOINT_FILE
from posecore.workflows.datasets_job import DatasetEntry, DatasetsJob
from posecore.workflows.ingestion import ingest_split
from posecore.workflows.job import JobWorkflow

_LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Split:
    """An ingested split of the run.

    Attributes:
        entry: whose.
        role: what it is used for.
        location: folder of the shards.
        digest: dataset digest.
        definition: of the dataset, changes included.
        corrections: labels that are read as unlabelled, or None.
    """

    entry: DatasetEntry
    role: Role
    location: str
    digest: str
    definition: DatasetDefinition
    corrections: Corrections | None = None

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
            corrections=None if self.corrections is None else self.corrections.digest,
        )

    def use_in(self, shares: Mapping[str, float]) -> DatasetUse:
        """The same with its share of a training's crops.

        Args:
            shares: by name of the set.
        """
        weight = shares.get(self.entry.name) if self.role == "training" else None
        return self.use.model_copy(update={"weight": weight})


def check_places(config: DatasetsJob, definitions: Mapping[str, DatasetDefinition]) -> None:
    """Refuses what can be known to fail before anything starts.

    Raises:
        PreflightError: the run folder and its disk; else see :func:`check_sources`.
    """
    check_sources(config, definitions)
    check_run_folder(config.folder)


def check_sources(config: DatasetsJob, definitions: Mapping[str, DatasetDefinition]) -> None:
    """Refuses places and downloads by which a job cannot run; nothing is written.

    Raises:
        ConfigError: a corrections file cannot be read.
        DatasetError: a dataset has no split of that name, or its annotations are not there.
        PreflightError: relative folders in a submitted job.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # Ray sets it for the entrypoint of a submitted job
        for name, location in (("run_folder", config.run_folder), ("data_folder", config.data_folder)):
            if "://" not in location and not Path(location).is_absolute():
                raise PreflightError(
                    f"{name}: {location} is relative, but a submitted job runs in a copy of the working directory that "
                    f"is thrown away; give an absolute path, for example --set {name}=/data/{name}."
                )
    for entry in config.datasets:
        if entry.corrections is not None:
            read_corrections(entry.corrections)
        for role in entry.roles:
            source = source_for(definitions[entry.name], entry.split(role), config.root(entry))
            check_annotations(source)


def check_run_folder(folder: AnyPath) -> None:
    """Refuses a run folder that cannot be written, or whose disk is nearly full.

    Raises:
        PreflightError: says why.
    """
    make_writable(folder, "run_folder")
    if not isinstance(folder, Path):
        return
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        raise PreflightError(
            f"run_folder {folder}: {free / 2**30:.1f} GiB are free, less than the {_LEAST_FREE_BYTES / 2**30:g} "
            "GiB a run wants at least; free some space or choose another run_folder."
        )


def ingest_splits(
    workflow: JobWorkflow, config: DatasetsJob, definitions: Mapping[str, DatasetDefinition]
) -> list[Split]:
    """All splits of all datasets to shards; says first what code of definitions is about to run for the first time."""
    for entry in config.datasets:
        definition = definitions[entry.name]
        if not any((shards_of(config, entry) / definition.name / entry.split(role)).exists() for role in entry.roles):
            for line in foreign_code(definition):
                workflow.note(f"code      {entry.name} runs {line}")
    return [
        ingest_step(workflow, config, entry, definitions[entry.name], role)
        for entry in config.datasets
        for role in entry.roles
    ]


def shards_of(config: DatasetsJob, entry: DatasetEntry) -> AnyPath:
    """Folder of an entry's shards; entries may change a definition, so each has its own."""
    return config.folder / "shards" / entry.name


def ingest_step(
    workflow: JobWorkflow, config: DatasetsJob, entry: DatasetEntry, definition: DatasetDefinition, role: Role
) -> Split:
    """Raw files of one split to shards."""
    split = entry.split(role)
    root = config.root(entry)
    out = shards_of(config, entry)
    location = out / definition.name / split
    precut = config.precut if role == "training" else None
    # Who withdrew stays out of every later ingestion, wherever its folder is.
    withdrawn = withdrawn_from(workflow.tracking, definition.name) | read_withdrawn(location)
    definition = without(definition, withdrawn)

    def execute(log: RunLog) -> Outputs:
        if withdrawn != Withdrawn():
            write_withdrawn(location, withdrawn)
        manifest = ingest_split(workflow.machines, definition, split, root, out, config.ingest, precut=precut)
        log.log_params({"source": root})
        log.log_metrics({"images": manifest.num_images, "instances": manifest.num_instances, **manifest.rejects})
        return Outputs(
            {"location": str(location), "digest": manifest.digest},
            vouched_shards(location, manifest.shards, manifest.files),
            made=(Made("split", manifest.digest, str(location)),),
        )

    result = workflow.step(
        f"ingest:{entry.name}:{split}",
        execute,
        inputs={
            "definition": definition.digest(),
            "evaluation": definition.evaluation,  # written beside the shards, which stay as they are
            "split": split,
            "settings": config.ingest,
            **({} if precut is None else {"precut": precut}),
            "source": stamp_source(definition, split, root),
            "code": {name: code.digest for name, code in codes_of(definition, split).items()},
            "out": str(out),
        },
        code=["posecore.cluster.ingestion", *our_modules(definition)],
    )
    corrections = None
    if role == "training" and entry.corrections is not None:
        corrections = read_corrections(entry.corrections)
        corrections.check(read_manifest(location))
    return Split(entry, role, str(location), result.values["digest"], definition, corrections)


def audit_step(
    workflow: JobWorkflow, config: DatasetsJob, training: Sequence[Split], evaluation: Sequence[Split]
) -> StepResult:
    """Refuses a training set that shares images, subjects or videos with an evaluation set."""

    def execute(log: RunLog) -> Outputs:
        reports = [
            compare(open_store(seen.location), open_store(judged.location), config.audit)
            for seen in training
            for judged in evaluation
        ]
        found = {
            f"{report.a} x {report.b}": {"counts": report.counts(), "first": [str(pair) for pair in report.pairs]}
            for report in reports
        }
        log.log_dict(found, "audit.json")
        refuse_leakage(reports, allow=config.allow_leakage)
        return Outputs({"shared": sum(report.shared.height for report in reports)})

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


def vouched(*paths: Any) -> tuple[OutputFile, ...]:
    """Files that must be as they are for a step's result to be used again."""
    return tuple(OutputFile.of(path) for path in paths)


def made_of_training(files: Sequence[OutputFile]) -> tuple[Made, ...]:
    """The model among a training's files, and what lies beside it for use elsewhere, such as an adapter."""
    return tuple(
        Made("weights", file.sha256, str(as_path(file.path).parent))
        if as_path(file.path).name == WEIGHTS_FILE
        else Made("export", file.sha256, file.path)
        for file in files
        if as_path(file.path).name not in (CARD_FILE, CHECKPOINT_FILE)
    )


def made_reports(files: Sequence[OutputFile]) -> tuple[Made, ...]:
    """The pages and pictures among a step's files: what may show a body is found again by its content."""
    shown = (".html", ".jpg", ".png")
    return tuple(Made("report", file.sha256, file.path) for file in files if as_path(file.path).suffix in shown)


def vouched_shards(
    folder: AnyPath, shards: Iterable[ShardEntry | AnswerShard], tables: Mapping[str, str]
) -> tuple[OutputFile, ...]:
    """Every file of a folder of shards that is ever read: manifest, tables and tars, none of which is read for it.

    Args:
        folder: that has them.
        shards: its tars, as its manifest lists them.
        tables: SHA-256 of the tables beside them, by file name.
    """
    tars = [OutputFile.of(folder / shard.name, shard.digest, is_tar=True) for shard in shards]
    beside = [OutputFile.of(folder / name, sha256) for name, sha256 in tables.items()]
    return (OutputFile.of(folder / MANIFEST_NAME), *beside, *tars)
