"""How long does a question to the lineage of many versions and pictures take, and how long in another build?

Writes a SQLite store with a chain of versions, each trained on one of twenty splits of made-up rows and with the run
that trained it, and asks what somebody would ask, each question from the beginning: the record is read again every
time. The splits are written, and the questions asked, by each build itself, in a process of its own; the store is one
and the same but for the digests and places of the splits. Prints processor seconds and seconds by the clock, medians.

    python benchmarks/lineage.py [--versions 1000] [--pictures 1000000] [--repeats 3] [--against FOLDER]
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPLITS, SUBJECTS = 20, 500
ASKED = 7
"""Of this split a picture and a subject are asked about."""


def make_splits(folder: Path, pictures: int) -> None:
    """Writes tables and manifests of all splits, without tars; prints name to digest and place."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from posecore.shards.index import IMAGE_SCHEMA
    from posecore.shards.manifest import Manifest, write_manifest
    from posecore.storage import sha256_of
    from tests.support.tiny_store import write_store

    each, found = pictures // SPLITS, {}
    for number in range(SPLITS):
        name = f"set-{number:02d}"
        manifest = write_store(folder / "tiny" / name, name, [1]).manifest
        tables = {path.name: pq.read_schema(path) for path in (folder / "tiny" / name).rglob("*.parquet")}
        split = folder / name / "train"
        split.mkdir(parents=True)
        for file in ("images.parquet", "index.parquet"):
            schema = IMAGE_SCHEMA if file == "images.parquet" else tables[file]
            pq.write_table(rows(pa, schema, number, each), split / file, compression="zstd", row_group_size=5000)
        files = {file: sha256_of(split / file) for file in ("images.parquet", "index.parquet")}
        changes = {"num_images": each, "num_instances": each, "files": files}
        made = Manifest(**({field: getattr(manifest, field) for field in Manifest.model_fields} | changes))
        write_manifest(split, made)
        found[name] = [made.digest, str(split)]
    print(json.dumps(found))


def rows(pa: Any, schema: Any, number: int, count: int) -> Any:
    """A table of one body to a picture, of five hundred people in turn."""
    at = range(count)
    given = {
        "key": [f"{row:012d}" for row in at],
        "source_id": [f"{row:012d}" for row in at],
        "image": [f"{row}.jpg" for row in at],
        "digest": [f"blake3-{number * count + row:064x}" for row in at],
        "sha256": [f"{number * count + row:064x}" for row in at],
        "image_xxh3": [number * count + row + 1 for row in at],
        "subject_id": [f"s-{row % SUBJECTS}" for row in at],
        "license": [f"CC-BY{'-NC' if row % 3 else ''}-2.0" for row in at],
        "shard": [row // 1000 for row in at],
        "is_crowd": [False] * count,
    }
    columns = {}
    for field in schema:
        if field.name in given:
            columns[field.name] = pa.array(given[field.name], field.type)
        elif field.nullable or pa.types.is_nested(field.type):
            columns[field.name] = pa.nulls(count, field.type)
        else:
            columns[field.name] = pa.array(["x"] * count if pa.types.is_string(field.type) else [0] * count, field.type)
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    return pa.table(columns, schema=nullable)


def make_store(folder: Path, versions: int, splits: dict[str, list[str]]) -> None:
    """Writes the record: a chain of versions and the runs that made them."""
    from posecore.lineage.jobs.contents import Made, making_tags, reading_tags
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.dataset_inputs import DatasetUse, log_dataset_inputs

    tracking = connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder)
    client = tracking.client
    client.create_registered_model("m")
    for number in range(versions):
        name = f"set-{number % SPLITS:02d}"
        digest, place = splits[name]
        weights = f"{number + 1:064x}"
        use = DatasetUse(name=name, split="train", digest=digest, role="training", location=place, license="CC-BY-4.0")
        tags = {"posecore.kind": "step", "posecore.step": "train", "posecore.code": f"{number % 50:064x}"}
        tags |= reading_tags([digest, f"{number:064x}"]) | making_tags("r", [Made("weights", weights, f"/m/{number}")])
        run = tracking.start_run("train", tags)
        log_dataset_inputs(run, [use])
        run.end()
        own = {"dataset.training." + use.label: use.model_dump_json(), "sha256": weights, "run_id": run.run_id}
        if number:
            own["parent"] = f"models:/m/{number}"
        client.create_model_version("m", "file:///nowhere", run_id=run.run_id, tags=own)


def moved(store: Path, target: Path, here: dict[str, list[str]], there: dict[str, list[str]]) -> None:
    """A copy of the store that names the other build's splits."""
    shutil.copy(store, target)
    with sqlite3.connect(target) as database:
        for name, (digest, place) in here.items():
            for old, new in ((digest, there[name][0]), (place, there[name][1])):
                database.execute("UPDATE model_version_tags SET value = REPLACE(value, ?, ?)", (old, new))
                database.execute("UPDATE tags SET value = REPLACE(value, ?, ?)", (old, new))
                database.execute("UPDATE datasets SET dataset_source = REPLACE(dataset_source, ?, ?)", (old, new))


