"""What the tables promise: only columns that may be empty say so, and what they hold is what the records say."""

import numpy as np
import pytest

from posecore.schema import KeypointState
from posecore.shards.index import IMAGE_SCHEMA, instance_schema
from posecore.skeletons.skeleton import Skeleton
from tests.support.tiny_store import instance, record, write_store

BOX = (10.0, 10.0, 60.0, 80.0)


@pytest.mark.parametrize(
    ("schema", "may_be_empty"),
    [
        (IMAGE_SCHEMA, {"license", "video_id", "view_id", "frame_index", "source_digest", "crowd_index"}),
        (
            instance_schema(17),
            {"center", "scale", "subject_id", "track_id", "video_id", "num_keypoints", "head_bbox_xyxy", "posture"},
        ),
    ],
)
def test_only_what_a_source_may_not_state_can_be_empty(schema, may_be_empty):
    assert {field.name for field in schema if field.nullable} == may_be_empty


def test_columns_say_of_every_body_what_its_record_says(tmp_path):
    """Through several shards; the states are those of the masks, which are made apart from the columns."""
    random = np.random.default_rng(0)
    records = []
    for row in range(10):
        bodies = []
        for number in range(row % 4):
            points = random.uniform(-3, 119.9, (17, 3)).astype(np.float32)
            points[:, 2] = random.integers(0, 3, 17)
            points[points[:, 2] == 0] = 0
            given = {"center": (40.25, 50.1), "scale": (60.0, 80.3)} if number else {}
            missing = tuple(np.flatnonzero(points[:, 2] == 0)[:number].tolist())
            bodies.append(instance(f"{row}-{number}", 17, BOX, keypoints=points, absent=missing, **given))
        records.append(record("people", row, bodies))
    store = write_store(tmp_path, "people", [], records=records)
    assert len(store.manifest.shards) > 1
    table = store.instances
    assert table.schema == instance_schema(17)
    columns = store.manifest.vocabulary.index
    names = [columns(name) for name in store.manifest.definition.skeleton.union_names]
    rows = random.permutation(len(store))
    keypoints, states, (centers, scales) = (
        getattr(store.labels, name)(rows) for name in ("keypoints", "state", "center_scale")
    )
    for place, row in enumerate(rows.tolist()):
        sample = store.read_sample(table["image_row"][row].as_py())
        number = table["instance_index"][row].as_py()
        body = sample.record.instances[number]
        assert table["instance_id"][row].as_py() == body.id
        assert table["num_labelled"][row].as_py() == np.count_nonzero(body.keypoints[:, 2])
        np.testing.assert_array_equal(keypoints[place], body.keypoints[:, :2])
        np.testing.assert_array_equal(states[place], sample.masks.state[number, names])
        for found, stated in ((centers, body.center), (scales, body.scale)):
            np.testing.assert_array_equal(found[place], (np.nan, np.nan) if stated is None else stated)
    assert (states == KeypointState.ABSENT).any()
    assert np.isnan(centers).any()
    assert not np.isnan(centers).all()


def test_bodies_of_a_skeleton_without_points_keep_their_boxes(tmp_path):
    """Lists of the fixed length 0 do not come back from Parquet."""
    bodies = [instance("a", 0, BOX), instance("b", 0, BOX)]
    boxes_only = Skeleton(name="none0", keypoints=())
    store = write_store(tmp_path, "photos", [], skeleton=boxes_only, records=[record("photos", 0, bodies)])
    assert store.instances["bbox_h"].to_pylist() == [80.0, 80.0]
    assert store.labels.state(np.arange(2)).shape == (2, 0)
    assert store.labels.keypoints(np.arange(2)).shape == (2, 0, 2)
