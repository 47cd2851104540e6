"""Labelled bodies of a split, from its index alone."""

import csv

import numpy as np
import pytest

from posecore.ingest.run import ingest
from posecore.labels.bodies import LabelledBodies
from posecore.labels.suspects import Suspect, corrections_of, write_suspects
from posecore.shards.store import open_store
from tests.support.small_split import instance, job, records, write_annotations


@pytest.fixture
def store(tmp_path):
    made = records(tmp_path / "raw", 6)
    made[1].instances.insert(0, instance("absent", absent=(1,)))
    made[2].instances.append(instance("nothing", keypoints=np.zeros((3, 3), np.float32)))
    made[3].instances[0].keypoints = np.array([[1.5, 2.25, 1], [0, 0, 0], [9, 9, 2]], np.float32)
    write_annotations(tmp_path / "raw", made)
    of = job(tmp_path / "raw", tmp_path / "out", images_per_shard=2)
    ingest(of)
    return open_store(of.folder)


def from_records(store):
    """The same from every record: (id, keypoints, labelled)."""
    for row in range(store.num_images):
        for body in store.read_record(row).instances:
            labelled = body.keypoints[:, 2] > 0
            labelled[list(body.absent)] = False
            if not body.is_crowd and (body.keypoints[:, 2] > 0).any():
                yield body.id, body.keypoints[:, :2], labelled


def compare(store, monkeypatch):
    expected = list(from_records(store))
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_read", None)  # no byte of a shard
        bodies = LabelledBodies.from_store(store)
    assert store.instances["instance_id"].take(bodies.rows).to_pylist() == [name for name, _, _ in expected]
    assert np.array_equal(bodies.labelled, np.array([labelled for _, _, labelled in expected]))
    for points, (_, xy, labelled) in zip(bodies.keypoints, expected, strict=True):
        assert np.array_equal(points[labelled], xy[labelled])
    return bodies


def test_bodies_are_those_of_the_records(store, monkeypatch):
    bodies = compare(store, monkeypatch)
    assert len(bodies) == 7
    assert bodies.labelled.sum() == 7 * 2 - 1


def test_corrections_are_believed_and_the_table_names_what_was_suspected(store, monkeypatch, tmp_path):
    suspects = [Suspect(4, 0, 3.0, "odd"), Suspect(0, 1, 2.0, "also odd")]
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_read", None)
        rows = list(csv.DictReader(write_suspects(tmp_path, store, suspects).read_text().splitlines()))
    assert [(row["image"], row["instance_id"], row["point"], row["x"], row["y"]) for row in rows] == [
        ("images/2.jpg", "2-a", "shoulder", "5.0", "6.0"),
        ("images/0.jpg", "0-a", "elbow", "7.0", "8.0"),
    ]
    corrected = open_store(store.location, corrections=corrections_of(store, suspects[1:], {"by": "test"}))
    assert compare(corrected, monkeypatch).labelled.sum() == 7 * 2 - 2
    assert write_suspects(tmp_path, store, []).read_text().count("\n") == 1
