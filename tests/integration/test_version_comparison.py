"""``posecore compare`` on a real store: what differs between two versions, down to pictures, and what came of it."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from posecore.cli import main as posecore_command
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.pictures import Editions, find_subject
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.code.snapshot import FOLDER, INSTALLED_FILE, record_code
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.parameters import flat_parameters
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse, Role
from posecore.lineage.versions.difference import compare_versions
from posecore.lineage.versions.tags import EvaluationResult, RegisteredVersion
from posecore.lineage.withdrawal.plan import plan_withdrawal
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.shards.store import ShardStore
from posecore.skeletons.library import load_skeleton
from posecore.storage import sha256_of
from tests.support.browser import opened
from tests.support.tiny_store import instance, record, write_store


def _store(folder: Path, rows: list[int]) -> ShardStore:
    """A picture for each row, with one body; two pictures to a subject."""
    boxes = {row: (5.0 + 3 * row, 8.0 + 3 * row, 60.0, 80.0) for row in rows}
    records = [record("coco", row, [instance(f"{row}", 17, boxes[row], subject_id=f"s{row // 2}")]) for row in rows]
    (folder / "raw" / "coco").mkdir(parents=True)
    for row in rows:
        pixels = np.random.default_rng(row).integers(0, 256, (120, 160, 3), np.uint8)
        cv2.imwrite(str(folder / "raw" / "coco" / f"{row}.png"), pixels)
    return write_store(folder, "coco", [], records=records)


def _use(store: ShardStore, role: Role, **fields: object) -> DatasetUse:
    values = {"name": "coco", "split": "train", "digest": store.manifest.digest, "location": str(store.location)}
    return DatasetUse.model_validate({**values, "role": role, "license": "CC0-1.0", **fields})


def _version(tracking: Tracking, folder: Path, seed: int, uses: list[DatasetUse], judged: str) -> RegisteredVersion:
    """A model of its own weights, submitted with what is installed here; of the second, one package is older."""
    submission = tracking.start_run("job", {"posecore.kind": "workflow"})
    record_code(submission)
    if seed:
        installed = submission.read_file(f"{FOLDER}/{INSTALLED_FILE}").decode()
        (folder / INSTALLED_FILE).write_text(re.sub(r"^numpy==.*$", "numpy==1.0", installed, flags=re.MULTILINE))
        submission.log_file(folder / INSTALLED_FILE, FOLDER)
    torch.manual_seed(seed)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    model = save_model(build_model(config, {"people": load_skeleton("coco17")}), folder / str(seed))
    return register_model(
        tracking.start_run("register", {}, parent_run_id=submission.run_id),
        "pose",
        Path(str(model)),
        uses,
        [EvaluationResult(name="infants", digest=judged, metrics={"AP": 0.1})],
        parameters=flat_parameters({"lr": 0.1 / (1 + seed), "datasets": [{"name": "infants", "head": "people"}]}),
    )


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracking, RegisteredVersion, RegisteredVersion]:
    folder = tmp_path_factory.mktemp("compare")
    tracking = connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder)
    judged, old, new = (
        _store(folder / name, rows)
        for name, rows in (("judged", [0, 1, 2, 3, 4, 5]), ("old", [6, 7, 8]), ("new", [7, 8, 9, 10]))
    )
    made = [
        _version(
            tracking,
            folder,
            seed,
            [_use(data, "training"), _use(judged, "evaluation", split="val")],
            judged.manifest.digest,
        )
        for seed, data in enumerate((old, new))
    ]
    return tracking, made[0], made[1]


def test_what_differs_is_named_down_to_the_picture(
    versions: tuple[Tracking, RegisteredVersion, RegisteredVersion],
) -> None:
    found = compare_versions(*versions)
    assert [(each.name, each.first, each.second) for each in found.parameters] == [("lr", "0.1", "0.05")]
    (package,) = found.packages
    assert (package.name, package.second) == ("numpy", "1.0")
    (data,) = found.data
    assert (data.label, data.role) == ("coco/train", "training")
    assert re.search(r": 2 pictures added, 1 removed, of 3$", data.said)
    assert (len(data.added), len(data.removed)) == (2, 1)
    edited = "changes that were not committed"  # while this is tested, perhaps
    assert {each.name for each in found.code} - {edited} == {"SHA-256 of the weights"}
    assert not found.unknown
    assert not compare_versions(versions[0], versions[1], versions[1]).data


def test_the_page_shows_both_on_the_same_bodies(
    versions: tuple[Tracking, RegisteredVersion, RegisteredVersion], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "comparison.html"
    asked = ["compare", "models:/pose@1", "models:/pose/2", "--tracking-uri", versions[0].uri, "--out", str(page)]
    assert posecore_command(asked) == 0
    said = capsys.readouterr().out
    assert re.search(r"infants: mean error, of the box  [\d.]+ % \[[\d.]+, [\d.]+\]  .*  [+-][\d.]+ \[", said)
    assert re.search(r"infants: AP  [\d.]+ .*  [+-]?[\d.]+", said)
    assert "settings: lr  0.1 → 0.05" in said
    text = page.read_text()
    assert "Intervals of 3 subjects drawn anew" in text
    assert text.count("<figure>") == 6, "every body moved one way or the other"
    assert "In torso lengths, by subject" in text
    assert posecore_command([*asked[:2], "models:/pose@1", *asked[3:], "--no-predictions"]) == 0
    assert "<figure>" not in page.read_text()


def test_who_withdraws_is_told_of_a_page_by_its_content(
    versions: tuple[Tracking, RegisteredVersion, RegisteredVersion], tmp_path: Path
) -> None:
    page = tmp_path / "comparison.html"
    asked = ["compare", "models:/pose@1", "models:/pose/2", "--tracking-uri", versions[0].uri, "--out", str(page)]
    assert posecore_command([*asked, "--no-predictions"]) == 0
    graph = LineageGraph.load(versions[0])
    editions = Editions.of(graph)
    plan = plan_withdrawal(versions[0], graph, editions, find_subject(editions, "coco/s0"), "coco/s0", ("coco", "s0"))
    found = {item.place: item for item in plan.items if item.kind == "report"}
    assert found[str(page)].node == Node("report", sha256_of(page))
    assert found[str(page)].holds
    assert plan.again == [], "nothing is made from a page"


def test_what_cannot_be_compared_is_said(
    versions: tuple[Tracking, RegisteredVersion, RegisteredVersion], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking, first, _ = versions
    folder = tmp_path / "other"
    folder.mkdir()
    gone = DatasetUse(name="coco", split="train", digest="a" * 64, role="training", location="", license="CC0-1.0")
    other = _version(tracking, folder, 2, [gone], "b" * 64)
    asked = ["compare", first.uri, other.uri, "--tracking-uri", tracking.uri, "--out", str(tmp_path / "page.html")]
    assert posecore_command(asked) == 1
    said = capsys.readouterr().out
    assert "which pictures cannot be said (the record names no place)" in said
    assert "unknown: infants (bbbbbbbbbbbb) was not compared: the record does not say where its shards are." in said


def test_the_page_opens_in_a_browser(
    versions: tuple[Tracking, RegisteredVersion, RegisteredVersion], tmp_path: Path
) -> None:
    page = tmp_path / "comparison.html"
    asked = ["compare", "models:/pose@1", "models:/pose@2", "--tracking-uri", versions[0].uri, "--out", str(page)]
    assert posecore_command([*asked, "--pictures", "1", "--no-flip-test"]) == 0
    with opened(page, tmp_path / "profile") as driver:
        shown = driver.find_elements("css selector", "figure img")
        assert len(shown) > 0
        assert all(driver.execute_script("return arguments[0].naturalWidth", image) > 300 for image in shown)
        assert not driver.get_log("browser")
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
