"""Proving that shards are what reader and stages make of the sources."""

import shutil

import cv2
import numpy as np
import pytest

from posecore.errors import IngestError, IntegrityError
from posecore.ingest.run import SCRATCH_NAME, ingest
from posecore.ingest.verify_source import verify_source
from posecore.stages import ImageStage
from tests.support.films import write_film
from tests.support.small_split import job, picture, records, tree, write_annotations

STAGES = ["deduplicate", "video_frames", {"stage": "resize", "options": {"longer_side_px": 40}}]
LUCK: list[int] = []


class Capricious(ImageStage):
    """Says something else each time."""

    def __call__(self, given):
        LUCK.append(len(LUCK))
        pixels = np.full((48, 64), len(LUCK) % 251, np.uint8)
        return type(given)(data=cv2.imencode(".png", pixels)[1].tobytes(), record=given.record)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """A folder with a download and its shards."""
    folder = tmp_path_factory.mktemp("verified")
    root = folder / "raw"
    made = records(root, 6)
    write_film(root / "film.mp4", [0, 40, 80, 120, 160])
    for item, frame in ((made[2], 1), (made[4], 3)):
        item.image, item.width, item.height, item.instances = f"film.mp4#frame={frame}", 0, 0, []
    (root / "images" / "5.jpg").write_bytes(cv2.imencode(".jpg", cv2.resize(decode(picture(5)), (40, 30)))[1].tobytes())
    made[5].width, made[5].height = 40, 30
    write_annotations(root, made)
    ingest(job(root, folder / "out", images_per_shard=2, stages=STAGES))
    return folder


@pytest.fixture
def split(ingested, tmp_path):
    """A copy of it, to be spoiled."""
    for name in ("raw", "out"):
        shutil.copytree(ingested / name, tmp_path / name)
    return job(tmp_path / "raw", tmp_path / "out", images_per_shard=2, stages=STAGES)


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_what_stages_made_of_sources_is_proved(split):
    before = tree(split.folder)
    report = verify_source(split)
    assert str(report) == (
        "tiny train: 6 pictures, 5 changed by stages; every one is what reader and stages make of its source"
    )
    assert tree(split.folder) == before
    assert not (split.folder / SCRATCH_NAME).exists()


def test_what_changed_since_is_named(split):
    root = split.root
    (root / "images" / "0.jpg").write_bytes(picture(77))
    (root / "images" / "1.jpg").unlink()
    darker = decode((root / "images" / "5.jpg").read_bytes()) // 2
    (root / "images" / "5.jpg").write_bytes(cv2.imencode(".jpg", darker)[1].tobytes())
    write_film(root / "film.mp4", [0, 50, 100, 150, 200])
    report = verify_source(split)
    assert report.num_different == 5
    said = "\n".join(report.differences)
    for line in (
        r"images/0.jpg: its source has the digest blake3-",
        r"images/1.jpg: it is stored, and not to be had now: ",
        r"images/5.jpg: its file is another, of digest blake3-",
        r"film.mp4#frame=1: its source has the digest",
        r"film.mp4#frame=3: its source has the digest",
    ):
        assert line in said
    assert str(report).splitlines()[0].endswith("5 are not what reader and stages make of their sources:")


def test_a_stage_that_is_not_pure_is_found(tmp_path):
    records(tmp_path / "raw", 3)
    of = job(tmp_path / "raw", tmp_path / "out", stages=[f"{__name__}:Capricious"])
    ingest(of)
    report = verify_source(of)
    assert report.num_different == 3
    assert "images/0.jpg: the stages make another picture of it, of digest blake3-" in report.differences[0]


def test_pictures_that_came_or_went_are_named(split):
    made = records(split.root, 9)
    write_annotations(split.root, made[1:])
    report = verify_source(split)
    assert "images/0.jpg: it is stored, and not to be had now: its id is gone." in report.differences
    assert "images/7.jpg: it is not stored, or in another shard." in report.differences


def test_another_definition_or_code_is_no_proof(split, tmp_path, monkeypatch):
    with pytest.raises(IngestError, match=r"tiny train: dataset\.yaml is another than the one"):
        verify_source(job(split.root, tmp_path / "out", stages=["video_frames"]))
    with pytest.raises(IntegrityError, match=r"no manifest\.json"):
        verify_source(job(split.root, tmp_path / "elsewhere", stages=STAGES))
    monkeypatch.setattr("posecore.ingest.stage_code.digest_json", lambda value: "0" * 64)
    with pytest.raises(IngestError, match="the code of reader is another than that of the shards"):
        verify_source(split)
