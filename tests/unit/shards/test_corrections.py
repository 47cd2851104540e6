"""Corrections: what they drop, where it shows, and what is refused."""

import pickle

import numpy as np
import pytest

from posecore.errors import ConfigError, DatasetError
from posecore.loading.samples import UsableInstances
from posecore.schema import KeypointState
from posecore.shards.corrections import CorrectedInstance, Corrections, read_corrections, write_corrections
from posecore.shards.store import open_store
from tests.support.tiny_store import instance, record, write_store

BOX = (10.0, 10.0, 60.0, 80.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    one_point = np.zeros((17, 3), np.float32)
    one_point[3] = (20, 30, 2)
    people = [[instance("a", 17, BOX), instance("b", 17, BOX)], [instance("c", 17, BOX, keypoints=one_point)]]
    records = [record("people", row, bodies) for row, bodies in enumerate(people)]
    return write_store(tmp_path_factory.mktemp("store"), "people", [], records=records)


def corrections(store, *entries, **changes):
    values = {
        "dataset": "people",
        "split": "train",
        "dataset_digest": store.manifest.digest,
        "made_by": {"check": "test"},
        "instances": [CorrectedInstance(image=i, instance=n, unlabelled=points) for i, n, points in entries],
    }
    return Corrections.model_validate(values | changes)


def test_dropped_labels_are_unlabelled_wherever_the_split_is_read(store):
    dropped = corrections(store, ("0", "b", ("left_eye", "right_wrist")), ("1", "c", ("left_ear",)))
    corrected = open_store(store.location, corrections=dropped)
    eye, wrist = 1, 10
    for row in range(2):
        before, after = store.read_sample(row), corrected.read_sample(row)
        expected = [body.keypoints.copy() for body in before.record.instances]
        state = before.masks.state.copy()
        if row == 0:
            expected[1][[eye, wrist]] = 0
            names = [store.manifest.vocabulary.index(name) for name in ("left_eye", "right_wrist")]
            state[1, names] = KeypointState.UNLABELLED
        else:
            expected[0][3] = 0
            state[0, store.manifest.vocabulary.index("left_ear")] = KeypointState.UNLABELLED
        for found in (after.record, corrected.read_record(row)):
            np.testing.assert_array_equal([body.keypoints for body in found.instances], expected)
        for found in (after.masks, corrected.read_masks(row)):
            np.testing.assert_array_equal(found.state, state)
        assert after.image_bytes == before.image_bytes
    assert store.instances["num_labelled"].to_pylist() == [17, 17, 1]
    assert corrected.instances["num_labelled"].to_pylist() == [17, 15, 0]
    assert corrected.instances.schema == store.instances.schema
    assert len(UsableInstances.of(store).rows) == 3
    assert len(UsableInstances.of(corrected).rows) == 2, "nothing is left to learn from on the third"
    rows = np.arange(3)
    state, keypoints = corrected.labels.state(rows), corrected.labels.keypoints(rows)
    assert state[1, [eye, wrist]].tolist() == [1, 1]
    assert state[2].tolist() == [1] * 17
    assert (state[0] > KeypointState.UNLABELLED).all()
    bodies = [body for row in range(2) for body in corrected.read_record(row).instances]
    np.testing.assert_array_equal(keypoints, [body.keypoints[:, :2] for body in bodies])
    assert store.labels.state(rows)[1, [eye, wrist]].tolist() == [2, 3]
    again = pickle.loads(pickle.dumps(corrected))
    assert again.instances.equals(corrected.instances)


def test_a_file_comes_back_and_vouches_for_itself(store, tmp_path):
    made = corrections(store, ("0", "a", ("nose",)))
    path = tmp_path / "corrections.json"
    write_corrections(path, made)
    assert read_corrections(str(path)) == made
    assert read_corrections(str(path), made.digest).num_points == 1
    with pytest.raises(ConfigError, match="no longer the file the run began with"):
        read_corrections(str(path), "0" * 64)
    path.write_text(path.read_text().replace("nose", "left_eye"))
    with pytest.raises(ConfigError, match="was edited since it was made"):
        read_corrections(str(path))
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="not a corrections file"):
        read_corrections(str(path))
    path.write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        read_corrections(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_corrections(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        (("0", "a", ("nose",)), {"dataset_digest": "f" * 64}, "were made for dataset digest ffffffffffff"),
        (("0", "a", ("tail",)), {}, "skeleton coco17 has no point 'tail'"),
        (("0", "z", ("nose",)), {}, "there is no instance z on image 0"),
        (("1", "c", ("nose",)), {}, "instance c: nose is not labelled"),
    ],
)
def test_corrections_of_something_else_are_refused(store, entry, changes, message):
    with pytest.raises(DatasetError, match=message):
        open_store(store.location, corrections=corrections(store, entry, **changes))


def test_an_instance_is_named_once(store):
    with pytest.raises(ValueError, match="a on image 0 is named twice"):
        corrections(store, ("1", "c", ("nose",)), ("0", "a", ("nose",)), ("0", "a", ("left_eye",)))
