"""Scenes: reproducible, and true in every label."""

from typing import get_args

import numpy as np
import pytest

from posecore.synth.figure import Figure, rotation_y
from posecore.synth.human import adult_look, adult_pose, adult_shape, infant_look, infant_shape
from posecore.synth.human_figure import build_human
from posecore.synth.landmarks import AP10K_17, COCO_17, MPII_16, WHOLEBODY_133
from posecore.synth.quadruped import build_quadruped, quadruped_look, quadruped_pose
from posecore.synth.randomness import generator
from posecore.synth.scene import Kind, Scene, render

SIZE = (96, 128)
KINDS = get_args(Kind)
FRONTAL = np.diag([1.0, -1.0, -1.0])


def same(first: Scene, second: Scene) -> bool:
    return (
        bool((first.image == second.image).all())
        and bool((first.depth == second.depth).all())
        and len(first.bodies) == len(second.bodies)
        and all(
            bool((a.points == b.points).all() and (a.mask == b.mask).all() and a.subject == b.subject)
            for a, b in zip(first.bodies, second.bodies, strict=True)
        )
    )


def positions(figure: Figure) -> dict[str, np.ndarray]:
    """Landmarks of a figure that faces the viewer, in picture axes."""
    return {
        name: FRONTAL @ position
        for names, block, _, _ in figure.landmarks
        for name, position in zip(names, block, strict=True)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_depends_on_its_seed_and_index_and_not_on_the_order_of_rendering(kind: Kind) -> None:
    forwards = [render(kind, 5, index, SIZE) for index in range(4)]
    backwards = [render(kind, 5, index, SIZE) for index in reversed(range(4))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(forwards[0], forwards[1])
    assert not same(forwards[0], render(kind, 6, 0, SIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_agree_with_the_pixels(kind: Kind) -> None:
    seen_points = hidden_points = 0
    for index in range(12):
        scene = render(kind, 1, index, SIZE)
        assert scene.image.shape == (*SIZE, 3)
        assert scene.depth.shape == SIZE
        assert np.isfinite(scene.depth).all()
        assert scene.depth.min() > 0
        total = np.zeros(SIZE, np.int64)
        for body in scene.bodies:
            total += body.mask
            points = body.points
            labelled = points[:, 2] > 0
            assert (points[labelled, :2] > -0.5).all()
            assert (points[labelled, :2] < (SIZE[1] - 0.5, SIZE[0] - 0.5)).all()
            x, y = np.rint(points[points[:, 2] == 2, :2]).astype(int).T
            assert body.mask[y, x].all()
            seen_points += len(x)
            hidden_points += int((points[:, 2] == 1).sum())
            left, top, width, height = body.extent_xywh
            rows, columns = np.nonzero(body.mask)
            assert columns.min() >= left - 1
            assert columns.max() <= left + width + 1
            assert rows.min() >= top - 1
            assert rows.max() <= top + height + 1
        assert total.max() <= 1  # a pixel belongs to one body
    assert seen_points > 100
    assert hidden_points > 10


def test_every_format_finds_its_points_on_the_bodies_it_is_made_for() -> None:
    adult = next(body for body in render("adult", 0, 3, SIZE).bodies)
    assert len(set(adult.names)) == len(adult.names)
    for names, count in ((COCO_17, 17), (WHOLEBODY_133, 133), (MPII_16, 16)):
        assert adult.keypoints(names).shape == (count, 3)
    animal = render("quadruped", 0, 3, SIZE).bodies[0]
    keypoints = animal.keypoints(AP10K_17)
    assert keypoints.shape == (17, 3)
    assert (keypoints[keypoints[:, 2] == 0] == 0).all()


def test_seen_from_the_front_the_subjects_left_is_on_the_pictures_right() -> None:
    rng = generator("adult", 0, 1)
    shape, look = adult_shape(rng), adult_look(rng)
    place = positions(build_human(shape, look, adult_pose(rng), detail=True))
    for name in ("shoulder", "hip"):
        assert place[f"left_{name}"][0] > place[f"right_{name}"][0] + 0.05
    for foot in ("left", "right"):
        inwards = -1 if foot == "left" else 1
        assert inwards * (place[f"{foot}_big_toe"][0] - place[f"{foot}_small_toe"][0]) > 0
    animal = generator("quadruped", 0, 1)
    place = positions(build_quadruped(quadruped_look(animal), quadruped_pose(animal), detail=True))
    for name in ("shoulder", "front_paw", "hip", "back_paw"):
        assert place[f"left_{name}"][0] > place[f"right_{name}"][0]


def test_face_and_hands_fit_the_body_points() -> None:
    rng = generator("adult", 0, 2)
    place = positions(build_human(adult_shape(rng), adult_look(rng), adult_pose(rng), detail=True))
    right_eye = np.mean([place[f"face-{index}"] for index in range(36, 42)], axis=0)
    left_eye = np.mean([place[f"face-{index}"] for index in range(42, 48)], axis=0)
    for contour, name in ((right_eye, "right_eye"), (left_eye, "left_eye")):
        np.testing.assert_allclose(contour, place[name], atol=0.004)
    np.testing.assert_allclose(place["face-30"], place["nose"], atol=0.004)
    assert np.linalg.norm(place["face-0"] - place["right_ear"]) < np.linalg.norm(place["face-0"] - place["left_ear"])
    for side in ("left", "right"):
        tips = [place[f"{side}_{name}4"] for name in ("forefinger", "middle_finger", "ring_finger", "pinky_finger")]
        to_thumb = [np.linalg.norm(tip - place[f"{side}_thumb4"]) for tip in tips]
        assert to_thumb == sorted(to_thumb)
        assert np.linalg.norm(place[f"{side}_hand_root"] - place[f"{side}_wrist"]) < 0.02


@pytest.mark.parametrize("kind", ["adult", "infant"])
def test_wherever_a_face_is_seen_left_and_right_eye_have_the_right_sense_of_rotation(kind: Kind) -> None:
    found = 0
    for index in range(40):
        for body in render(kind, 2, index, SIZE).bodies:
            nose, left, right = body.keypoints(("nose", "left_eye", "right_eye"))
            if min(nose[2], left[2], right[2]) == 2 and np.hypot(*(left - right)[:2]) > 2:
                across, down = (left - right)[:2], (nose - (left + right) / 2)[:2]
                assert across[0] * down[1] - across[1] * down[0] > 0
                found += 1
    assert found > 5


def test_a_turned_head_hides_its_far_side_from_the_annotator() -> None:
    """Seen exactly from its left, a head shows no right ear: such points are unlabelled, not guessed."""
    unlabelled = {"left": 0, "right": 0}
    for index in range(60):
        for body in render("adult", 3, index, SIZE).bodies:
            ears = dict(zip(("left", "right"), body.keypoints(("left_ear", "right_ear"))[:, 2], strict=True))
            unlabelled["left"] += ears["left"] == 0 and ears["right"] > 0
            unlabelled["right"] += ears["right"] == 0 and ears["left"] > 0
    assert min(unlabelled.values()) > 3


def test_infants_are_not_small_adults() -> None:
    def heads_per_height(shape_of, look_of) -> float:  # type: ignore[no-untyped-def]
        ratios = []
        for subject in range(5):
            rng = generator("adult", 9, subject)
            shape, look = shape_of(rng), look_of(rng)
            place = positions(build_human(shape, look, adult_pose(rng), detail=False))
            chin = place["face-8"]
            head = np.linalg.norm(place["head_top"] - chin)
            ratios.append((shape.torso + shape.thigh + shape.shank + 2 * shape.head[1]) / head)
        return float(np.mean(ratios))

    adult, infant = heads_per_height(adult_shape, adult_look), heads_per_height(infant_shape, infant_look)
    assert adult > 6
    assert infant < 4.5


def test_subjects_are_drawn_from_the_given_range_and_look_the_same_everywhere() -> None:
    subjects = {body.subject for index in range(10) for body in render("infant", 0, index, SIZE, range(40, 43)).bodies}
    assert subjects <= {40, 41, 42}
    assert len(subjects) > 1
    looks = [infant_look(generator("infant", 0, 41)) for _ in range(2)]
    assert looks[0] == looks[1]


def test_rotation_y_turns_the_body_to_its_own_left() -> None:
    forward = rotation_y(90) @ np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(forward, [1, 0, 0], atol=1e-12)
