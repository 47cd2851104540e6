import pytest

from posecore.errors import DatasetError
from posecore.skeletons.library import load_skeleton, skeleton_names
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.skeletons.union import Vocabulary, builtin_vocabulary


def native(skeleton_name, union):
    """Native index of a union name, or None."""
    names = load_skeleton(skeleton_name).union_names
    return names.index(union) if union in names else None


def test_builtin_vocabulary_covers_every_shipped_skeleton_and_nothing_more():
    used = {union for name in skeleton_names() for union in load_skeleton(name).union_names}
    assert set(builtin_vocabulary().names) == used


def test_builtin_order_is_frozen():
    # Stored keypoint states are columns in this order: append to union.yaml, then extend this digest deliberately.
    assert builtin_vocabulary().size == 462
    assert builtin_vocabulary().digest() == "bc827ed60b85cb6cb862cc11ec2a7c2752998b9c07157d3bd166bc890775e928"


@pytest.mark.parametrize(
    ("union", "where"),
    [
        ("neck", {"halpe136": 18, "goliath308": 69, "mpii16": 8, "aic14": 13, "crowdpose14": 13, "ochuman19": 13}),
        ("head_top", {"halpe136": 17, "mpii16": 9, "aic14": 12, "crowdpose14": 12, "ochuman19": 12}),
        ("left_shoulder", {"coco17": 5, "mpii16": 13, "aic14": 3, "crowdpose14": 0, "minirgbd25": 16, "fidip19": 5}),
        ("left_clavicle", {"minirgbd25": 13}),
        ("right_wrist", {"coco17": 10, "goliath308": 41, "mpii16": 10, "aic14": 2, "minirgbd25": 21}),
        ("pelvis", {"halpe136": 19, "mpii16": 6, "fidip19": 8, "minirgbd25": 0}),
        ("thorax", {"mpii16": 7, "fidip19": 1}),
        ("left_front_mid", {"ap10k17": 6, "animalpose20": 12}),
        ("right_back_upper", {"ap10k17": 14, "animalpose20": 11}),
        ("tail_base", {"ap10k17": 4, "animalpose20": 6}),
        ("left_big_toe", {"coco_wholebody133": 17, "halpe136": 20, "goliath308": 15, "humanart21": 19}),
        ("left_hand_root", {"coco_wholebody133": 91, "halpe136": 94}),
        ("face_30", {"coco_wholebody133": 53, "halpe136": 56}),
    ],
)
def test_points_that_mean_the_same_share_an_entry(union, where):
    assert {name: native(name, union) for name in where} == where


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ap10k17", "neck"), ("aic14", "neck")),
        (("minirgbd25", "neck"), ("aic14", "neck")),
        (("fidip19", "neck"), ("aic14", "neck")),
        (("minirgbd25", "leftShoulder"), ("coco17", "left_shoulder")),
        (("minirgbd25", "head"), ("ochuman19", "head")),
        (("animalpose20", "L_EarBase"), ("coco17", "left_ear")),
        (("ap10k17", "left_elbow"), ("coco17", "left_elbow")),
        (("ap10k17", "left_hip"), ("coco17", "left_hip")),
        (("goliath308", "left_acromion"), ("coco17", "left_shoulder")),
        (("coco_wholebody133", "left_hand_root"), ("coco_wholebody133", "left_wrist")),
    ],
)
def test_points_that_only_share_a_name_are_two(one, other):
    unions = []
    for skeleton_name, point in (one, other):
        skeleton = load_skeleton(skeleton_name)
        unions.append(skeleton.union_names[skeleton.names.index(point)])
    assert unions[0] != unions[1]


def test_indices_are_positions_in_native_order():
    vocabulary = builtin_vocabulary()
    indices = vocabulary.indices(load_skeleton("crowdpose14"))
    assert [vocabulary.names[i] for i in indices] == list(load_skeleton("crowdpose14").union_names)


def test_extending_appends_and_keeps_positions():
    own = Skeleton(name="own", keypoints=(Keypoint(name="nose", union="nose"), Keypoint(name="lid", union="lid")))
    extended = builtin_vocabulary().extended([own])
    assert extended.names == (*builtin_vocabulary().names, "lid")
    assert extended.digest() != builtin_vocabulary().digest()
    with pytest.raises(DatasetError, match="'lid' is not among the 462 known names"):
        builtin_vocabulary().indices(own)


def test_a_name_cannot_be_there_twice():
    with pytest.raises(DatasetError, match="appear twice: nose"):
        Vocabulary(("nose", "nose"))
