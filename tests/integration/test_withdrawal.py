"""Infant 03 withdraws: adult model, adapted to infants by LoRA, distilled, exported; on a real server."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import adapt, distill, multidataset_train
from posecore.cli import main as posecore_command
from posecore.config import parse_config
from posecore.lineage.ancestry.pictures import Editions, find_subject, models_that_saw
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.jobs.steps import EVERYTHING
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect
from posecore.lineage.versions.tags import RegisteredVersion, get_version
from posecore.lineage.withdrawal.plan import WithdrawalPlan, plan_withdrawal
from posecore.lineage.withdrawal.record import check_chain, withdrawal_records
from posecore.synth.minirgbd_files import write_minirgbd
from posecore.synth.writers import write_dataset
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.distillation.job import DistillationJob
from posecore.workflows.without_ray import ThisProcess
from tests.support.tracking_server import TrackingServer

SIZE = [64, 48]
INFANT = "minirgbd/03"
CLASSIC = {"kind": "classic", "channels": 8}
COCO = {"name": "coco", "root": "coco", "train": "train", "evaluate": "val"}
INFANTS = {"name": "minirgbd", "root": "minirgbd", "train": "train", "evaluate": "test"}


class World:
    """A server, data, and the jobs of a laboratory.

    Attributes:
        folder: of data and runs.
        server: its address.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        write_dataset("coco", folder / "coco", num_train=6, num_val=2, image_size=(128, 128), seed=0)
        write_minirgbd(folder / "minirgbd", num_train=10, num_val=2, seed=0)

    @property
    def tracking(self) -> Tracking:
        return connect(TrackingConfig(uri=self.server, experiment="ward"), self.folder)

    def values(self, name: str, **fields: Any) -> dict[str, Any]:
        return {
            "name": name,
            "run_folder": str(self.folder / "runs" / name),
            "data_folder": str(self.folder),
            "tracking": {"uri": self.server, "experiment": "ward"},
            "ingest": {"images_per_shard": 4},
            "training": {
                "steps": 2,
                "global_batch": 4,
                "optimizer": {"layer_decay": 1.0},
                "schedule": {"kind": "cosine", "warmup_steps": 1},
                "engine": {"kind": "torch"},
                "progress": False,
            },
            "inference": {"flip_test": False, "num_threads": 1},
            **fields,
        }

    def adults(self) -> None:
        model = {"backbone": {"kind": "vit", "embed_dim": 16, "depth": 2, "num_heads": 2}, "head": CLASSIC}
        values = self.values("adults", datasets=[COCO], model={**model, "input_size": SIZE}, recipe="none")
        config = parse_config(values, multidataset_train.JobConfig, origin="test")
        multidataset_train.run(config, EVERYTHING, ThisProcess())

    def infants(self) -> None:
        values = self.values(
            "infants",
            datasets=[INFANTS, COCO],
            parent="models:/adults/1",
            target="minirgbd",
            method={"strategy": {"kind": "lora", "rank": 2}},
        )
        adapt.run(parse_config(values, AdaptationJob, origin="test"), EVERYTHING, ThisProcess())

    def student(self) -> None:
        values = self.values(
            "student",
            datasets=[COCO],
            teacher="models:/infants/1",
            student={"backbone": {"kind": "vit", "embed_dim": 8, "depth": 1, "num_heads": 2}, "head": CLASSIC,
                     "input_size": SIZE},
            method={"feature_weight": 0},
            second_stage=0,
            recipe="none",
        )  # fmt: skip
        distill.run(parse_config(values, DistillationJob, origin="test"), EVERYTHING, ThisProcess())

    def command(self, name: str, *words: str) -> int:
        return posecore_command([name, "--tracking-uri", self.server, "--folder", str(self.folder / "runs"), *words])


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ward")
    with TrackingServer(folder) as server:
        made = World(folder, server.uri)
        made.adults()
        made.infants()
        made.student()
        exported = folder / "runs" / "student.onnx"
        assert made.command("export", "models:/student/1", "--head", "coco", "--out", str(exported)) == 0
        made.tracking.client.set_registered_model_alias("infants", "champion", "1")
        yield made


def pictures(world: World) -> dict[str, tuple[str, bytes]]:
    """Digest to shard key and bytes of the infant's pictures."""
    (folder,) = (world.folder / "runs" / "infants" / "shards").glob("minirgbd/minirgbd/train")
    bodies = pq.read_table(folder / "index.parquet").to_pylist()
    images = pq.read_table(folder / "images.parquet").to_pylist()
    wanted = {body["image_row"] for body in bodies if body["subject_id"] == "03"}
    found = {}
    for row in sorted(wanted):
        path = world.folder / "minirgbd" / images[row]["image"]
        found[images[row]["digest"]] = (images[row]["key"], path.read_bytes())
    return found


