"""Infants in incubators: one infant in every picture, arms of adults over it, labelled as each format labels them."""

import json
from pathlib import Path

import numpy as np
import pytest

from posecore.cli import main
from posecore.datasets.check import check_split
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import DatasetError
from posecore.schema import Record
from posecore.synth.incubator import REACHING
from posecore.synth.landmarks import COCO_17
from posecore.synth.scene import render
from posecore.synth.writers import write_dataset


def test_arms_reach_in_and_what_lies_outside_has_no_label() -> None:
    adults = nearer = points = 0
    named = np.zeros(17, np.int64)
    for index in range(12):
        infant, *reaching = render("incubator", 0, index, (96, 96)).bodies
        assert infant.posture in ("Supine", "Prone")
        assert infant.keypoints(COCO_17)[5:, 2].astype(bool).sum() >= 10
        for body in reaching:
            assert body.posture == REACHING
            assert body.subject >= 500_000
            labelled = body.keypoints(COCO_17)[:, 2] > 0
            named += labelled
            rows, columns = np.nonzero(body.mask)
            assert 0 in (rows.min(), columns.min()) or 95 in (rows.max(), columns.max()), "it comes from an edge"
            adults += 1
            points += int(labelled.sum())
            nearer += bool((body.depth.min() < infant.depth).all())
    assert 10 < adults <= 24
    assert nearer > 0.9 * adults
    assert set(np.flatnonzero(named)) <= {7, 8, 9, 10}, "elbows and wrists; heads, shoulders and legs stay outside"
    assert adults / 2 < points <= 4 * adults


def test_an_adult_is_a_body_of_few_points_for_coco_and_nobody_for_syrip(tmp_path: Path) -> None:
    people: dict[str, list[Record]] = {}
    for name, split in (("coco", "train"), ("syrip", "train")):
        root = tmp_path / name
        command = ["synth", "--dataset", name, "--scenes", "incubator", "--num-train", "6", "--num-val", "1"]
        assert main([*command, "--size", "64", "--out", str(root)]) == 0
        definition = load_dataset(name)
        assert not check_split(definition, split, root).has_errors
        people[name] = [item for item in read_split(definition, split, root) if isinstance(item, Record)]
    few = [(each.keypoints[:, 2] > 0).sum() for record in people["coco"] for each in record.instances[1:]]
    assert len(few) > 5
    assert max(few) <= 4
    assert all(len(record.instances) == 1 for record in people["syrip"])
    assert json.loads((tmp_path / "coco" / "synthetic.json").read_text())["scenes"] == "incubator"


def test_other_formats_and_other_scenes_in_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="dataset mpii has no incubators; choose coco, coco_wholebody or syrip"):
        write_dataset("mpii", tmp_path / "mpii", 1, 1, scenes="incubator")
    root = write_dataset("coco", tmp_path / "coco", 1, 1, (64, 64))
    with pytest.raises(DatasetError, match="made with other settings"):
        write_dataset("coco", root, 1, 1, (64, 64), scenes="incubator")
    receipt = root / "synthetic.json"
    receipt.write_text(
        receipt.read_text().replace('  "scenes": "usual",\n', "")
    )  # as written before there was a choice
    assert write_dataset("coco", root, 1, 1, (64, 64)) == root
