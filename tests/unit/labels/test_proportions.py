"""Statistics of bodies: closed forms, invariances, degenerate labels, and why adults' are wrong for infants."""

import numpy as np
import pytest

from posecore.errors import ConfigError, DatasetError
from posecore.labels.bodies import LabelledBodies
from posecore.labels.contradictions import implausible_labels
from posecore.labels.plausibility import BodyScorer, learn_from_labels, worst_points
from posecore.labels.proportions import (
    BodyStatistics,
    angles_of,
    bone_lengths,
    joint_angles,
    learn_statistics,
    log_density,
)
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.synthetic_bodies import area_under_curve, diagonals, synthetic_bodies

COCO = load_skeleton("coco17")
STAR = Skeleton(
    name="star",
    keypoints=tuple(Keypoint(name=name, union=name) for name in ("hub", "a", "b", "c", "d", "e")),
    links=tuple(("hub", name) for name in "abcde"),
)


@pytest.fixture(scope="module")
def infants():
    return learn_from_labels(*synthetic_bodies("infant", 150), COCO, dataset="infants", digest="1" * 64)


@pytest.fixture(scope="module")
def adults():
    return learn_from_labels(*synthetic_bodies("adult", 150), COCO, dataset="adults", digest="2" * 64)


def stars(lengths, count=40, seed=0):
    """Bodies of any size, place and direction with given lengths, at angles of 72 degrees."""
    rng = np.random.default_rng(seed)
    turn = np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 2 * np.pi, (count, 1))
    tips = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * np.array(lengths)[..., None]
    bodies = np.concatenate([np.zeros((count, 1, 2)), tips], axis=1)
    size, place = rng.uniform(1, 100, (count, 1, 1)), rng.uniform(-500, 500, (count, 1, 2))
    return bodies * size + place, np.ones((count, 6), bool)


def test_lengths_of_equal_bodies_come_back_up_to_one_common_factor():
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    statistics = learn_statistics(*stars(lengths), STAR)
    found = np.exp([bone.log_length for bone in statistics.bones])
    np.testing.assert_allclose(found / found[0], lengths, rtol=1e-4)
    assert {bone.shorter for bone in statistics.bones} == {0.02}, "no spread is below what labels can show"


def test_wrong_labels_hardly_move_the_statistics():
    keypoints, labelled = synthetic_bodies("infant", 150)
    rng = np.random.default_rng(0)
    wrong = rng.random(labelled.shape) < 0.1
    noise = rng.normal(size=keypoints.shape) * 0.3 * diagonals(keypoints, labelled)[:, None, None]
    clean = learn_statistics(keypoints, labelled, COCO)
    noisy = learn_statistics(keypoints + wrong[..., None] * noise, labelled, COCO)
    moved = [abs(a.log_length - b.log_length) for a, b in zip(clean.bones, noisy.bones, strict=True)]
    assert max(moved) < 0.12


def test_angles_are_signed_and_do_not_care_for_the_direction_of_the_body():
    points = np.array([[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]])
    known, triple = np.ones((1, 3), bool), np.array([[0, 1, 2]])
    assert joint_angles(points, known, triple)[0, 0] == pytest.approx(np.pi / 2)
    assert joint_angles(points * [-1, 1], known, triple)[0, 0] == pytest.approx(-np.pi / 2)
    for degrees in (10, 123, 301):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turned = points @ np.array([[cos, sin], [-sin, cos]]) * 7 + 3
        assert joint_angles(turned, known, triple)[0, 0] == pytest.approx(np.pi / 2)


def test_every_pair_of_bones_that_meet_makes_an_angle():
    assert angles_of([(0, 1), (2, 1), (2, 3)]) == [(0, 1, 2), (1, 2, 3)]


