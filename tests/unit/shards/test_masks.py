import hashlib
import io
import zipfile

import numpy as np
import pytest

from posecore.errors import IntegrityError
from posecore.schema import KeypointState, Record
from posecore.shards.masks import decode_state, encode_state, keypoint_state
from posecore.skeletons.union import Vocabulary
from tests.support.small_split import HEIGHT, SKELETON, WIDTH, instance

VOCABULARY = Vocabulary(("test_hand", "elsewhere", "test_shoulder", "test_elbow"))


def record(*instances) -> Record:
    return Record(
        dataset="tiny",
        split="train",
        source_id="1",
        image="1.jpg",
        width=WIDTH,
        height=HEIGHT,
        instances=list(instances),
    )


def state_of(*instances):
    points = np.array([item.keypoints for item in instances], np.float32).reshape(-1, 3, 3)
    return keypoint_state(points, [item.absent for item in instances], SKELETON, VOCABULARY)


def test_every_state_of_a_point_has_its_number():
    points = np.array([[1, 1, 2], [2, 2, 1], [0, 0, 0]], np.float32)
    # columns: hand, elsewhere, shoulder, elbow
    states = state_of(instance("a", keypoints=points), instance("b", keypoints=points, absent=(2,)))
    assert states.tolist() == [[1, 0, 3, 2], [4, 0, 3, 2]]
    assert KeypointState.UNKNOWN == 0


def test_an_image_without_instances_has_an_empty_state():
    assert state_of().shape == (0, 4)


@pytest.mark.parametrize("number", [0, 1, 3, 200])
def test_members_come_back_and_numpy_reads_them_without_pickle(number):
    state = np.random.default_rng(number).integers(0, 5, (number, 4), np.uint8)
    data = encode_state(state)
    assert data == encode_state(np.asfortranarray(state))
    assert np.array_equal(decode_state(data), state)
    assert decode_state(data).shape == (number, 4)
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert set(archive) == {"state"}
        assert np.array_equal(archive["state"], state)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {member.extract_version for member in archive.infolist()} == {20}


def test_damaged_members_are_an_integrity_error():
    data = encode_state(state_of(instance("a")))
    for damaged in (b"", data[:20], data[:100], b"x" * len(data), data.replace(b"|u1", b"|O8")):
        with pytest.raises(IntegrityError, match=r"masks\.npz"):
            decode_state(damaged)


def test_equal_masks_have_these_bytes_since_the_fourth_format():
    """Digests of splits, and so the names of all that was trained on them, depend on them."""
    data = encode_state(state_of(instance("a"), instance("b", is_crowd=True)))
    assert hashlib.sha256(data).hexdigest() == "70b5a2a3ed10f477131301496bf03481f31be31a1c1bab4fb730e3dc652e8614"
