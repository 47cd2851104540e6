import hashlib
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from posecore.errors import IntegrityError
from posecore.schema import KeypointState, Record
from posecore.shards.masks import decode_masks, encode_masks, keypoint_state, unify
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


def test_every_state_of_a_point_has_its_number():
    points = np.array([[1, 1, 2], [2, 2, 1], [0, 0, 0]], np.float32)
    states = keypoint_state(
        record(instance("a", keypoints=points), instance("b", keypoints=points, absent=(2,))), SKELETON, VOCABULARY
    )
    # columns: hand, elsewhere, shoulder, elbow
    assert states.tolist() == [[1, 0, 3, 2], [4, 0, 3, 2]]
    assert KeypointState.UNKNOWN == 0


def test_an_image_without_instances_has_an_empty_state():
    assert keypoint_state(record(), SKELETON, VOCABULARY).shape == (0, 4)


def test_masks_are_what_pycocotools_draws_and_crowds_and_unlabelled_bodies_are_ignored():
    polygon = [[4.0, 5.0, 24.0, 5.0, 24.0, 35.0]]
    no_points = np.zeros((3, 3), np.float32)
    drawn = instance("a", segmentation=polygon)
    crowd_rle = {"size": [HEIGHT, WIDTH], "counts": [0, 10, HEIGHT * WIDTH - 10]}
    crowd = instance("b", is_crowd=True, segmentation=crowd_rle, keypoints=no_points)
    unlabelled = instance("c", bbox_xywh=(60.0, 40.0, 20.0, 20.0), keypoints=no_points)
    masks = unify(record(drawn, crowd, unlabelled), SKELETON, VOCABULARY)

    expected = coco_mask.decode(coco_mask.frPyObjects(polygon, HEIGHT, WIDTH)[0])
    assert np.array_equal(coco_mask.decode(masks.instance_rles[0]), expected)
    assert masks.instance_rles[2] is None
    ignored = coco_mask.decode(masks.ignore_rle)
    assert ignored[:10, 0].all()
    assert ignored[40:, 60:].all()
    assert ignored.sum() == 10 + 8 * 4, "the box is clipped to the image, the labelled body is not ignored"


def test_a_segmentation_for_another_image_size_is_refused():
    wrong = instance("a", segmentation={"size": [WIDTH, HEIGHT], "counts": "abc"})
    with pytest.raises(ValueError, match="pixels"):
        unify(record(wrong), SKELETON, VOCABULARY)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_members_come_back_and_numpy_reads_them_without_pickle(number):
    polygon = [[4.0, 5.0, 24.0, 5.0, 24.0, 35.0]]
    people = [instance(str(i), segmentation=polygon if i % 2 else None) for i in range(number)]
    masks = unify(record(*people), SKELETON, VOCABULARY)
    data = encode_masks(masks)
    assert data == encode_masks(masks)
    back = decode_masks(data)
    assert np.array_equal(back.state, masks.state)
    assert back.state.shape == (number, 4)
    assert back.instance_rles == masks.instance_rles
    assert back.ignore_rle == masks.ignore_rle
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert set(archive) == {"state", "size", "rle_lengths", "rle_counts"}
        assert np.array_equal(archive["state"], masks.state)
        assert archive["rle_lengths"].shape == (number + 1,)


def test_damaged_members_are_an_integrity_error():
    data = encode_masks(unify(record(instance("a")), SKELETON, VOCABULARY))
    for damaged in (b"", data[:20], data[:100], b"x" * len(data), data.replace(b"|u1", b"|O8")):
        with pytest.raises(IntegrityError, match=r"masks\.npz"):
            decode_masks(damaged)


def test_masks_can_be_replaced_as_values():
    masks = unify(record(instance("a")), SKELETON, VOCABULARY)
    assert decode_masks(encode_masks(replace(masks, state=masks.state * 0))).state.sum() == 0


def test_equal_masks_have_had_these_bytes_since_the_first_version():
    """Digests of splits, and so the names of all that was trained on them, depend on them."""
    data = encode_masks(unify(record(instance("a"), instance("b", is_crowd=True)), SKELETON, VOCABULARY))
    assert hashlib.sha256(data).hexdigest() == "d7a4e136268fad3c83da40f20ce18f1ff9e22749d02c5ab398e60c6d163c9e8c"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {member.extract_version for member in archive.infolist()} == {20}
