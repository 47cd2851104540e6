"""Missed, redundant and swapped bodies: small cases with known answers, and a loop that knows nothing of arrays."""

from dataclasses import replace

import numpy as np
import pytest

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.body_errors import BodyErrors, body_errors, judge_bodies, meant_distances
from posecore.evaluation.oks import similarity_to_region
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.random_poses import random_case

SKELETON = Skeleton(
    name="four",
    keypoints=(
        Keypoint(name="head", union="head", oks_sigma=0.05),
        Keypoint(name="left", union="left", flip="right", oks_sigma=0.05),
        Keypoint(name="right", union="right", flip="left", oks_sigma=0.05),
        Keypoint(name="tail", union="tail", oks_sigma=0.05),
    ),
)
POSE = np.array([[0.0, 0.0], [-20.0, 30.0], [20.0, 30.0], [0.0, 60.0]])
AREA = 10_000.0
"""Likeness falls to a half at 0.05 · 2 · 100 px · √(2 ln 2), which are 11.8 px."""


def at(x: float, y: float) -> np.ndarray:
    """The shape, somewhere."""
    return POSE + np.array([x, y])


def bodies(*places: tuple[float, float], crowd: int | None = None, nameless: int | None = None) -> GroundTruth:
    """People of one picture, of the same shape, at places."""
    count = len(places)
    visibility = np.full((count, 4), 2, np.uint8)
    if nameless is not None:
        visibility[nameless] = 0
    return GroundTruth(
        image_ids=("a",),
        image_size=np.array([[500, 500]]),
        crowd_index=np.full(1, np.nan),
        instance_ids=tuple(str(row + 1) for row in range(count)),
        image_row=np.zeros(count, np.int64),
        keypoints=np.stack([POSE + place for place in places]),
        visibility=visibility,
        bbox_xywh=np.array([(x - 20.0, y, 40.0, 60.0) for x, y in places]),
        area=np.full(count, AREA),
        category_id=np.ones(count, np.int64),
        is_crowd=np.arange(count) == (-1 if crowd is None else crowd),
        num_keypoints=(visibility > 0).sum(axis=1),
        head_bbox_xyxy=np.full((count, 4), np.nan),
    )


def answers(*poses: np.ndarray, scores: tuple[float, ...] = ()) -> Predictions:
    """What was said of the picture, the surest first unless scores are given."""
    count = len(poses)
    return Predictions(
        image_ids=("a",),
        image_row=np.zeros(count, np.int64),
        instance_row=np.full(count, -1),
        keypoints=np.array(poses, np.float64).reshape(count, 4, 2),
        keypoint_scores=np.ones((count, 4)),
        scores=np.array(scores or np.linspace(0.9, 0.5, count)),
        category_id=np.ones(count, np.int64),
        crop_area=np.full(count, AREA),
    )


def counted(truth: GroundTruth, predictions: Predictions) -> BodyErrors:
    return body_errors(truth, predictions, SKELETON, truth.area)


def of(bodies: int, answers: int, **wrong: int) -> BodyErrors:
    return BodyErrors(bodies=bodies, answers=answers, **dict.fromkeys(WRONG, 0) | wrong)


WRONG = ("missed", "redundant", "doubled", "swapped", "swapped_points")


def test_right_answers_have_no_errors() -> None:
    truth = bodies((100, 100), (300, 100))
    assert counted(truth, answers(at(300, 100), at(102, 101))) == of(2, 2)
    assert counted(truth, answers()) == of(2, 0, missed=2)
    assert counted(bodies((100, 100)).take(np.zeros(1, bool)), answers(POSE)) == of(0, 1, redundant=1)


def test_a_second_answer_to_a_body_and_one_to_nobody_are_redundant() -> None:
    truth = bodies((100, 100), (300, 100))
    twice = answers(at(101, 100), at(100, 100), at(100, 400), scores=(0.5, 0.8, 0.9))
    assert counted(truth, twice) == of(2, 3, missed=1, redundant=2, doubled=1)
    verdicts = judge_bodies(truth, twice, SKELETON, truth.area)
    assert verdicts.partner.tolist() == [-1, 0, -1]
    assert verdicts.missed.tolist() == [False, True]
    assert verdicts.redundant.tolist() == [True, False, True]


