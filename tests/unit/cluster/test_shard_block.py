"""A shard survives the way from one operator to the next, whatever pictures have depth."""

import pytest

from posecore.cluster.shard_block import content, content_of, failed, number_of, outcome
from posecore.errors import IngestError
from posecore.ingest.tally import Tally
from posecore.schema import record_to_json
from posecore.stages.protocol import Picture
from tests.unit.shards.test_masks import record


@pytest.mark.parametrize("depths", [(), (None, None), (b"d", None, b""), (b"one", b"two")])
def test_a_shard_comes_back_as_it_went(depths):
    pictures = [Picture(data=bytes([place]) * place, record=record(), depth=of) for place, of in enumerate(depths)]
    tally = Tally(["image"])
    tally.enter_many("image", 5, 7)
    block = content(12, pictures, tally)
    assert number_of(block) == 12
    assert outcome(block) is None
    back, counted = content_of(block.slice(0, 1))
    found = list(back)
    assert [(item.data, item.depth) for item in found] == [(item.data, item.depth) for item in pictures]
    assert [record_to_json(item.record) for item in found] == [record_to_json(item.record) for item in pictures]
    assert counted.counts() == tally.counts()
    block.validate(full=True)


def test_an_error_travels_as_a_value():
    error = outcome(failed(3, IngestError("no")))
    assert isinstance(error, IngestError)
    assert str(error) == "no"