def test_the_density_is_the_mean_of_fejer_kernels_and_a_uniform_share():
    keypoints, labelled = (array[:60] for array in synthetic_bodies("infant", 150))
    statistics = learn_statistics(keypoints, labelled, COCO)
    angle = next(a for a in statistics.angles if a.points[1] == "left_elbow")
    triple = np.array([[COCO.union_names.index(name) for name in angle.points]])
    mirrored = keypoints[:, COCO.flip_indices] * [-1, 1]
    seen = np.concatenate(
        [joint_angles(keypoints, labelled, triple), joint_angles(mirrored, labelled[:, COCO.flip_indices], triple)]
    )
    seen = seen[~np.isnan(seen)]
    at = np.linspace(-3.1, 3.1, 50)
    order = len(angle.cosines) + 1
    half = (at[:, None] - seen) / 2
    kernel = (np.sin(order * half) / np.sin(half)) ** 2 / order / (2 * np.pi)
    expected = (1 - angle.uniform) * kernel.mean(axis=1) + angle.uniform / (2 * np.pi)
    arrays = np.array([angle.cosines]), np.array([angle.sines]), np.array([angle.uniform])
    np.testing.assert_allclose(np.exp(log_density(at[:, None], *arrays))[:, 0], expected, atol=2e-4)
    circle = np.linspace(-np.pi, np.pi, 4000, endpoint=False)
    assert np.exp(log_density(circle[:, None], *arrays)).mean() * 2 * np.pi == pytest.approx(1, abs=1e-6)


def test_size_place_direction_and_side_of_a_body_change_nothing(infants):
    keypoints, labelled = (array[:20] for array in synthetic_bodies("infant", 100, seed=1))
    scorer = BodyScorer(infants, COCO)
    energies = scorer.point_energies(keypoints, labelled)
    turned = keypoints @ np.array([[0.6, 0.8], [-0.8, 0.6]]) * 3.7 + [500, -20]
    np.testing.assert_allclose(scorer.point_energies(turned, labelled), energies, rtol=1e-6, atol=1e-9)
    order = COCO.flip_indices
    mirrored = scorer.point_energies(keypoints[:, order] * [-1, 1], labelled[:, order])
    # Spreads are rounded in the file, sides share their bodies: equal up to that.
    np.testing.assert_allclose(mirrored, energies[:, order], rtol=2e-2, atol=2e-3)


def test_bones_without_length_are_no_observations():
    """As in SyRIP, where head points are filled with the nose."""
    keypoints, labelled = (array[:60].copy() for array in synthetic_bodies("infant", 150))
    labelled[:] = True
    head = [COCO.names.index(name) for name in ("left_eye", "right_eye", "left_ear", "right_ear")]
    keypoints[:, head] = keypoints[:, :1]
    statistics = learn_from_labels(keypoints, labelled, COCO)
    bones = {frozenset(bone.points) for bone in statistics.bones}
    assert frozenset(("nose", "left_eye")) not in bones
    assert frozenset(("left_eye", "left_ear")) not in bones
    assert frozenset(("left_hip", "left_knee")) in bones
    energies = BodyScorer(statistics, COCO).body_energies(keypoints, labelled)
    assert np.isfinite(energies).all()
    lengths, one_place = bone_lengths(keypoints, labelled, np.array([[0, 1]]))
    assert np.isnan(lengths).all()
    assert one_place.all()


def test_adults_proportions_condemn_infants(infants, adults):
    """Correct labels of other infants: 5 % may look odd to infants' statistics, nearly all do to adults'."""
    keypoints, labelled = synthetic_bodies("infant", 100, seed=1)
    by_infants, by_adults = BodyScorer(infants, COCO), BodyScorer(adults, COCO)
    odd = {who: float((s.plausibility(keypoints, labelled) < 0.05).mean()) for who, s in
           (("infants", by_infants), ("adults", by_adults))}  # fmt: skip
    assert odd["infants"] < 0.2
    assert odd["adults"] > 0.85
    penalty = [np.nanmean(s.penalties(keypoints, labelled).bones) for s in (by_infants, by_adults)]
    assert penalty[1] > 3 * penalty[0]
    bodies = LabelledBodies(rows=np.arange(len(keypoints)), keypoints=keypoints, labelled=labelled)
    flagged = [len(implausible_labels(s, bodies, 1.5)) for s in (by_infants, by_adults)]
    assert flagged[1] > 5 * flagged[0]
    grown, seen = synthetic_bodies("adult", 100, seed=1)
    assert (by_adults.plausibility(grown, seen) < 0.05).mean() < 0.2, "adults are not odd to adults"


