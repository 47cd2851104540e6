"""A folder of photographs becomes a split that pre-training can crop."""

import os
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import DatasetError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import Loader, LoadingConfig
from posecore.shards.store import open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("b/2.JPG", "a.png", "b/1.jpeg", "notes.txt")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((40 + number, 60, 3), 50 * number, np.uint8)
        path.write_bytes(
            b"no image" if path.suffix == ".txt" else cv2.imencode(path.suffix.lower(), image)[1].tobytes()
        )
    definition = {
        "name": "ward",
        "title": "Photographs of a ward",
        "reader": "posecore.formats.image_folder:ImageFolderReader",
        "skeleton": {"name": "none", "keypoints": []},
        "license": {"id": "internal"},
        "splits": {"train": {"annotations": "photos", "images": "photos"}, "empty": {"annotations": "b", "images": ""}},
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(definition))
    return tmp_path


def test_every_image_in_order_and_nothing_else(folder: Path) -> None:
    definition = load_dataset(folder / "dataset.yaml")
    records = list(read_split(definition, "train", folder))
    assert [record.image for record in records] == ["photos/a.png", "photos/b/1.jpeg", "photos/b/2.JPG"]
    assert [record.source_id for record in records] == ["a.png", "b/1.jpeg", "b/2.JPG"]


def test_from_the_folder_to_a_batch(folder: Path, tmp_path: Path) -> None:
    definition = load_dataset(folder / "dataset.yaml")
    ingest(
        ingest_job(definition, "train", folder, tmp_path / "shards", IngestSettings()),
        read_split(definition, "train", folder),
    )
    store = open_store(tmp_path / "shards" / "ward" / "train")
    assert (store.num_images, len(store)) == (3, 0)
    config = parse_config(
        {"mixture": {"entries": [{"name": "ward"}]}, "unlabelled": {"unit": "images"}}, LoadingConfig, "test"
    )
    batches = iter(Loader({"ward": store}, config, input_size=(32, 32), seed=0, global_batch=3))
    (batch,) = islice(batches, 1)
    batches.close()
    assert sorted(batch.groups[0].rows.tolist()) == [0, 1, 2]
    assert sorted(int(image.mean()) for image in batch.images) == [0, 50, 100]


def test_a_folder_without_images_is_refused(folder: Path) -> None:
    definition = load_dataset(folder / "dataset.yaml")
    (folder / "bare").mkdir()
    with pytest.raises(DatasetError, match=r"no file below .*bare ends in \.jpg, \.jpeg, \.png"):
        list(read_split(definition, "empty", folder / "bare"))


def test_what_has_an_images_name_and_is_no_file_is_rejected_and_not_passed_over(folder: Path) -> None:
    (folder / "photos" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "photos" / "pipe.png")
    (folder / "photos" / "folder.jpg").mkdir()
    definition = load_dataset(folder / "dataset.yaml").model_copy(update={"max_loss": 0.5})
    job = ingest_job(definition, "train", folder, folder / "shards", IngestSettings())
    manifest = ingest(job, read_split(definition, "train", folder))
    assert manifest.num_images == 3
    assert manifest.rejects == {"missing-image": 1, "unreadable-image": 1}
