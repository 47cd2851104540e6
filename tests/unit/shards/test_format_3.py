"""A split that was written in the third format (SHA-256, regions in the masks as well) is read, checked and traced."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from posecore.errors import IntegrityError, QuestionError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.traits import Traits
from posecore.ingest.audit import compare
from posecore.ingest.run import ingest
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.pictures import Edition, Editions, find_picture, find_subject
from posecore.schema import record_from_json, record_to_json
from posecore.shards.digests import known_digests
from posecore.shards.store import open_store
from tests.support.small_split import job, picture, records

FORMER = Path(__file__).parents[2] / "support" / "format_3"


@pytest.fixture
def former(tmp_path):
    return Path(shutil.copytree(FORMER, tmp_path / "former"))


def test_its_samples_are_those_of_a_split_written_now(former, tmp_path):
    ingest(job(tmp_path / "src", tmp_path / "out", images_per_shard=2), records(tmp_path / "src", 3))
    then, now = open_store(former), open_store(tmp_path / "out" / "tiny" / "train")
    assert then.manifest.format_version == 3
    assert then.manifest.digest == "43fe38ed820d26568bf175bb6659273557c90d78a7906c15f9e507b69f2280aa"
    then.verify()
    union = list(now.manifest.vocabulary)  # which has grown since
    known = [union.index(name) for name in then.manifest.vocabulary]
    for row in range(3):
        old, new = then.read_sample(row), now.read_sample(row)
        assert old.image_bytes == new.image_bytes
        assert old.record.digest == hashlib.sha256(old.image_bytes).hexdigest()
        assert np.array_equal(old.masks.state, new.masks.state[:, known])
        assert np.array_equal(then.read_masks(row).state, old.masks.state)
        assert not np.delete(new.masks.state, known, axis=1).any()
        assert old.masks.instance_rles == new.masks.instance_rles
        assert old.masks.ignore_rle == new.masks.ignore_rle
        assert [body.id for body in old.record.instances] == [body.id for body in new.record.instances]
    assert then.read_sample(2).depth_bytes is not None
    assert then.read_record(2).source_digest == "ab" * 32
    since = {"crowd_index", "num_keypoints", "head_bbox_xyxy", "posture"}
    for old, new in ((then.images, now.images), (then.instances, now.instances)):
        assert old.column_names == [name for name in new.column_names if name not in since]
    assert GroundTruth.from_store(then).instance_ids == GroundTruth.from_store(now).instance_ids
    assert Traits.from_store(then).units() == Traits.from_store(now).units()
    assert record_to_json(record_from_json(record_to_json(then.read_record(2)))) == record_to_json(then.read_record(2))


def test_pictures_are_found_in_it_and_beside_it(former, tmp_path):
    ingest(
        job(tmp_path / "src", tmp_path / "out", images_per_shard=2, split="val"), records(tmp_path / "src", 2, "val")
    )
    now = tmp_path / "out" / "tiny" / "val"
    stores = [open_store(folder) for folder in (former, now)]
    found = [pair for pair in compare(*stores).pairs if pair.reason == "exact"]
    assert [(pair.a.key, pair.b.key) for pair in found] == [("0", "0"), ("1", "1")]
    nodes = [Node("split", store.manifest.digest) for store in stores]
    editions = Editions(
        [Edition(node, "tiny", name, folder) for node, name, folder in zip(nodes, "ab", (former, now), strict=True)]
    )
    path = tmp_path / "src" / "images" / "0.jpg"
    asked = (str(path), *known_digests(path.read_bytes()), blake3(path.read_bytes()).hexdigest())
    for named in asked:  # each of them leads from one format to the other
        held = find_picture(editions, named)
        assert [pictures["key"].to_pylist() for _, pictures in held.editions] == [["0"], ["0"]], named
    assert [edition.label for edition, _ in find_picture(editions, "ab" * 32).editions] == ["a"]
    assert len(find_subject(editions, "tiny/s0").editions) == 2
    (tmp_path / "other").write_bytes(picture(9))
    with pytest.raises(QuestionError, match="has this picture"):
        find_picture(editions, str(tmp_path / "other"))


def test_its_damage_is_found(former):
    path = former / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="byte"):
        open_store(former).verify()
