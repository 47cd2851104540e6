"""One split from raw files to shards, by whatever machines there are."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from posecore.counting import counted
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import IntegrityError
from posecore.ingest.executor import InProcess
from posecore.ingest.job import IngestJob, IngestSettings, ingest_job
from posecore.ingest.run import advice, ingest, plan_split
from posecore.ingest.verify_source import SourceReport, verify_source
from posecore.loading.precut import PrecutSettings, write_precut
from posecore.shards.manifest import Manifest, read_manifest
from posecore.shards.store import open_store
from posecore.sole_driver import sole_driver
from posecore.stages.load import load_stages
from posecore.storage import AnyPath, folder_of_machine, for_all_nodes
from posecore.workflows.machines import Machines


def ingest_split(
    machines: Machines,
    definition: DatasetDefinition,
    split: str,
    root: str | AnyPath,
    out: str | AnyPath,
    settings: IngestSettings | None = None,
    workers: int | None = None,
    precut: PrecutSettings | None = None,
) -> Manifest:
    """Ingests one split; another driver that ingests it into the same place, from any machine, is waited for.

    Args:
        machines: who does the work.
        definition: the dataset.
        split: name of the split.
        root: folder of the download; every node must reach it.
        out: shards go to ``<out>/<dataset>/<split>``; every node must reach it.
        settings: shape of the shards and depth of the examination.
        workers: shards written at a time; None takes what there is room for.
        precut: cut a picture of every body, too, for these crops.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty, too much of it is rejected, or the disk is full.
    """
    job = ingest_job(definition, split, for_all_nodes(root), for_all_nodes(out), settings or IngestSettings())
    executor = machines.ingestion(workers)
    with _alone(job):
        manifest = ingest(job, executor=executor)
        if precut is not None:
            write_precut(job.folder, precut.terms(open_store(job.folder)), executor.map)
    told = advice(manifest)
    if told is not None:
        print(told)
    return manifest


def foresee_split(
    definition: DatasetDefinition, split: str, root: str | AnyPath, out: str | AnyPath, settings: IngestSettings
) -> str:
    """What an ingestion would do, in a few lines; the annotations are read here, and nothing is written there.

    Args:
        definition: as of :func:`ingest_split`, as all others.
        split: name of the split.
        root: folder of the download.
        out: shards would go to ``<out>/<dataset>/<split>``.
        settings: shape of the shards.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty.
    """
    job = ingest_job(definition, split, for_all_nodes(root), for_all_nodes(out), settings)
    load_stages(job.definition)
    with TemporaryDirectory(prefix="posecore-") as scratch:
        plan = plan_split(job, Path(scratch), InProcess())
    images, instances = (sum(getattr(shard, name) for shard in plan.shards) for name in ("num_images", "num_instances"))
    rejected = Counter[str]()
    for count in plan.tally.counts():
        rejected.update(count.reasons)
    try:
        kept = read_manifest(job.folder).plan_digest == plan.digest
        there = "is there already and stays as it is" if kept else "is there of another plan, and would be made anew"
    except IntegrityError:
        there = "is not there yet, or not whole"
    return (
        f"source    {job.root}\n"
        f"plan      {counted(images, 'image')} and {counted(instances, 'instance')} in "
        f"{counted(len(plan.shards), 'shard')} of at most "
        f"{settings.images_per_shard}; the pictures themselves are not looked at\n"
        f"rejected  {', '.join(f'{reason}: {number}' for reason, number in sorted(rejected.items())) or 'none'}\n"
        f"stages    {', '.join(job.definition.stage_labels) or 'none'}\n"
        f"shards    {job.folder}, which {there}"
    )


def verify_split(
    machines: Machines,
    definition: DatasetDefinition,
    split: str,
    root: str | AnyPath,
    out: str | AnyPath,
    workers: int | None = None,
) -> SourceReport:
    """Runs reader and stages of one split again and compares with its shards, which are whole.

    Args:
        machines: as of :func:`ingest_split`, as all others.
        definition: the dataset.
        split: name of the split.
        root: folder of the download.
        out: where the shards are.
        workers: shards looked at at a time.

    Raises:
        IntegrityError: the shards are not what was written, or not finished.
        IngestError: the definition or the code of reader or stages has changed since, or a stage fails.
    """
    job = ingest_job(definition, split, for_all_nodes(root), for_all_nodes(out), IngestSettings())
    open_store(job.folder).verify()
    return verify_source(job, machines.ingestion(workers))


@contextmanager
def _alone(job: IngestJob) -> Iterator[None]:
    """As the only driver that writes this split."""
    locks = folder_of_machine(job.folder.parent)
    locks.mkdir(parents=True, exist_ok=True)
    split = f"{job.definition.name} {job.split}"
    lock = f".{job.split}.lock"
    with sole_driver(
        locks / lock, job.folder.parent / lock, lambda holder: print(f"{split}: waiting for another driver ({holder})")
    ):
        yield
