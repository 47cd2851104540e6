import pytest

from posecore.skeletons.compare import compare_skeletons
from posecore.skeletons.library import load_skeleton


@pytest.mark.parametrize(
    ("new", "known", "point", "means", "other"),
    [
        ("minirgbd25", "coco17", "leftShoulder", "left_clavicle", "left_shoulder"),
        ("ap10k17", "mpii16", "neck", "animal_neck", "neck"),
    ],
)
def test_points_that_only_share_a_name_are_found(new: str, known: str, point: str, means: str, other: str) -> None:
    found = compare_skeletons(load_skeleton(new), load_skeleton(known)).lookalikes
    assert any((each.point, each.means, each.known_means) == (point, means, other) for each in found)


def test_points_that_mean_the_same_are_shared_whatever_their_names() -> None:
    comparison = compare_skeletons(load_skeleton("minirgbd25"), load_skeleton("coco17"))
    assert {"leftUpperArm", "leftThigh", "noseVertex"} <= set(comparison.shared)
    assert len(comparison.shared) + len(comparison.fresh) == 25
    assert not {each.point for each in comparison.lookalikes} - set(comparison.fresh)


def test_a_skeleton_beside_itself_has_nothing_new() -> None:
    skeleton = load_skeleton("coco17")
    comparison = compare_skeletons(skeleton, skeleton)
    assert comparison.shared == skeleton.names
    assert comparison.fresh == comparison.lookalikes == ()


def test_sides_are_never_mixed_up() -> None:
    for each in compare_skeletons(load_skeleton("ap10k17"), load_skeleton("coco17")).lookalikes:
        assert ("left" in each.means) == ("left" in each.known_means), each
