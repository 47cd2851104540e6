"""A shard survives the way from one operator to the next, whatever pictures have depth."""

from dataclasses import replace

import pytest

from posecore.cluster.shard_block import failed, fetched, number_of, outcome, pictures_of, samples_of, staged, tally_of
from posecore.errors import IngestError
from posecore.ingest.fetch import Sample, Samples, source_image
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
            ),
            depth=depth,
        )
        for place, depth in enumerate(depths)
    ]
    tally = Tally(["image"])
    tally.enter_many("image", 5, 7)
    block = staged(12, pictures, 3, tally)
    assert number_of(block) == 12
    assert outcome(block) is None
    found = list(pictures_of(block.slice(0, 1), of))
    assert [(item.data, item.depth) for item in found] == [(item.data, item.depth) for item in pictures]
    assert [record_to_json(item.record) for item in found] == [record_to_json(item.record) for item in pictures]
    assert tally_of(block).counts() == tally.counts()
    block.validate(full=True)


def test_what_was_fetched_is_what_is_written(tmp_path):
    """One that has lost a body, and none of one image; the pictures' own sizes where the annotation has none."""
    source = [replace(item, width=0, height=0) for item in records(tmp_path, 4)]
    annotations = to_annotations(source, 3)
    files = [source_image((tmp_path / item.image).read_bytes()) for item in source]
    found = [
        Sample(0, range(1), files[0], None),
        Sample(1, [2], files[1], None),
        Sample(3, range(4, 6), files[3], None),
    ]
    back = samples_of(fetched(1, [Samples(annotations, found)], 3, Tally(["image"])))
    again = list(back.found)
    assert [(sample.image.data, sample.image.digest) for sample in again] == [
        (sample.image.data, sample.image.digest) for sample in found
    ]
    assert [(sample.row, sample.bodies) for sample in again] == [(0, range(1)), (1, range(1, 2)), (2, range(2, 4))]
    assert back.annotations.instances["id"].to_pylist() == ["0-a", "1-b", "3-a", "3-b"]
    assert back.annotations.images["width"].to_pylist() == [WIDTH] * 3
    assert back.annotations.images["height"].to_pylist() == [HEIGHT] * 3


def test_an_error_travels_as_a_value():
    error = outcome(failed(3, IngestError("no")))
    assert isinstance(error, IngestError)
    assert str(error) == "no"
