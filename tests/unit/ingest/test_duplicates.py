"""The stage ``deduplicate``: one of several pictures of a split that show the same."""

from dataclasses import replace

import cv2
import pyarrow.parquet as pq
import pytest

from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import IngestError
from posecore.ingest.executor import InProcess
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.ingest.stage_check import check_stages
from posecore.schema import Record
from posecore.shards.store import open_store
from posecore.stages.load import load_stages
from tests.support.films import write_film
from tests.support.small_split import definition, instance, job, records, tree, write_annotations


def again(root, name, quality=60, side=32):
    """A smaller copy of a picture, of more loss."""
    pixels = cv2.imread(str(root / "images" / name))
    small = cv2.resize(pixels, (side, side * 3 // 4), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.fixture
def pool(tmp_path):
    """Six pictures; "10" shows the same as "4" and "11" as "0", and "12" has the bytes of "0"."""
    root = tmp_path / "raw"
    made = records(root, 6)
    for name, data in (
        ("10", again(root, "4.jpg")),
        ("11", again(root, "0.jpg")),
        ("12", (root / "images" / "0.jpg").read_bytes()),
    ):
        (root / "images" / f"{name}.jpg").write_bytes(data)
        bodies = [instance(f"{name}-a"), instance(f"{name}-b")]
        size = {"width": 0, "height": 0}
        made.append(replace(made[0], source_id=name, image=f"images/{name}.jpg", instances=bodies, **size))
    write_annotations(root, [made[8], *made[:8]])
    return root


def test_the_first_by_id_is_kept_and_a_reject_names_it(pool, tmp_path):
    of = job(pool, tmp_path / "out", images_per_shard=2, stages=["deduplicate", "check_instances"])
    manifest = ingest(of)
    store = open_store(of.folder)
    assert store.images["source_id"].to_pylist() == ["0", "1", "2", "3", "4", "5"]
    assert [entry.num_images for entry in manifest.shards] == [2, 2, 2]
    (counted,) = (count for count in manifest.stages if count.stage == "deduplicate")
    assert (counted.images_in, counted.images_rejected, counted.instances_rejected) == (9, 3, 6)
    assert manifest.rejects == {"duplicate-picture": 3}
    rows = pq.read_table(of.folder / "quarantine.parquet").to_pylist()
    told = {row["source_id"]: (row["stage"], row["detail"]) for row in rows}
    assert told == {
        "10": ("deduplicate", "it shows the same as 4, which is kept."),
        "11": ("deduplicate", "it shows the same as 0, which is kept."),
        "12": ("deduplicate", "it shows the same as 0, which is kept."),
    }
    other = job(pool, tmp_path / "other", images_per_shard=2, stages=["deduplicate", "check_instances"])
    ingest(other, executor=Backwards())
    assert tree(other.folder) == tree(of.folder)


class Backwards(InProcess):
    """Does the pieces of work in the other order."""

    def map(self, function, items, *arguments, **named):
        return super().map(function, list(items)[::-1], *arguments, **named)[::-1]


def test_how_alike_pictures_must_be_is_an_option(pool, tmp_path):
    strict = {"stage": "deduplicate", "options": {"max_distance": 0, "min_correlation": 1.0}}
    assert ingest(job(pool, tmp_path / "out", stages=[strict])).rejects == {"duplicate-picture": 1}
    with pytest.raises(IngestError, match=r"options.*max_distance"):
        load_stages(definition(stages=[{"stage": "deduplicate", "options": {"max_distance": 12}}]))


def test_it_stands_before_all_others(pool):
    with pytest.raises(IngestError, match="stage deduplicate looks at the whole split before any other stage; list it"):
        load_stages(definition(stages=["check_instances", "deduplicate"]))


def test_pictures_that_cannot_be_read_are_left_to_who_says_why(pool, tmp_path):
    (pool / "images" / "0.jpg").write_bytes(b"")
    (pool / "images" / "4.jpg").unlink()
    of = job(pool, tmp_path / "out", stages=["deduplicate"], max_loss=1.0)
    assert ingest(of).rejects == {"duplicate-picture": 1, "missing-image": 1, "empty-image": 1}
    assert open_store(of.folder).images["source_id"].to_pylist() == ["1", "2", "3", "5", "10", "11"]


def test_frames_of_a_still_film_are_one_picture(tmp_path):
    write_film(tmp_path / "raw" / "film.mp4", [0, 40, 80, 120])
    (base,) = records(tmp_path / "raw", 1)
    images = [f"film.mp4#t={time}" for time in ("0.05", "0.06", "0.09", "0.13", "0.01", "0.02")]
    made = [replace(base, source_id=image, image=image, width=0, height=0, instances=[]) for image in images]
    write_annotations(tmp_path / "raw", made)
    of = job(tmp_path / "raw", tmp_path / "out", stages=["deduplicate", "video_frames"])
    ingest(of)
    left = open_store(of.folder).images["source_id"].to_pylist()
    assert left == [f"film.mp4#t={time}" for time in ("0.01", "0.05", "0.09", "0.13")], "the first frame is all grey"


def test_check_tries_it_on_the_sample(pool):
    of = definition(stages=["deduplicate", "check_instances"])
    sample = [item for item in read_split(of, "train", pool) if isinstance(item, Record)]
    said = str(check_stages(of, "train", pool, sample))
    assert "deduplicate: 9 images, 15 instances; took out 3 and 6 of them (duplicate-picture: 3)" in said
    assert "check_instances: 6 images" in said
    assert "error" not in said


@pytest.mark.samples
def test_photos_are_no_twins_of_each_other(samples, tmp_path):
    coco = load_dataset("coco")
    of = coco.model_copy(update={"stages": definition(stages=["deduplicate"]).stages})
    manifest = ingest(ingest_job(of, "val", samples / "coco", tmp_path, IngestSettings()))
    assert manifest.rejects.get("duplicate-picture", 0) == 0
    assert manifest.num_images == 79