def files_with(world: World, shown: dict[str, tuple[str, bytes]]) -> set[Path]:
    """Every file of runs and of the server, its database excepted, that has a picture's bytes, digest or name."""
    found = set()
    for root in (world.folder / "runs", world.folder / "artifacts"):
        for path in root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                if path.suffix == ".parquet":
                    data = json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
                for digest, (key, image) in shown.items():
                    digits = digest.removeprefix("blake3-").encode()
                    if any(x in data for x in (digits, image, base64.b64encode(image), key.encode())):
                        found.add(path)
    return found


def planned(world: World) -> tuple[LineageGraph, WithdrawalPlan]:
    graph = LineageGraph.load(world.tracking)
    editions = Editions.of(graph)
    found = find_subject(editions, INFANT)
    return graph, plan_withdrawal(world.tracking, graph, editions, found, INFANT, ("minirgbd", "03"))


def test_infant_03_withdraws(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = pictures(world)
    assert shown
    graph, plan = planned(world)
    assert plan.unknown == []
    assert {graph.name(node) for node in plan.versions} == {"infants version 1", "student version 1"}
    assert [step.step for step in plan.again] == ["train", "stage1", "export"]
    assert plan.aliases.keys() == {("infants", "champion")}
    nearest = {graph.name(cut.version): graph.name(cut.ancestor) for cut in plan.shortcuts if cut.ancestor is not None}
    assert nearest["infants version 1"] == "adults version 1"

    listed = [Path(item.place) for item in plan.items if "://" not in item.place]
    server = world.folder / "artifacts"
    for item in plan.items:
        if "://" in item.place:
            listed.append(server / item.place.partition(":/")[2].lstrip("/"))
    missing = {
        path for path in files_with(world, shown) if not any(place == path or place in path.parents for place in listed)
    }
    assert missing == set()
    kinds = {item.kind for item in plan.items}
    assert {"shard", "table", "checkpoint", "model", "working copy", "adapter", "export", "registered files"} <= kinds
    assert all(item.size_bytes > 0 for item in plan.items if item.kind in ("shard", "export", "registered files"))

    before = {path: path.stat().st_mtime_ns for path in (world.folder / "runs").rglob("*") if path.is_file()}
    assert world.command("withdraw", "--subject", INFANT) == 0
    told = capsys.readouterr().out
    assert "nothing was changed" in told
    assert str(world.folder / "runs" / "student.onnx") in told
    assert {path: path.stat().st_mtime_ns for path in before} == before

    assert world.command("lineage", "show", "models:/infants@champion", "--html", str(tmp_path / "graph.html")) == 0
    page = (tmp_path / "graph.html").read_text()
    for told in (str(world.folder / "minirgbd"), "adults version 1", "infants@champion", "student version 1", "stage1"):
        assert told in page

    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    command = ["withdraw", "--subject", INFANT, "--reason", "mother, letter of 2026-11-29", "--key", str(key)]
    assert world.command(*command, "--apply") == 0, capsys.readouterr().out
    capsys.readouterr()
    left = {path for path in files_with(world, shown) if path.name not in ("withdrawal.json", "withdrawn.json")}
    assert left == set()
    assert get_version(world.tracking, "infants", 1).aliases == []
    assert "withdrawn" in get_version(world.tracking, "student", 1).tags
    records = withdrawal_records(world.tracking)
    assert check_chain(records, b"0123456789abcdef") == []

    world.infants()
    graph = LineageGraph.load(world.tracking)
    assert (
        get_version(world.tracking, "infants", 2).tags["sha256"]
        != get_version(world.tracking, "infants", 1).tags["sha256"]
    )
    capsys.readouterr()
    assert world.command("certify", "models:/infants/2", "--never-saw", INFANT) == 0
    said = capsys.readouterr().out
    assert "models:/infants/2 has never seen minirgbd/03" in said
    assert "not in minirgbd/train" in said
    for model in ("infants", "student"):
        assert world.command("certify", f"models:/{model}@1", "--never-saw", INFANT) == 1
        said = capsys.readouterr().out
        assert f"models:/{model}/1 has seen minirgbd/03" in said
        assert "in minirgbd/train" in said
        assert "trained on infants version 1" in said
    answer = models_that_saw(graph, find_subject(Editions.of(graph), "minirgbd/04"))
    assert RegisteredVersion("infants", 2) in {
        graph.versions[seen.model].version for seen in answer.sightings if seen.model in graph.versions
    }
    capsys.readouterr()
    assert world.command("lineage", "subject", INFANT) == 0
    assert "student version 1: training on minirgbd/train" in capsys.readouterr().out
    assert world.command("lineage", "subject", "minirgbd/33") == 2
    quarantine = world.folder / "runs/infants/shards/minirgbd/minirgbd/train/quarantine.parquet"
    assert "subject 03 is among those to take out: mother, letter of 2026-11-29." in {
        row["detail"] for row in pq.read_table(quarantine).to_pylist()
    }