def questions(folder: Path, pictures: int) -> dict[str, Callable[[], int]]:
    """What is asked, with how many models an answer names; this build's own way of asking."""
    from posecore.lineage.ancestry.query import LineageGraph
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.tags import RegisteredVersion

    tracking = connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder)
    picture = f"{ASKED * (pictures // SPLITS) + 11:064x}"
    last = RegisteredVersion("m", 10**9)

    def graph() -> Any:
        nonlocal last
        found = LineageGraph.load(tracking)
        known = found.models if hasattr(found, "sightings") else [each.version for each in found.versions.values()]
        last = max(known, key=lambda version: version.version)
        return found

    if hasattr(LineageGraph, "of_image"):  # the build of November 26

        def distinct(seen: Any) -> int:
            return len({each.model for each in seen})

        return {
            "dataset": lambda: distinct(graph().of_dataset(f"set-{ASKED:02d}")),
            "picture": lambda: distinct(graph().of_image(picture).sightings),
            "subject": lambda: distinct(graph().of_subject("s-3").sightings),
            "licence": lambda: distinct(graph().of_license("not stated")),
            "model": lambda: len(graph().training_data(last)),
        }

    from posecore.lineage.ancestry import questions as asked
    from posecore.lineage.ancestry.permissions import verdicts
    from posecore.lineage.ancestry.pictures import Editions, find_picture, find_subject, models_that_saw
    from posecore.lineage.withdrawal.certificate import asked_about, certify

    def saw(find: Callable[..., Any], name: str) -> int:
        found = graph()
        return len(models_that_saw(found, find(Editions.of(found), name)).sightings)

    def allowed() -> int:
        found = graph()
        return sum(len(verdict.objections) for verdict in verdicts(found, found.weights_node(last), ("commercial",)))

    def certified() -> int:
        found = graph()
        editions = Editions.of(found)
        about = asked_about(editions, [], f"set-{ASKED:02d}/s-3", picture=False)
        return len(certify(found, editions, [], RegisteredVersion("m", ASKED), about).proof)

    def licensed() -> int:
        found = graph()
        return len(asked.of_license(found, Editions.of(found), "CC-BY-NC-2.0").sightings)

    return {
        "dataset": lambda: len(graph().of_dataset(f"set-{ASKED:02d}").sightings),
        "picture": lambda: saw(find_picture, f"blake3-{picture}"),
        "subject": lambda: saw(find_subject, f"set-{ASKED:02d}/s-3"),
        "licence": licensed,
        "model": lambda: len((lambda found: found.training_data(last))(graph())),
        "may be used commercially": allowed,
        "certificate": certified,
        "code": lambda: len(asked.of_code(graph(), f"{7:064x}").sightings),
    }


def ask(folder: Path, pictures: int, repeats: int) -> None:
    """Prints each question's answer, processor seconds and seconds, medians."""
    found = {}
    for name, question in questions(folder, pictures).items():
        times, answer = [], 0
        for _ in range(repeats):
            began = time.process_time(), time.perf_counter()
            answer = question()
            times.append((time.process_time() - began[0], time.perf_counter() - began[1]))
            if times[-1][1] > 60:
                break
        found[name] = [answer, *(statistics.median(column) for column in zip(*times, strict=True))]
    print(json.dumps(found))


def in_build(code: Path, *words: str) -> Any:
    """What this script prints in a process that runs the code of a folder."""
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run([sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, help="checkout of another build")
    parser.add_argument("--keep", type=Path, help="folder for store and splits; what is in it is not made again")
    parser.add_argument("--part", choices=("splits", "ask"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "splits":
        make_splits(options.folder, options.pictures)
    elif options.part == "ask":
        ask(options.folder, options.pictures, options.repeats)
    elif options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        compare(options, options.keep)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            compare(options, Path(scratch))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Makes what is not there, asks each build, prints the table."""
    builds = {"this build": Path(__file__).resolve().parents[1]}
    builds |= {} if options.against is None else {"the other": options.against.resolve()}
    places, size = {name: folder / name.replace(" ", "-") for name in builds}, str(options.pictures)
    for name, place in places.items():
        if not (place / "splits.json").exists():
            place.mkdir()
            splits = in_build(builds[name], "--part", "splits", "--folder", str(place), "--pictures", size)
            (place / "splits.json").write_text(json.dumps(splits))
    splits = {name: json.loads((place / "splits.json").read_text()) for name, place in places.items()}
    own, *others = places
    if not (places[own] / "whole").exists():
        make_store(places[own], options.versions, splits[own])
        (places[own] / "whole").touch()
    for other in others:
        moved(places[own] / "mlflow.db", places[other] / "mlflow.db", splits[own], splits[other])
    words = ("--pictures", size, "--repeats", str(options.repeats))
    found = {name: in_build(builds[name], "--part", "ask", "--folder", str(places[name]), *words) for name in builds}
    print("| question | " + " | ".join(f"{name}: models | processor s | s" for name in builds) + " |")
    for question in found[own]:
        cells = [found[name].get(question) for name in builds]
        told = (f"{cell[0]} | {cell[1]:.2f} | {cell[2]:.2f}" if cell else "– | – | –" for cell in cells)
        print(f"| {question} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
