"""One split from raw files to shards, by whatever machines there are."""

from posecore.datasets.definition import DatasetDefinition
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import advice, ingest
from posecore.shards.manifest import Manifest
from posecore.storage import AnyPath, for_all_nodes
from posecore.workflows.machines import Machines


def ingest_split(
    machines: Machines,
    definition: DatasetDefinition,
    split: str,
    root: str | AnyPath,
    out: str | AnyPath,
    settings: IngestSettings | None = None,
    workers: int | None = None,
) -> Manifest:
    """Ingests one split.

    Args:
        machines: who does the work.
        definition: the dataset.
        split: name of the split.
        root: folder of the download; every node must reach it.
        out: shards go to ``<out>/<dataset>/<split>``; every node must reach it.
        settings: shape of the shards and depth of the examination.
        workers: shards written at a time; None takes what there is room for.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty, too much of it is rejected, or the disk is full.
    """
    job = ingest_job(definition, split, for_all_nodes(root), for_all_nodes(out), settings or IngestSettings())
    manifest = ingest(job, executor=machines.ingestion(workers))
    told = advice(manifest)
    if told is not None:
        print(told)
    return manifest
