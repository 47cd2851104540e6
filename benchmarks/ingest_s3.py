"""What does ingestion from an S3 store and back to it cost where every answer is 50 ms late, and how does it ask?

Pictures of the samples are put into a bucket of a server on loopback under many names; they are read from there and the
shards are written there, through a line that is late, and through one that is not. Requests are counted on the line.

    POSECORE_SAMPLES=<folder> python benchmarks/ingest_s3.py [--images 400] [--latency-ms 50] [--repeats 3]
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.schema import Record
from tests.support.s3_server import Line, bucket, s3_server
from tests.support.small_split import definition, write_annotations

_ANSWER = re.compile(rb"^HTTP/1\.\d (?!100)", re.MULTILINE)
_METHOD = re.compile(rb"^(GET|PUT|POST|HEAD|DELETE) /\S* HTTP", re.MULTILINE)


class CountingLine(Line):
    """Counts requests by method, and how many are unanswered at a time.

    Attributes:
        requests: by method.
        peak: most that were unanswered at a time.
    """

    def __init__(self, server: tuple[str, int], latency_s: float) -> None:
        self.requests: Counter[str] = Counter()
        self.waiting = self.peak = 0
        super().__init__(server, latency_s)

    def _asked(self, data: bytes) -> bool:
        methods = [method.decode() for method in _METHOD.findall(data)]
        self.requests.update(methods)
        self.waiting += len(methods)
        self.peak = max(self.peak, self.waiting)
        return not methods or super()._asked(data)  # what follows of a large request is not late again

    def _answered(self, data: bytes) -> bool:
        self.waiting -= len(_ANSWER.findall(data))
        return super()._answered(data)


def real_records(samples: Path, number: int) -> list[tuple[Record, bytes]]:
    """COCO's pictures with bodies, under further names until there are enough."""
    coco = read_split(load_dataset("coco"), "val", samples / "coco")
    found = [item for item in coco if isinstance(item, Record) and item.instances]
    made = []
    for place in range(number):
        record = found[place % len(found)]
        bodies = [replace(body, id=f"{place}-{body.id}") for body in record.instances]
        image = f"images/{place:05}.jpg"
        stated = {"dataset": "tiny", "split": "train", "source_id": str(place), "image": image, "instances": bodies}
        made.append((replace(record, **stated), (samples / "coco" / record.image).read_bytes()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    made = real_records(Path(os.environ["POSECORE_SAMPLES"]), options.images)
    of = definition(skeleton=load_dataset("coco").skeleton)
    settings = IngestSettings(images_per_shard=100)
    with s3_server() as server, tempfile.TemporaryDirectory() as folder:
        direct = bucket("http://{}:{}".format(*server)) / "raw"
        for record, data in made:
            (direct / record.image).write_bytes(data)
        write_annotations(direct, (record for record, _ in made))
        seconds: dict[float, list[float]] = {0.0: [], options.latency_ms: []}
        lines: dict[float, CountingLine] = {}
        for repeat in range(options.repeats):
            for latency_ms, times in seconds.items():
                line = lines[latency_ms] = CountingLine(server, latency_ms / 1000)
                top, name = bucket(line.url), f"out-{latency_ms}-{repeat}"
                started = time.perf_counter()
                manifest = ingest(ingest_job(of, "train", top / "raw", top / name, settings))
                times.append(time.perf_counter() - started)
                assert manifest.num_images == options.images
                line.cut()
        local = Path(folder)
        for record, data in made:
            (local / record.image).parent.mkdir(exist_ok=True)
            (local / record.image).write_bytes(data)
        write_annotations(local, (record for record, _ in made))
        started = time.perf_counter()
        manifest = ingest(ingest_job(of, "train", local, local / "out", settings))
        on_disk = time.perf_counter() - started
    print(
        f"{options.images} pictures, {sum(len(data) for _, data in made) / 1e6:.0f} MB, {len(manifest.shards)} shards"
    )
    print(f"disk to disk: {on_disk:.1f} s")
    for latency_ms, times in seconds.items():
        line = lines[latency_ms]
        late = options.images * latency_ms / 1000
        asked = ", ".join(f"{method} {count}" for method, count in sorted(line.requests.items()))
        print(
            f"{latency_ms:g} ms late: {statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f}), waits "
            f"one by one {late:.1f} s; requests: {asked}; at most {line.peak} unanswered at a time"
        )
    ratios = [late / prompt for late, prompt in zip(seconds[options.latency_ms], seconds[0.0], strict=True)]
    print(f"late / prompt: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
