import pytest

from posecore.datasets.discovery import dataset_folders, load_dataset
from posecore.skeletons.mirror_names import WrongPartner, other_side, wrong_partners
from posecore.skeletons.skeleton import Keypoint, Skeleton


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("left_ear", "right_ear"),
        ("ear_left", "ear_right"),
        ("L_Ear", "R_Ear"),
        ("ear.l", "ear.r"),
        ("leftEye", "rightEye"),
        ("earL", "earR"),
        ("LShoulder", "RShoulder"),
        ("front_left_paw", "front_right_paw"),
        ("LEFT_EAR", "RIGHT_EAR"),
        ("rear", None),
        ("elbow", None),
        ("leftover", None),
        ("tail", None),
    ],
)
def test_the_other_side_of_a_name(name: str, other: str | None) -> None:
    assert other_side(name) == other
    assert other is None or other_side(other) == name


def test_names_speak_against_missing_and_crossed_partners() -> None:
    def skeleton(**flips: str | None) -> Skeleton:
        points = tuple(Keypoint(name=name, union=name, flip=flip) for name, flip in flips.items())
        return Skeleton(name="mouse", keypoints=points)

    assert wrong_partners(skeleton(left_ear="right_ear", right_ear="left_ear", tail=None)) == []
    assert wrong_partners(skeleton(left_ear=None, right_ear=None)) == [
        WrongPartner("left_ear", None, "right_ear"),
        WrongPartner("right_ear", None, "left_ear"),
    ]
    crossed = wrong_partners(skeleton(left_ear="right_paw", right_paw="left_ear", right_ear=None))
    assert WrongPartner("left_ear", "right_paw", "right_ear") in crossed
    assert WrongPartner("right_paw", "left_ear", None) in crossed


def test_no_shipped_skeleton_is_met() -> None:
    assert [name for name in dataset_folders() if wrong_partners(load_dataset(name).skeleton)] == []