def test_the_surer_answer_chooses_first_and_the_other_takes_the_next_body() -> None:
    truth = bodies((100, 100), (106, 100))
    both = answers(at(100, 100), at(101, 100))
    assert judge_bodies(truth, both, SKELETON, truth.area).partner.tolist() == [0, 1]


@pytest.mark.parametrize("special", [{"crowd": 1}, {"nameless": 1}])
def test_crowds_and_bodies_without_labels_are_not_missed_and_excuse_who_lies_on_them(special: dict[str, int]) -> None:
    truth = bodies((100, 100), (300, 100), **special)
    assert counted(truth, answers(at(100, 100))) == of(1, 1)
    assert counted(truth, answers(at(100, 100), at(300, 100), at(302, 101))) == of(1, 3)
    assert counted(truth, answers(at(100, 100), at(100, 450))) == of(1, 2, redundant=1)


def test_a_limb_of_another_body_is_a_swap_and_one_of_the_own_other_side_is_none() -> None:
    truth = bodies((100, 100), (200, 100))
    other_arm = at(100, 100)
    other_arm[1] = POSE[1] + (200, 100)
    assert counted(truth, answers(other_arm, at(200, 100))) == of(2, 2, swapped=1, swapped_points=1)
    mirrored = at(100, 100)
    mirrored[1] = POSE[2] + (200, 100)  # the left arm lies at the other's right one
    assert counted(truth, answers(mirrored, at(200, 100))) == of(2, 2, swapped=1, swapped_points=1)
    inverted = POSE[[0, 2, 1, 3]] + (100, 100)
    assert counted(truth, answers(inverted, at(200, 100))) == of(2, 2)
    lost = at(100, 100)
    lost[1] = (450, 450)
    assert counted(truth, answers(lost, at(200, 100))) == of(2, 2)


def test_an_answer_that_mixes_two_bodies_so_that_it_is_neither_is_swapped_as_well() -> None:
    """Its points are asked of the body that it is likest, by an OKS of 0.47."""
    truth = bodies((100, 100), (200, 100))
    mixed = at(100, 100)
    mixed[1:3] = [at(200, 100)[1], at(206, 100)[2]]
    mixed[3] = (450, 450)
    assert counted(truth, answers(mixed)) == of(2, 1, missed=2, redundant=1, swapped=1, swapped_points=1)


def test_distances_are_those_to_the_answers_meant_for_bodies_and_to_no_others() -> None:
    truth = bodies((100, 100), (200, 100), (400, 100))
    found = meant_distances(truth, answers(at(203, 104), at(100, 450), at(100, 101)), SKELETON, truth.area)
    assert found.truth_row.tolist() == [0, 1]
    assert found.prediction_row.tolist() == [2, 0]
    np.testing.assert_allclose(found.pixels, [[1] * 4, [5] * 4])


def test_a_double_takes_no_answer_from_a_neighbour() -> None:
    truth = bodies((100, 100), (120, 100))
    found = judge_bodies(truth, answers(at(100, 100), at(103, 100), at(120, 100)), SKELETON, truth.area)
    assert found.partner.tolist() == found.meant.tolist() == [0, -1, 1]
    assert found.counted() == of(2, 3, redundant=1, doubled=1)


def test_points_without_a_label_or_an_answer_are_no_swaps() -> None:
    truth = bodies((100, 100), (200, 100))
    other_arm = at(100, 100)
    other_arm[1] = POSE[1] + (200, 100)
    said = answers(other_arm, at(200, 100))
    unlabelled = replace(truth, visibility=truth.visibility * np.array([[1, 0, 1, 1], [1, 1, 1, 1]], np.uint8))
    assert counted(unlabelled, said).swapped == 0
    silent = replace(said, keypoint_scores=np.array([[1.0, 0, 1, 1], [1, 1, 1, 1]]))
    assert counted(truth, silent).swapped == 0