def test_legs_and_eyes_differ_as_they_do_in_life(infants, adults):
    """Relative to the torso's side, infants' thighs are shorter and their eyes farther apart."""
    relative = {}
    for who, statistics in (("infants", infants), ("adults", adults)):
        lengths = {frozenset(bone.points): bone.log_length for bone in statistics.bones}
        torso = lengths[frozenset(("left_shoulder", "left_hip"))]
        relative[who] = {
            "thigh": np.exp(lengths[frozenset(("left_hip", "left_knee"))] - torso),
            "eyes": np.exp(lengths[frozenset(("left_eye", "right_eye"))] - torso),
        }
    assert relative["infants"]["thigh"] < 0.75 * relative["adults"]["thigh"]
    assert relative["infants"]["eyes"] > 1.5 * relative["adults"]["eyes"]


def test_a_misplaced_point_is_found_and_said_why(infants):
    keypoints, labelled = (array[:60] for array in synthetic_bodies("infant", 100, seed=1))
    wrist = COCO.names.index("left_wrist")
    elbow = COCO.names.index("left_elbow")
    whole = np.flatnonzero(labelled[:, [wrist, elbow]].all(axis=1) & (labelled.sum(axis=1) > 12))
    moved = keypoints.copy()
    moved[whole, wrist] += (moved[whole, wrist] - moved[whole, elbow]) * 3
    scorer = BodyScorer(infants, COCO)
    energies = scorer.point_energies(moved, labelled)[whole]
    assert (np.nanargmax(energies, axis=1) == wrist).mean() > 0.7
    assert np.median(scorer.plausibility(moved, labelled)[whole]) < 0.05
    bodies = LabelledBodies(rows=np.arange(100, 160), keypoints=moved, labelled=labelled)
    found = implausible_labels(scorer, bodies, 2.0)
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    reasons = [s.reason for s in found if s.point == wrist]
    assert len(reasons) > 0.7 * len(whole)
    assert any("left_elbow to left_wrist is" in reason and "times its usual length" in reason for reason in reasons)
    assert {s.row for s in found} <= set(range(100, 160))


def test_noise_on_a_tenth_of_the_labels_ranks_high_even_when_they_taught_the_statistics():
    keypoints, labelled = synthetic_bodies("infant", 150)
    rng = np.random.default_rng(0)
    wrong = (rng.random(labelled.shape) < 0.1) & labelled
    noise = rng.normal(size=keypoints.shape) * 0.1 * diagonals(keypoints, labelled)[:, None, None]
    noisy = keypoints + wrong[..., None] * noise
    energies = BodyScorer(learn_from_labels(noisy, labelled, COCO), COCO).point_energies(noisy, labelled)
    told = ~np.isnan(energies)
    assert area_under_curve(energies[told], wrong[told]) > 0.7


def test_two_points_in_one_place_come_first(infants):
    keypoints, labelled = (array[:5].copy() for array in synthetic_bodies("infant", 100, seed=1))
    knee, ankle = COCO.names.index("left_knee"), COCO.names.index("left_ankle")
    labelled[2] = True
    keypoints[2, ankle] = keypoints[2, knee]
    bodies = LabelledBodies(rows=np.arange(5), keypoints=keypoints, labelled=labelled)
    first, second = implausible_labels(BodyScorer(infants, COCO), bodies, 1e9)
    assert {(first.row, first.point), (second.row, second.point)} == {(2, knee), (2, ankle)}
    assert first.reason == "in the same place as left_ankle"


