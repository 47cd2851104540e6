"""A shard survives the way from one operator to the next, whatever pictures have depth."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from posecore.cluster.shard_block import failed, fetched, number_of, outcome, pictures_of, samples_of, staged, tally_of
from posecore.errors import IngestError
from posecore.ingest.fetch import Sample, Samples, source_image
from posecore.ingest.job import IngestJob
from posecore.ingest.source_image import SourceImage
from posecore.ingest.tally import Tally
from posecore.schema import record_to_json
from posecore.stages.protocol import Picture
from posecore.tables.records import to_annotations
from tests.support.small_split import HEIGHT, WIDTH, instance, job, records
from tests.unit.shards.test_masks import record


@pytest.mark.parametrize("depths", [(), (None, None), (b"d", None, b""), (b"one", b"two")])
def test_a_shard_comes_back_as_it_went(depths, tmp_path):
    of = job(tmp_path, tmp_path)
    pictures = [
        Picture(
            data=bytes([place]) * place,
            record=replace(
                record(*(instance(f"{place}-{body}") for body in range(place))),
                source_id=f"{place}",
                digest=f"d{place}",
                source_digest="of a film",
            ),
            depth=depth,
        )
        for place, depth in enumerate(depths)
    ]
    tally = Tally(["image"])
    tally.enter_many("image", 5, 7)
    block = staged(12, pictures, of, tally)
    assert number_of(block) == 12
    assert outcome(block) is None
    found = list(pictures_of(block.slice(0, 1), of))
    assert [(item.data, item.depth) for item in found] == [(item.data, item.depth) for item in pictures]
    assert [record_to_json(item.record) for item in found] == [record_to_json(item.record) for item in pictures]
    assert tally_of(block).counts() == tally.counts()
    block.validate(full=True)


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_was_fetched_is_what_is_written(on_disk, tmp_path):
    """One that has lost a body, and none of one image; the pictures' own sizes where the annotation has none."""
    of = job(tmp_path if on_disk else UPath("memory://download"), tmp_path)
    block, source = _fetched(tmp_path, of)
    assert block["pictures"][0].values.null_count == (3 if on_disk else 0)
    back = samples_of(block, of)
    again = list(back.found)
    assert [(sample.image.data, sample.image.digest) for sample in again] == [
        (source[row].data, source[row].digest) for row in (0, 1, 3)
    ]
    assert [(sample.row, sample.bodies) for sample in again] == [(0, range(1)), (1, range(1, 2)), (2, range(2, 4))]
    assert back.annotations.instances["id"].to_pylist() == ["0-a", "1-b", "3-a", "3-b"]
    assert back.annotations.images["width"].to_pylist() == [WIDTH] * 3
    assert back.annotations.images["height"].to_pylist() == [HEIGHT] * 3


def test_only_what_a_stage_has_changed_travels(tmp_path):
    of = job(tmp_path, tmp_path)
    block, source = _fetched(tmp_path, of)
    first, second, third = pictures_of(block, of)
    changed = Picture(data=b"drawn anew", record=replace(second.record, digest="", source_digest=second.record.digest))
    block = staged(1, [first, changed, third], of, Tally(["image"]))
    assert block["pictures"][0].values.to_pylist() == [None, b"drawn anew", None]
    assert [picture.data for picture in pictures_of(block, of)] == [source[0].data, b"drawn anew", source[3].data]
    block = staged(1, pictures_of(block, of), of, Tally(["image"]))
    assert block["pictures"][0].values.to_pylist() == [None, b"drawn anew", None]


def test_a_file_that_changes_on_the_way_is_named(tmp_path):
    of = job(tmp_path, tmp_path)
    block, _ = _fetched(tmp_path, of)
    name = samples_of(block, of).annotations.images["image"][1].as_py()
    (tmp_path / name).write_bytes(b"another")
    with pytest.raises(IngestError, match=f"{name} was changed while it was ingested; leave the download as it is"):
        list(samples_of(block, of).found)
    (tmp_path / name).unlink()
    with pytest.raises(IngestError, match=rf"{name} could be read and cannot any more \(No such file"):
        list(pictures_of(block, of))


def _fetched(folder: Path, of: IngestJob) -> tuple[pa.Table, list[SourceImage]]:
    source = [replace(item, width=0, height=0) for item in records(folder, 4)]
    files = [source_image((folder / item.image).read_bytes()) for item in source]
    found = [
        Sample(0, range(1), files[0], None),
        Sample(1, [2], files[1], None),
        Sample(3, range(4, 6), files[3], None),
    ]
    return fetched(1, [Samples(to_annotations(source, 3), found)], of, Tally(["image"])), files


def test_an_error_travels_as_a_value():
    error = outcome(failed(3, IngestError("no")))
    assert isinstance(error, IngestError)
    assert str(error) == "no"
