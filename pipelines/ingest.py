#!/usr/bin/env python
"""Ingest: raw dataset → shards, index and manifest, one Ray Data task per planned shard.

::

    python pipelines/ingest.py --dataset coco --split train --root /data/coco --out /data/shards

Any path may be an fsspec URL. Run it again to continue after an interruption, to repair damaged shards, or to see in
seconds that everything is whole. The shards are the same, byte for byte, for any number of workers.
"""

import argparse
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from tqdm import tqdm

from pipelines.cluster import connect_to_ray, for_all_nodes, quiet_ray_data
from pipelines.endings import exit_status
from posecore.config import Config, parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import IngestError, PoseCoreError
from posecore.ingest.plan import IngestJob, IngestSettings, PlannedShard, ingest_job
from posecore.ingest.run import advice, ingest
from posecore.ingest.stage_code import foreign_code
from posecore.ingest.write import WrittenShard, write_shard
from posecore.shards.manifest import Manifest
from posecore.storage import AnyPath, as_path


class IngestConfig(Config):
    """One split to ingest.

    Attributes:
        dataset: name of a dataset definition, or the path of a ``dataset.yaml``.
        split: name of the split.
        root: folder of the download, local or any fsspec URL.
        out: shards go to ``<out>/<dataset>/<split>``.
        settings: shape of the shards and depth of the examination.
        workers: shards written at a time; None takes what the cluster has.
    """

    dataset: str
    split: str
    root: str
    out: str
    settings: IngestSettings = IngestSettings()
    workers: int | None = None


def ingest_split(
    definition: DatasetDefinition,
    split: str,
    root: str | AnyPath,
    out: str | AnyPath,
    settings: IngestSettings | None = None,
    workers: int | None = None,
) -> Manifest:
    """Ingests one split on the Ray cluster this process is connected to (a local one is started if there is none).

    Args:
        definition: the dataset.
        split: name of the split.
        root: folder of the download; every node must reach it.
        out: shards go to ``<out>/<dataset>/<split>``; every node must reach it.
        settings: shape of the shards and depth of the examination.
        workers: shards written at a time; None takes what the cluster has.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty, too much of it is rejected, or the disk is full.
    """
    source, target = for_all_nodes(root), for_all_nodes(out)
    job = ingest_job(definition, split, source, target, settings or IngestSettings())

    def on_ray(job: IngestJob, shards: tuple[PlannedShard, ...]) -> Iterator[WrittenShard]:
        return _write_on_ray(job, shards, workers)

    manifest = ingest(job, read_split(definition, split, source), on_ray)
    told = advice(manifest)
    if told is not None:
        print(told)
    return manifest


def _write_on_ray(job: IngestJob, shards: tuple[PlannedShard, ...], workers: int | None) -> Iterator[WrittenShard]:
    connect_to_ray()
    quiet_ray_data()
    plan = [{"shard": pickle.dumps(shard)} for shard in shards]
    written = (
        ray.data.from_items(plan, override_num_blocks=len(plan))
        .map(_shard_writer(job), num_cpus=1, concurrency=workers)
        .iter_rows()
    )
    planned = sum(len(shard.records) for shard in shards)
    with tqdm(total=planned, unit="img", desc=f"ingest {job.definition.name} {job.split}") as bar:
        for row in written:
            if row["error"]:
                raise IngestError(row["error"])
            shard: WrittenShard = pickle.loads(row["shard"])
            bar.update(len(shards[shard.number].records))
            yield shard


def _shard_writer(job: IngestJob) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What a worker runs for one planned shard. A deliberate error travels as text: raised, Ray would bury it."""

    def write(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"shard": pickle.dumps(write_shard(job, pickle.loads(row["shard"]))), "error": ""}
        except PoseCoreError as error:
            return {"shard": b"", "error": str(error)}

    return write


def main(arguments: Sequence[str] | None = None) -> int:
    """Ingests the split named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="name of a dataset definition, or path of a dataset.yaml")
    parser.add_argument("--split", required=True)
    parser.add_argument("--root", required=True, help="folder of the download, local or an fsspec URL")
    parser.add_argument("--out", required=True, help="shards go to <out>/<dataset>/<split>")
    parser.add_argument("--workers", type=int, help="shards written at a time; default: what the cluster has")
    parser.add_argument("--images-per-shard", type=int, default=IngestSettings().images_per_shard)
    parser.add_argument("--decode", choices=("header", "full"), default=IngestSettings().decode)
    options = parser.parse_args(arguments)

    def job() -> None:
        values = {name: value for name, value in vars(options).items() if name not in ("images_per_shard", "decode")}
        settings = {"images_per_shard": options.images_per_shard, "decode": options.decode}
        config = parse_config({**values, "settings": settings}, IngestConfig, origin="command line")
        definition = load_dataset(config.dataset)
        if not (as_path(config.out) / definition.name / config.split).exists():  # a definition that is new here
            for line in foreign_code(definition):
                print(f"code      {definition.name} runs {line}", file=sys.stderr, flush=True)
        manifest = ingest_split(
            definition, config.split, config.root, config.out, config.settings, workers=config.workers
        )
        rejects = ", ".join(f"{reason}: {count}" for reason, count in sorted(manifest.rejects.items())) or "none"
        print(
            f"{manifest.dataset} {manifest.split}: {manifest.num_images} images, {manifest.num_instances} instances in "
            f"{len(manifest.shards)} shards; rejected: {rejects}\ndigest {manifest.digest}"
        )

    return exit_status(job)


if __name__ == "__main__":
    sys.exit(main())