@pytest.mark.parametrize("seed", range(6))
def test_verdicts_equal_a_loop(seed: int) -> None:
    truth, predictions = random_case(seed, num_images=8, noise=0.15)
    skeleton = load_skeleton("coco17")
    sigmas, flip = skeleton.oks_sigmas, skeleton.flip_indices
    assert sigmas is not None

    def like(answer: int, body: int, point: int, of: int) -> float:
        if truth.visibility[body, of] == 0:
            return -1.0
        apart = np.hypot(*(predictions.keypoints[answer, point] - truth.keypoints[body, of]))
        return float(np.exp(-(apart**2) / (2 * truth.area[body] * (2 * sigmas[point]) ** 2)))

    def oks(answer: int, body: int) -> float:
        points = [point for point in range(17) if truth.visibility[body, point]]
        if points:
            return float(np.mean([like(answer, body, point, point) for point in points]))
        box, area = truth.bbox_xywh[[body]], truth.area[[body]]
        return float(similarity_to_region(predictions.keypoints[[answer]], box, area, sigmas)[0])

    missed, redundant, doubled, swapped, points = set(), 0, 0, 0, 0
    for image in range(len(truth.image_ids)):
        people = [row for row in range(len(truth)) if truth.image_row[row] == image]
        wanted = [row for row in people if truth.visibility[row].any() and not truth.is_crowd[row]]
        said = [row for row in range(len(predictions)) if predictions.image_row[row] == image]
        said.sort(key=lambda row: -predictions.scores[row])
        free, meant = list(wanted), dict[int, int]()
        for answer in said:
            # At equal likeness, the later annotation.
            by_likeness = sorted(people, key=lambda body: (oks(answer, body), body), reverse=True)
            fits = [body for body in by_likeness if oks(answer, body) >= 0.5]
            it = next((body for body in fits if body in free), None)
            if it is not None:
                free.remove(it)
                meant[answer] = it
            elif all(body in wanted for body in fits):
                redundant += 1
                doubled += bool(fits)
        unmeant = list(free)
        for answer in said:
            by_likeness = sorted(people, key=lambda body: (oks(answer, body), body), reverse=True)
            likest = next((body for body in by_likeness if oks(answer, body) >= 0.1 and body in unmeant), None)
            own = meant.get(answer, likest)
            if own is None:
                continue
            if answer not in meant:
                unmeant.remove(own)
            strange = 0
            for point in range(17):
                its = max(like(answer, own, point, of) for of in (point, flip[point]))
                theirs = [like(answer, b, point, of) for b in wanted if b != own for of in (point, flip[point])]
                theirs = max(theirs, default=-1.0)
                known = truth.visibility[own, point] > 0 and predictions.keypoint_scores[answer, point] > 0
                strange += bool(known and theirs >= 0.5 and theirs > its)
            swapped += strange > 0
            points += strange
        missed |= set(free)
    found = body_errors(truth, predictions, skeleton, truth.area)
    assert found == BodyErrors(
        bodies=int(truth.labelled.sum()),
        answers=len(predictions),
        missed=len(missed),
        redundant=redundant,
        doubled=doubled,
        swapped=swapped,
        swapped_points=points,
    )
    assert found.missed
    assert found.redundant > found.doubled


def test_a_skeleton_without_constants_is_refused() -> None:
    points = tuple(point.model_copy(update={"oks_sigma": None}) for point in SKELETON.keypoints)
    truth = bodies((100, 100))
    with pytest.raises(EvaluationError, match="skeleton four has points without an OKS constant"):
        body_errors(truth, answers(at(100, 100)), Skeleton(name="four", keypoints=points), truth.area)


def test_headline_names_what_was_counted() -> None:
    found = of(5, 6, missed=1, redundant=2, swapped=3)
    assert found.headline() == {"missed_bodies": 1.0, "redundant_bodies": 2.0, "swapped_bodies": 3.0}
