"""``posecore labels`` on a small ingested set: statistics, suspicious labels with pictures, corrections, a prior."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from posecore.cli import main
from posecore.evaluation.label_losses import save_label_losses
from posecore.labels.proportions import BodyStatistics
from posecore.methods.pose_manifold import load_manifold
from posecore.schema import Instance
from posecore.shards.corrections import read_corrections
from posecore.shards.store import ShardStore, open_store
from tests.support.synthetic_bodies import synthetic_bodies
from tests.support.tiny_store import record, write_store

WRIST, ELBOW = 9, 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """Infants, every tenth of whom has a wrist far from its arm."""
    records = []
    for number, (points, labelled) in enumerate(zip(*synthetic_bodies("infant", 100), strict=True)):
        keypoints = np.concatenate([points, 2 * labelled[:, None]], axis=1).astype(np.float32)
        if number % 10 == 0 and labelled[[WRIST, ELBOW]].all():
            keypoints[WRIST, :2] += 4 * (keypoints[WRIST, :2] - keypoints[ELBOW, :2])
        keypoints[~labelled] = 0
        body = Instance(id=str(number), bbox_xywh=(0, 0, 96, 96), keypoints=keypoints, area=9216, area_rule="box")
        records.append(record("infants", number, [body]))
    return write_store(tmp_path_factory.mktemp("infants"), "infants", [], records=records)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_statistics_name_their_labels(store: ShardStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "infants.json"
    assert main(["labels", "learn", str(store.location), "--out", str(path)]) == 0
    assert "19 bones" in capsys.readouterr().out
    statistics = BodyStatistics.load(path)
    assert (statistics.skeleton, statistics.dataset) == ("coco17", "infants train")
    assert statistics.digest == store.manifest.digest


def test_wrong_wrists_are_listed_shown_and_dropped(
    store: ShardStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check"
    command = ["labels", "check", str(store.location), "--out", str(out), "--energy", "2", "--num", "5", "--drop-noisy"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "suspicious labels" in told
    listed = rows(out / "suspicious_labels.csv")
    worst = [row for row in listed[:6] if row["point"] == "left_wrist" and int(row["instance_id"]) % 10 == 0]
    assert len(worst) >= 3
    assert "times its usual length" in worst[0]["reason"]
    assert (out / "index.html").stat().st_size > 10_000
    assert (out / "contact_sheet.png").exists()
    corrections = read_corrections(str(out / "corrections.json"))
    assert corrections.num_points == len(listed)
    assert corrections.made_by["check"] == "proportions"
    corrected = open_store(store.location, corrections=corrections)
    before, after = (int(np.sum(s.instances["num_labelled"].to_numpy())) for s in (store, corrected))
    assert before - after == len(listed)
    again = ["labels", "check", str(store.location), "--corrections", str(out / "corrections.json"), "--energy", "3"]
    assert main([*again, "--out", str(tmp_path / "again"), "--drop-noisy"]) == 0
    assert len(rows(tmp_path / "again" / "suspicious_labels.csv")) < len(listed)
    assert read_corrections(str(tmp_path / "again" / "corrections.json")).num_points >= len(listed)


def test_losses_of_a_training_are_read(store: ShardStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled = np.stack([store.read_record(row).instances[0].keypoints[:, 2] > 0 for row in range(100)])
    wrong = np.random.default_rng(0).random((100, 17)) < 0.1
    for step in range(8):
        curve = np.where(wrong, 1.0 + 0.01 * step, 0.1 + np.exp(-step / 2))
        save_label_losses(tmp_path, step, np.where(labelled, curve, np.nan).astype(np.float32), store)
    out = tmp_path / "out"
    command = ["labels", "losses", str(store.location), str(tmp_path), "--out", str(out), "--num", "2"]
    assert main([*command, "--drop-noisy"]) == 0
    assert len(rows(out / "suspicious_labels.csv")) == (wrong & labelled).sum()
    assert json.loads((out / "corrections.json").read_text())["made_by"]["check"] == "loss dynamics"
    for step in range(8):
        learned = np.exp(-step / np.linspace(2, 4, 17)) * np.ones((100, 1))
        save_label_losses(tmp_path, step, np.where(labelled, learned, np.nan).astype(np.float32), store)
    capsys.readouterr()
    assert main([*command, "--drop-noisy"]) == 1
    assert "no two groups, as in a clean set; nothing is dropped" in capsys.readouterr().err
    assert main(command) == 0


def test_a_prior_is_learned(store: ShardStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "infants.safetensors"
    assert main(["labels", "prior", str(store.location), "--out", str(path), "--steps", "3"]) == 0
    assert "a distance to the poses of 100 bodies of infants train" in capsys.readouterr().out
    assert load_manifold(path).tree.num_bones == 16


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write_store(tmp_path, "few", [1, 1, 1])
    assert main(["labels", "learn", str(few.location), "--out", str(tmp_path / "x.json")]) == 1
    assert "few train: 3 of 3 labelled bodies show at least 4 bones, and proportions need 20" in capsys.readouterr().err
    assert main(["labels", "losses", str(few.location), str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
    assert "no recorded losses" in capsys.readouterr().err


def test_agreement_compares_files_of_tools(tmp_path, capsys):
    def point(name, x, who):
        return {
            "id": f"{name}{who}", "type": "keypointlabels", "original_width": 100, "original_height": 100,
            "value": {"x": x, "y": 50, "keypointlabels": [name]},
        }  # fmt: skip

    def results(shift, who):
        return {"completed_by": who, "result": [point("nose", 20 + shift, who), point("tail", 60, who)]}

    tasks = [
        {"id": n, "data": {"image": f"/data/upload/{n}.png"}, "annotations": [results(0, 1), results(2, 2)]}
        for n in range(30)
    ]
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(tasks))
    names = ["labels", "agreement", str(path), str(path)]
    arguments = [*names, "--annotators", "1", "2", "--out", str(tmp_path / "a.json")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "30 pictures and 30 bodies in both" in printed
    found = json.loads((tmp_path / "a.json").read_text())
    scale = 64  # the side of the least box around points, of pictures that have none
    assert found["oks_sigmas"] == pytest.approx({"nose": 2 / scale / 2**0.5, "tail": 0}, rel=1e-2)
    assert found["points"][0]["bias"] == pytest.approx([2 / scale, 0], rel=1e-2)
