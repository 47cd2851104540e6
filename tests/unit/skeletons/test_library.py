import numpy as np
import pytest
from pycocotools.cocoeval import Params

from posecore.errors import DatasetError
from posecore.skeletons.library import load_skeleton, skeleton_names

NUM_KEYPOINTS = {
    "coco17": 17,
    "coco_wholebody133": 133,
    "halpe136": 136,
    "halpe26": 26,
    "mpii16": 16,
    "mpii_trb40": 40,
    "aic14": 14,
    "crowdpose14": 14,
    "ap10k17": 17,
    "animalpose20": 20,
    "ochuman19": 19,
    "humanart21": 21,
    "minirgbd25": 25,
    "goliath308": 308,
    "fidip19": 19,
    "posetrack17": 17,
    "jhmdb15": 15,
    "animalkingdom23": 23,
}


def test_all_shipped_skeletons_have_their_published_size():
    assert {name: load_skeleton(name).num_keypoints for name in skeleton_names()} == NUM_KEYPOINTS


@pytest.mark.parametrize("name", NUM_KEYPOINTS)
def test_sides_swap_under_flip_and_only_sideless_points_are_their_own_mirror(name):
    skeleton = load_skeleton(name)
    flip = skeleton.flip_indices
    assert (flip[flip] == range(len(flip))).all()
    sided = [i for i, union in enumerate(skeleton.union_names) if union.startswith(("left_", "right_"))]
    for index in sided:
        mirrored = skeleton.union_names[flip[index]]
        assert {mirrored.split("_")[0], skeleton.union_names[index].split("_")[0]} == {"left", "right"}
        assert mirrored.partition("_")[2] == skeleton.union_names[index].partition("_")[2]


def test_coco_has_pycocotools_sigmas():
    assert load_skeleton("coco17").oks_sigmas == pytest.approx(Params("keypoints").kpt_oks_sigmas, rel=1e-15)


def test_wholebody_sigmas_stay_asymmetric_as_published():
    skeleton = load_skeleton("coco_wholebody133")
    sigmas, names = skeleton.oks_sigmas, skeleton.names
    assert [sigmas[names.index(f"left_{p}")] for p in ("big_toe", "small_toe", "heel")] == [0.068, 0.066, 0.066]
    assert [sigmas[names.index(f"right_{p}")] for p in ("big_toe", "small_toe", "heel")] == [0.092, 0.094, 0.094]
    assert sigmas[names.index("face-47")] == 0.034
    assert sigmas[names.index("face-40")] == 0.009
    assert sum(sigmas[i] != sigmas[j] for i, j in skeleton.flip_pairs) == 25
    assert len(skeleton.flip_pairs) == 61


def test_halpe_foot_order_differs_from_wholebody():
    wholebody, halpe = load_skeleton("coco_wholebody133"), load_skeleton("halpe136")
    where = [halpe.union_names.index(wholebody.union_names[index]) for index in range(17, 23)]
    assert where == [20, 22, 24, 21, 23, 25]


def test_halpe_draws_its_fingers_from_the_wrist():
    """As the published configuration names the links; only COCO-WholeBody's start at a root of the hand."""
    halpe, wholebody = load_skeleton("halpe136"), load_skeleton("coco_wholebody133")
    assert len(halpe.links) == 67
    for skeleton, root in ((halpe, "wrist"), (wholebody, "hand_root")):
        for side in ("left", "right"):
            for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger"):
                starts = {a for a, b in skeleton.links if b == f"{side}_{finger}1"}
                assert starts == {f"{side}_{root}"}, skeleton.name


def test_what_nobody_published_of_oks_constants_is_not_made_up():
    stated = {name: sum(p.oks_sigma is not None for p in load_skeleton(name).keypoints) for name in NUM_KEYPOINTS}
    partly = {name: count for name, count in stated.items() if count != NUM_KEYPOINTS[name]}
    assert partly == {"mpii_trb40": 0, "minirgbd25": 0, "fidip19": 0, "ochuman19": 17, "animalkingdom23": 0}
    assert all(load_skeleton(name).oks_sigmas is None for name in partly)


