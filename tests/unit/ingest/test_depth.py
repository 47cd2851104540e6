"""Depth pictures in shards: untouched, checked, and rejected with their image where they are no depth pictures."""

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.datasets.definition import StageEntry
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.ingest.stage_check import check_stages
from posecore.schema import DepthImage, record_from_json, record_to_json
from posecore.shards.store import open_store
from posecore.stages import ImageStage, Picture
from tests.support.depth_store import METRES_PER_UNIT, depth_pixels, depth_records, depth_store, write_depth
from tests.support.tiny_store import definition, write_store


def test_bytes_come_back_untouched_and_only_where_there_is_depth(tmp_path: Path) -> None:
    store = depth_store(tmp_path)
    for row in range(3):
        sample = store.read_sample(row)
        if row % 2:
            assert (sample.record.depth, sample.depth_bytes) == (None, None)
            continue
        source = (tmp_path / "raw" / "depth" / f"{row}.png").read_bytes()
        assert sample.depth_bytes == source
        assert sample.record.depth is not None
        assert sample.record.depth.metres_per_unit == METRES_PER_UNIT
        assert sample.record.depth.size_bytes == len(source)
        assert record_from_json(record_to_json(sample.record)).depth == sample.record.depth
    store.verify()
    with tarfile.open(tmp_path / "shards" / "infants" / "train" / "shard-000000.tar") as tar:
        names = [name.partition(".")[2] for name in tar.getnames()]
    with_depth, without = ["png", "json", "masks.npz", "depth.png"], ["png", "json", "masks.npz"]
    assert names == with_depth + without + with_depth


def test_other_samples_do_not_change(tmp_path: Path) -> None:
    """A sample without depth has the bytes it had before there was depth at all."""
    with_depth = depth_store(tmp_path / "a")
    records = depth_records(tmp_path / "b" / "raw", "infants", 3)
    for record in records:
        record.depth = None
    without = write_store(tmp_path / "b", "infants", [], records=records)
    ours, theirs = with_depth.read_sample(1), without.read_sample(1)
    assert record_to_json(ours.record) == record_to_json(theirs.record)
    assert b"depth" not in record_to_json(theirs.record)
    assert without.images.schema == with_depth.images.schema


def test_ingesting_again_keeps_whole_shards_and_repairs_others(tmp_path: Path) -> None:
    records = depth_records(tmp_path / "raw", "infants", 3)
    store = write_store(tmp_path, "infants", [], records=records)
    job = ingest_job(
        definition("infants"), "train", tmp_path / "raw", tmp_path / "shards", IngestSettings(images_per_shard=7)
    )
    path = tmp_path / "shards" / "infants" / "train" / "shard-000000.tar"
    written = path.stat().st_mtime_ns
    ingest(job, records)
    assert path.stat().st_mtime_ns == written
    assert open_store(job.folder).manifest == store.manifest
    other = depth_pixels(2)
    other[0] = 7
    write_depth(tmp_path / "raw", 2, other)  # another size: a changed source
    ingest(job, records)
    decoded = cv2.imdecode(np.frombuffer(open_store(job.folder).read_sample(2).depth_bytes, np.uint8), -1)
    np.testing.assert_array_equal(decoded, other)


class LosesDepth(ImageStage):
    """Makes a picture anew and forgets what lay beside it."""

    def __call__(self, picture: Picture) -> Picture:
        return Picture(data=picture.data, record=picture.record)


def test_a_stage_that_loses_a_depth_picture_is_named(tmp_path: Path) -> None:
    records = depth_records(tmp_path / "raw", "infants", 3)
    write_store(tmp_path, "infants", [], records=records)
    made = definition("infants").model_copy(update={"stages": (StageEntry(stage=f"{__name__}:LosesDepth"),)})
    message = r"LosesDepth returned \S+0.png without its depth picture, which its record names; return the picture"
    with pytest.raises(IngestError, match=message):
        raise IngestError(check_stages(made, "train", tmp_path / "raw", records).problem)
    with pytest.raises(IngestError, match=message):
        ingest(ingest_job(made, "train", tmp_path / "raw", tmp_path / "shards", IngestSettings()), records)


def test_a_damaged_depth_picture_is_named(tmp_path: Path) -> None:
    depth_store(tmp_path)
    path = tmp_path / "shards" / "infants" / "train" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    content = (tmp_path / "raw" / "depth" / "2.png").read_bytes()
    place = bytes(data).index(content) + 100
    data[place] ^= 1
    path.write_bytes(data)
    store = open_store(path.parent)
    store.read_sample(0)
    with pytest.raises(IntegrityError, match=rf"depth of sample \S+ at byte {place - 100} is not what was written"):
        store.read_sample(2)
    with pytest.raises(IntegrityError, match="depth of sample"):
        store.verify()


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((120, 160), np.uint8), "depth-not-16-bit"),
        (np.zeros((120, 160, 3), np.uint16), "depth-not-16-bit"),
        (np.zeros((60, 80), np.uint16), "depth-size-mismatch"),
        (None, "depth-missing-image"),
        ("cut", "depth-truncated-image"),
        ("jpeg", "depth-not-16-bit"),
    ],
)
def test_what_is_no_depth_picture_costs_its_image(tmp_path: Path, pixels: object, reason: str) -> None:
    records = depth_records(tmp_path / "raw", "infants", 3)
    file = tmp_path / "raw" / "depth" / "2.png"
    if pixels is None:
        file.unlink()
    elif isinstance(pixels, np.ndarray):
        write_depth(tmp_path / "raw", 2, pixels)
    elif pixels == "cut":
        os.truncate(file, 200)
    else:
        file.write_bytes(cv2.imencode(".jpg", np.zeros((120, 160), np.uint8))[1].tobytes())
    with pytest.raises(IngestError, match=reason):
        write_store(tmp_path, "infants", [], records=records)


def test_depth_outside_the_download_is_refused(tmp_path: Path) -> None:
    records = depth_records(tmp_path / "raw", "infants", 1)
    records[0].depth = DepthImage(image="../secret.png", metres_per_unit=1)
    with pytest.raises(IngestError, match="path-escape"):
        write_store(tmp_path, "infants", [], records=records)
