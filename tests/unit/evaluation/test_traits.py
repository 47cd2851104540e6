from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.traits import Traits
from posecore.shards.store import open_store
from tests.support.tiny_store import instance, record, write_store

BOX = (5.0, 8.0, 60.0, 80.0)


def body(name, **fields):
    return instance(name, 17, BOX, **fields)


def records():
    made = [
        record("d", 0, [body("0", subject_id="anna")]),
        record("d", 1, [body("1"), body("2", extras={"posture": "Sitting"})]),
        record("d", 2, [body("3")]),
        record("d", 3, []),
    ]
    made[0].extras = {"posture": "Supine"}
    made[0].video_id, made[0].view_id = "clip", "top"
    made[1].extras = {"posture": "Prone"}
    made[1].video_id = "clip"
    made[2].extras = {"posture": ""}
    return made


def test_traits_are_what_records_state_and_nothing_more():
    traits = Traits.from_records(records())
    assert traits.subject == ("anna", None, None, None)
    assert traits.view == ("top", None, None, None)
    assert traits.video == ("clip", "clip", "clip", None)
    # The image's posture holds for a body alone in it; with two, only what the instance itself says.
    assert traits.posture == ("Supine", None, "Sitting", None)


def test_a_video_stands_for_an_unnamed_subject_and_an_image_for_an_unnamed_video():
    units = Traits.from_records(records()).units()
    assert units == [("subject", "anna"), ("video", "clip"), ("video", "clip"), ("image", "2")]


def test_traits_of_an_ingested_split_are_in_the_order_of_its_ground_truth(tmp_path):
    store = write_store(tmp_path, "d", (), records=records())
    traits = Traits.from_store(open_store(store.location))
    assert traits.posture == ("Supine", None, "Sitting", None)
    assert len(traits) == len(GroundTruth.from_store(store)) == 4