def test_goliath_mirrors_cross_their_numbers():
    goliath = load_skeleton("goliath308")
    for name, mirror in {
        "upper_midpoint_2_of_r_eyebrow": "upper_midpoint_3_of_l_eyebrow",
        "l_point_2_of_inner_helix": "r_point_8_of_inner_helix",
        "l_border_of_iris_3": "r_border_of_iris_9",
    }.items():
        assert goliath.names[goliath.flip_indices[goliath.names.index(name)]] == mirror
    assert len(goliath.flip_pairs) == 146
    assert len(goliath.links) == 65


def test_goliath_lists_fingers_from_the_tip():
    goliath, wholebody = load_skeleton("goliath308"), load_skeleton("coco_wholebody133")
    for side, root, first in (("left", 91, 42), ("right", 112, 21)):
        for finger in range(5):
            for joint in range(1, 5):
                union = wholebody.union_names[root + 4 * finger + joint]
                assert goliath.union_names[first + 4 * finger + 4 - joint] == union, side


PARTS = {  # number of upper, lower and other points as mmpose's and Sapiens' own metadata have them
    "animalkingdom23": (14, 9, 0),
    "jhmdb15": (9, 6, 0),
    "posetrack17": (11, 6, 0),
    "aic14": (8, 6, 0),
    "animalpose20": (13, 7, 0),
    "ap10k17": (9, 8, 0),
    "coco17": (11, 6, 0),
    "coco_wholebody133": (11, 12, 110),
    "crowdpose14": (8, 6, 0),
    "goliath308": (51, 12, 245),
    "halpe136": (13, 13, 110),
    "halpe26": (13, 13, 0),
    "humanart21": (11, 10, 0),
    "mpii16": (9, 7, 0),
    "mpii_trb40": (22, 18, 0),
}


@pytest.mark.parametrize(("name", "counts"), PARTS.items())
def test_half_body_parts_follow_the_published_metadata(name, counts):
    skeleton = load_skeleton(name)
    upper, lower = skeleton.upper_body_mask, skeleton.lower_body_mask
    assert (upper.sum(), lower.sum(), (~upper & ~lower).sum()) == counts
    assert not (upper & lower).any()
    if name != "ap10k17":  # whose right front paw counts as lower, as published
        assert (upper == upper[skeleton.flip_indices]).all()
        assert (lower == lower[skeleton.flip_indices]).all()


def test_half_body_parts_by_name():
    def lower(name):
        return tuple(np.flatnonzero(load_skeleton(name).lower_body_mask).tolist())

    def upper(name):
        return tuple(np.flatnonzero(load_skeleton(name).upper_body_mask).tolist())

    assert upper("coco17") == upper("coco_wholebody133") == tuple(range(11))
    assert lower("coco_wholebody133") == tuple(range(11, 23))
    assert upper("mpii16") == (7, 8, 9, 10, 11, 12, 13, 14, 15)
    assert load_skeleton("ap10k17").names.index("right_front_paw") in lower("ap10k17")
    assert upper("goliath308") == (*range(9), *range(21, 63))
    assert lower("goliath308") == tuple(range(9, 21))


def test_groups_of_wholebody_are_the_official_parts():
    skeleton = load_skeleton("coco_wholebody133")
    sizes = [len(skeleton.indices_of_group(g)) for g in ("body", "foot", "face", "left_hand", "right_hand")]
    assert sizes == [17, 6, 68, 21, 21]
    assert skeleton.indices_of_group("left_hand") == tuple(range(91, 112))


def test_unknown_name_suggests_the_closest():
    with pytest.raises(DatasetError, match=r"unknown skeleton 'coco_17'. Did you mean coco17\? Known: aic14, "):
        load_skeleton("coco_17")
