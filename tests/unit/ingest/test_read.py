"""Reading in portions: whoever reads which part of a download, and in which order, the shards are the same."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset, parts_of_split, read_pool, read_split
from posecore.errors import DatasetError
from posecore.ingest import read
from posecore.ingest.executor import InProcess
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from tests.support.small_split import tree

BODYPARTS = ("nose", "tail")


@pytest.fixture
def project(tmp_path: Path) -> DatasetDefinition:
    """A DeepLabCut project of five videos of three frames; the last row of each table is no frame."""
    folder = tmp_path / "project"
    for video in ("v1", "v2", "v3", "v4", "v5"):
        frames = folder / "labeled-data" / video
        frames.mkdir(parents=True)
        rows = [["scorer", *["me"] * 4], ["bodyparts", *np.repeat(BODYPARTS, 2)], ["coords", *["x", "y"] * 2]]
        for frame in range(3):
            cv2.imwrite(str(frames / f"img{frame}.png"), np.full((60, 80, 3), 20 * frame + int(video[1]), np.uint8))
            rows.append([f"labeled-data/{video}/img{frame}.png", 10 + frame, 20, 30, 40])
        rows.append(["../elsewhere.png", 1, 2, 3, 4])
        text = "\n".join(",".join(map(str, row)) for row in rows)
        (frames / "CollectedData_me.csv").write_text(text)
    (folder / "config.yaml").write_text(yaml.safe_dump({"bodyparts": list(BODYPARTS)}))
    values = {
        "name": "lab",
        "title": "Five videos",
        "reader": "posecore.formats.deeplabcut:DeepLabCutReader",
        "skeleton": {"name": "lab2", "keypoints": [{"name": name, "union": f"lab_{name}"} for name in BODYPARTS]},
        "license": {"id": "own"},
        "area_rule": "box",
        "splits": {"all": {"annotations": "config.yaml"}},
        "conventions": {"half_bodies": False},
        "evaluation": {"protocol": "pixel"},
        "max_loss": 0.5,
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    return load_dataset(tmp_path / "dataset.yaml")


class Backwards(InProcess):
    """Does the last piece first, and remembers how many there were."""

    def map(self, function, items, *arguments, **named):
        self.seen = list(items)
        done = {number: function(self.seen[number], *arguments, **named) for number in reversed(range(len(self.seen)))}
        return [done[number] for number in range(len(self.seen))]


@pytest.mark.parametrize("most", [256, 2, 1])
def test_portions_in_any_order_and_number_make_the_same_shards(project, tmp_path, monkeypatch, most):
    monkeypatch.setattr(read, "_MOST_PORTIONS", most)
    monkeypatch.setattr(read, "IMAGES_PER_PART", 2)
    settings, root = IngestSettings(images_per_shard=4), tmp_path / "project"
    whole = ingest_job(project, "all", root, tmp_path / "whole", settings)
    expected = ingest(whole, read_split(project, "all", root))
    executor = Backwards()
    found = ingest(ingest_job(project, "all", root, tmp_path / "apart", settings), executor=executor)
    assert [len(portion.files) for portion in executor.seen] == {256: [1] * 5, 2: [2, 3], 1: [5]}[most]
    assert (found.num_images, found.rejects) == (15, {"path-escape": 5})
    assert found.digest == expected.digest
    assert tree(tmp_path / "apart" / "lab" / "all") == tree(whole.folder)


def test_a_pool_is_read_in_parts_and_divided_by_its_names(project, tmp_path):
    root = tmp_path / "project"
    assert len(parts_of_split(project, "all", root)) == 5
    halves = {
        part: {"annotations": "config.yaml", "partition": {"part": part, "share": 0.5}} for part in ("train", "eval")
    }
    divided = DatasetDefinition.model_validate({**dict(project), "splits": halves})
    assert len(parts_of_split(divided, "train", root)) == 5
    images = {}
    for half in halves:
        jobs = (ingest_job(divided, half, root, tmp_path / name, IngestSettings()) for name in ("apart", "whole"))
        apart, whole = jobs
        manifest = ingest(apart, executor=Backwards())
        images[half] = manifest.num_images
        assert ingest(whole, read_split(divided, half, root)).digest == manifest.digest
        assert tree(apart.folder) == tree(whole.folder)
        assert manifest.stages[0].images_in == len(list(read_split(divided, half, root)))
    assert sum(images.values()) == 15
    assert all(count % 3 == 0 for count in images.values())


def test_what_is_wrong_with_the_download_is_said_before_a_part_is_read(project, tmp_path):
    (tmp_path / "project" / "config.yaml").write_text(json.dumps({"bodyparts": ["snout"]}))
    executor = Backwards()
    with pytest.raises(DatasetError, match="lists the bodyparts snout"):
        ingest(ingest_job(project, "all", tmp_path / "project", tmp_path / "out", IngestSettings()), executor=executor)
    assert not hasattr(executor, "seen")
    assert not (tmp_path / "out" / "lab" / "all" / ".ingest").exists()


@pytest.mark.samples
def test_the_parts_of_a_real_download_are_the_whole(samples):
    definition, root = load_dataset("deeplabcut"), samples / "dlc_reaching" / "Reaching-Mackenzie-2018-08-30"
    parts = parts_of_split(definition, "all", root)
    assert parts == ("labeled-data/reachingvideo1/CollectedData_Mackenzie.csv",)
    whole = [str(item) for item in read_split(definition, "all", root)]
    assert [str(item) for item in read_pool(definition, "all", root, parts)] == whole
