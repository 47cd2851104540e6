"""The manifest: what a split was made of and by, and the digest that names it everywhere else."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from posecore.config import Config, digest_json
from posecore.conventions import STORED
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import IntegrityError
from posecore.schema import Json
from posecore.shards.remote import read_whole
from posecore.storage import AnyPath, as_path, write_atomically

FORMAT_VERSION: Literal[5] = 5
"""Raised whenever the same input would give other bytes. Splits of formats 3 and 4 are read as they are."""

MANIFEST_NAME = "manifest.json"
IMAGES_NAME = "images.parquet"
INSTANCES_NAME = "index.parquet"
QUARANTINE_NAME = "quarantine.parquet"


class ShardEntry(Config):
    """One tar of the split.

    Attributes:
        name: file name within the split's folder.
        digest: of the whole tar, as :mod:`posecore.shards.tar` defines it.
        size_bytes: of the whole tar.
        num_images: samples in it.
        num_instances: instances in it.
    """

    name: str
    digest: str
    size_bytes: int
    num_images: int
    num_instances: int


class StageCounts(Config):
    """What came into one stage of ingestion and what it took out.

    Attributes:
        stage: ``reader``, ``plan`` (ids), the names of ``dataset.yaml``, ``image`` (files and their headers).
        images_in: images that reached the stage.
        images_rejected: whole images it took out.
        instances_in: instances that reached the stage.
        instances_rejected: single instances it took out, and those of the images it took out.
        reasons: rejects by reason.
    """

    stage: str
    images_in: int
    images_rejected: int
    instances_in: int
    instances_rejected: int
    reasons: dict[str, int] = {}

    @property
    def lost_shares(self) -> tuple[float, float]:
        """Shares of the images and of the instances that it took out."""
        return self.images_rejected / max(self.images_in, 1), self.instances_rejected / max(self.instances_in, 1)


class StageCode(Config):
    """What could change the result of a reader or a stage, beside what its definition says.

    Attributes:
        modules: whose source counts, its own and those of its folder or package that it imports.
        files: ``module:file`` for those the modules declare.
        distributions: ``name==version`` of what the modules import.
        digest: SHA-256 over the name, the options and all of these, contents included.
    """

    modules: tuple[str, ...]
    files: tuple[str, ...]
    distributions: tuple[str, ...]
    digest: str


class Manifest(Config):
    """Everything that names an ingested split. No time, no machine, no path: equal inputs give equal manifests.

    Attributes:
        format_version: of the shard format.
        code_version: release of this library that wrote the shards.
        dataset: name of the dataset definition.
        split: name of the split.
        definition: the dataset definition, skeleton included.
        definition_digest: its digest.
        vocabulary: the union names the keypoint states are spread over, in order.
        settings: what the ingestion was asked for.
        stages: the pipeline in order, with counts.
        code: of the reader and of the stages that the definition names, by name; empty where it was not recorded.
        plan_digest: hash of everything the shards are a function of, image bytes excepted.
        shards: the tars in order.
        num_images: images kept.
        num_instances: instances kept.
        files: SHA-256 of the tables beside the tars, by file name.
    """

    format_version: Literal[3, 4, 5] = FORMAT_VERSION
    code_version: str
    dataset: str
    split: str
    definition: DatasetDefinition
    definition_digest: str
    vocabulary: tuple[str, ...]
    settings: dict[str, Json]
    stages: tuple[StageCounts, ...]
    code: dict[str, StageCode] = {}
    plan_digest: str
    shards: tuple[ShardEntry, ...]
    num_images: int
    num_instances: int
    files: dict[str, str]

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if not self.code:
            del values["code"]  # manifests written before there was such a field keep their digest
        return values

    @cached_property
    def digest(self) -> str:
        """The dataset digest: SHA-256 of the manifest's values, as 64 hexadecimal digits.

        How the dataset is judged does not count: no label and no pixel depends on it, and what has learned from them
        need not learn again. It counted once, and a split whose manifest was written then keeps its digest.
        """
        value = self.model_dump(mode="json")
        value["definition"].pop("evaluation")
        return digest_json(value)

    @property
    def rejects(self) -> dict[str, int]:
        """Rejects by reason, over all stages."""
        totals: dict[str, int] = {}
        for stage in self.stages:
            for reason, count in stage.reasons.items():
                totals[reason] = totals.get(reason, 0) + count
        return totals


def write_manifest(folder: AnyPath, manifest: Manifest) -> None:
    """Writes ``manifest.json``; done last, it makes the split visible."""
    value = {"digest": manifest.digest, **manifest.model_dump(mode="json")}
    write_atomically(folder / MANIFEST_NAME, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_manifest(folder: AnyPath) -> Manifest:
    """Reads ``manifest.json`` and checks it against the digest it states.

    Raises:
        IntegrityError: there is none, or it was altered, or another version of the format wrote it.
    """
    path = folder / MANIFEST_NAME
    try:
        value = json.loads(read_whole(path))
    except FileNotFoundError:
        raise IntegrityError(f"{folder}: no {MANIFEST_NAME}, so no finished split is here; ingest it first.") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: not readable as JSON ({error}); ingest the split again.") from None
    if not isinstance(value, dict) or value.get("format_version") not in (3, 4, FORMAT_VERSION):
        raise IntegrityError(f"{path}: not a manifest of format version {FORMAT_VERSION}; ingest the split again.")
    stated = value.pop("digest", None)
    try:
        manifest = Manifest.model_validate(value, context=STORED)
    except ValueError as error:
        detail = " ".join(str(error).split())
        raise IntegrityError(f"{path}: not a manifest ({detail}); ingest the split again.") from None
    if manifest.digest != stated and digest_json(manifest.model_dump(mode="json")) == stated:
        manifest.__dict__["digest"] = stated  # as a cached property keeps its value
    if manifest.digest != stated:
        raise IntegrityError(f"{path}: its content does not have the digest it states; ingest the split again.")
    return manifest


def dataset_digests(stores: Mapping[str, str]) -> dict[str, str]:
    """By name of the set, the digest of its ingested split.

    Args:
        stores: by name of the set, the folder of the split.

    Raises:
        IntegrityError: see :func:`read_manifest`.
    """
    return {name: read_manifest(as_path(location)).digest for name, location in stores.items()}
