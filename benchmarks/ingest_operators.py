"""What does it cost to hand pictures from one Ray operator to the next, beside one operator that does everything?

The same pictures pass a stage that looks at each and changes none (``orient``), on a local Ray: by one operator that
reads, runs the stage and writes, and by three, one for each. Where each of the three reserves a core, Ray has one task
do the work of all, which is how stages of the processor usually run; where each reserves another share of a core, as
beside a stage on a GPU, they are apart. In interleaved repetitions; processor time is that of all processes of the
cluster.

    POSECORE_SAMPLES=<folder> python benchmarks/ingest_operators.py --images 600 --repeats 3
"""

import argparse
import functools
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.ingest import replicate
from posecore.cluster import ingestion
from posecore.cluster.connection import connect_to_ray
from posecore.datasets.definition import StageEntry, StageResources
from posecore.datasets.discovery import load_dataset
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.plan import Plan
from posecore.ingest.run import ingest

OPERATORS = ingestion._operators


def one_operator(plan: Plan) -> list[ingestion._Operator]:
    """All of it."""
    work = ingestion._guarded(functools.partial(ingestion._write_whole, plan), plan.job)
    return [ingestion._Operator(ingestion._named("write_shard", work), StageResources())]


def three_operators(shares: tuple[float, ...], plan: Plan) -> list[ingestion._Operator]:
    """As ingestion has them, reserving such shares of a core."""
    return [
        replace(operator, resources=StageResources(num_cpus=share))
        for operator, share in zip(OPERATORS(plan), shares, strict=True)
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
    contestants = {
        "one operator": one_operator,
        "three in one task": functools.partial(three_operators, (1.0, 1.0, 1.0)),
        "three apart": functools.partial(three_operators, (1.0, 0.9, 0.8)),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory(prefix="posecore-bench-") as folder:
        root = Path(folder)
        records = replicate(Path(os.environ["POSECORE_SAMPLES"]) / "coco", root, options.images)
        settings = IngestSettings(images_per_shard=options.images_per_shard)
        definition = load_dataset("coco")
        definition = definition.model_copy(update={"stages": (*definition.stages, StageEntry(stage="orient"))})
        made = []
        for repeat in range(options.repeats + 1):  # the first starts processes
            for name, operators in contestants.items():
                ingestion._operators = operators
                start, busy = time.perf_counter(), processor_seconds()
                job = ingest_job(definition, "train", root, root / "out", settings)
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
