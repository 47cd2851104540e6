"""What does it cost to hand pictures from one Ray operator to the next, beside one operator that does everything?

The same pictures are ingested on a local Ray by one operator, and by three: one fetches, one hands on what it is given
as a stage would, one writes. Where each reserves a core, Ray has one task do the work of all, which is how stages of
the processor usually run; where each reserves another share of a core, as beside a stage on a GPU, they are apart. In
interleaved repetitions; processor time is that of all processes of the cluster.

    POSECORE_SAMPLES=<folder> python benchmarks/ingest_operators.py --images 600 --repeats 3
"""

import argparse
import functools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa

from benchmarks.ingest import replicate
from posecore.cluster import ingestion
from posecore.cluster.connection import connect_to_ray
from posecore.cluster.shard_block import number_of, pictures_of, staged, tally_of
from posecore.datasets.definition import StageResources
from posecore.datasets.discovery import load_dataset
from posecore.ingest.job import IngestJob, IngestSettings, ingest_job
from posecore.ingest.plan import Plan
from posecore.ingest.run import ingest


def hand_on(job: IngestJob, block: pa.Table) -> pa.Table:
    """What a stage costs that changes nothing."""
    return staged(number_of(block), pictures_of(block, job), job, tally_of(block))


def three_operators(shares: tuple[float, ...], plan: Plan) -> list[ingestion._Operator]:
    """Fetch, a stage, write, which reserve such shares of a core."""
    works = (
        ("fetch", functools.partial(ingestion._fetch, plan)),
        ("stage", functools.partial(hand_on, plan.job)),
        ("write", functools.partial(ingestion._write_content, plan)),
    )
    return [
        ingestion._Operator(ingestion._named(name, ingestion._guarded(work, plan.job)), StageResources(num_cpus=share))
        for (name, work), share in zip(works, shares, strict=True)
    ]


def processor_seconds() -> float:
    """Of this process and all it has started, ended ones included."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--images-per-shard", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    connect_to_ray()
    fused = ingestion._operators
    contestants = {
        "one operator": fused,
        "three in one task": functools.partial(three_operators, (1.0, 1.0, 1.0)),
        "three apart": functools.partial(three_operators, (1.0, 0.9, 0.8)),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory(prefix="posecore-bench-") as folder:
        root = Path(folder)
        records = replicate(Path(os.environ["POSECORE_SAMPLES"]) / "coco", root, options.images)
        settings = IngestSettings(images_per_shard=options.images_per_shard)
        made = []
        for repeat in range(options.repeats + 1):  # the first starts processes
            for name, operators in contestants.items():
                ingestion._operators = operators
                start, busy = time.perf_counter(), processor_seconds()
                job = ingest_job(load_dataset("coco"), "train", root, root / "out", settings)
                made.append(ingest(job, records, ingestion.OnRay()).digest)
                if repeat:
                    runs[name].append((time.perf_counter() - start, processor_seconds() - busy))
                shutil.rmtree(root / "out")
        assert len(set(made)) == 1, "all write the same"
    for name, of in runs.items():
        wall, cpu = (statistics.median(run[i] for run in of) for i in (0, 1))
        busy = 1e6 * cpu / options.images
        print(f"{name:18s} {options.images / wall:7.0f} images/s {busy:7.0f} us of processor per image")
    one = runs.pop("one operator")
    for name, of in runs.items():
        for place, what in enumerate(("clock", "processor")):
            ratios = [b[place] / a[place] for a, b in zip(one, of, strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{name} / one by the {what}: {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