def test_statistics_come_back_from_their_file(infants, tmp_path):
    path = infants.save(tmp_path / "infants.json")
    assert BodyStatistics.load(path) == infants
    assert path.stat().st_size < 40_000
    assert (infants.skeleton, infants.dataset, infants.digest) == ("coco17", "infants", "1" * 64)
    assert infants.num_bodies > 100
    path.write_text('{"format": "posecore-body-statistics-1"}')
    with pytest.raises(ConfigError, match="num_bodies: Field required"):
        BodyStatistics.load(path)


def test_statistics_serve_another_skeleton_with_the_same_points_and_refuse_strangers(infants):
    wholebody = load_skeleton("coco_wholebody133")
    keypoints, labelled = (array[:10] for array in synthetic_bodies("infant", 100, seed=1))
    wide = np.zeros((10, 133, 2))
    wide[:, :17] = keypoints
    known = np.zeros((10, 133), bool)
    known[:, :17] = labelled
    ours = BodyScorer(infants, COCO).plausibility(keypoints, labelled)
    np.testing.assert_allclose(BodyScorer(infants, wholebody).plausibility(wide, known), ours)
    with pytest.raises(ConfigError, match="know 0 bones of skeleton star, and 4 are needed"):
        BodyScorer(infants, STAR)


def test_plausibility_is_the_share_of_labels_as_odd_or_odder(infants):
    keypoints, labelled = synthetic_bodies("infant", 150)
    plausibility = BodyScorer(infants, COCO).plausibility(keypoints, labelled)
    plausibility = plausibility[~np.isnan(plausibility)]
    for level in (0.1, 0.5, 0.9):
        assert (plausibility <= level).mean() == pytest.approx(level, abs=0.02)


def test_what_cannot_be_told_is_said_to_be_unknown(infants):
    scorer = BodyScorer(infants, COCO)
    keypoints = np.random.default_rng(0).uniform(0, 90, (2, 17, 2))
    known = np.zeros((2, 17), bool)
    known[1, 5] = True
    assert np.isnan(scorer.plausibility(keypoints, known)).all()
    assert worst_points(np.array([[np.nan, 3.0, 1.0, 2.0, 4.0], [np.nan] * 5]))[0] == 3.0


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_labels_are_refused_in_one_sentence(count):
    keypoints, labelled = (array[:count] for array in synthetic_bodies("infant", 150))
    message = (
        rf"infants train: \d of {count} labelled bodies show at least 4 bones, and proportions need 20 such bodies"
    )
    with pytest.raises(DatasetError, match=message):
        learn_from_labels(keypoints, labelled, COCO, dataset="infants train")


def test_links_that_never_meet_have_lengths_and_no_angles():
    names = "abcdefgh"
    apart = Skeleton(
        name="apart",
        keypoints=tuple(Keypoint(name=name, union=name) for name in names),
        links=tuple(zip(names[::2], names[1::2], strict=True)),
    )
    rng = np.random.default_rng(0)
    keypoints = np.arange(8)[:, None] * 10.0 + rng.normal(0, 0.1, (40, 8, 2))
    keypoints[7, 1] += 80
    labelled = np.ones((40, 8), bool)
    statistics = learn_from_labels(keypoints, labelled, apart)
    assert len(statistics.bones) == 4
    assert statistics.angles == ()
    bodies = LabelledBodies(rows=np.arange(40), keypoints=keypoints, labelled=labelled)
    found = implausible_labels(BodyScorer(statistics, apart), bodies)
    assert {(suspect.row, suspect.point) for suspect in found} == {(7, 0), (7, 1)}


def test_a_skeleton_without_links_is_refused():
    loose = Skeleton(name="loose", keypoints=STAR.keypoints)
    with pytest.raises(DatasetError, match="skeleton loose links no points"):
        learn_statistics(*stars([1, 2, 3, 4, 5]), loose)
