from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.labels.agreement import agreement
from posecore.schema import Instance, Record
from posecore.skeletons.library import load_skeleton

SKELETON = load_skeleton("coco17")
SIGMAS = SKELETON.oks_sigmas
SIDE = 100.0


def body(points: NDArray[np.float64], subject: str | None = None, track: str | None = None) -> Instance:
    rows = np.concatenate([points, np.full((len(points), 1), 2)], axis=1).astype(np.float32)
    return Instance(
        id=track or "0", bbox_xywh=(0, 0, SIDE, SIDE), keypoints=rows, area=SIDE**2, area_rule="box",
        subject_id=subject, track_id=track,
    )  # fmt: skip


def record(name: str, *bodies: Instance) -> Record:
    return Record(
        dataset="d", split="s", source_id=name, image=f"a/{name}.png", width=0, height=0, instances=list(bodies)
    )


def twice(count: int, bias: float = 0.0, named: bool = False) -> Iterator[tuple[Record, Record]]:
    """Pictures that two people label with COCO's own spread, the second with a steady shift of the nose in x."""
    generator = np.random.default_rng(0)
    assert SIGMAS is not None
    for number in range(count):
        truth = generator.uniform(0, SIDE, (17, 2))
        # sigma² is of the distance, so each axis has half of it
        drawn = truth + generator.normal(size=(2, 17, 2)) * SIGMAS[:, None] * SIDE / np.sqrt(2)
        drawn[1, 0, 0] += bias * SIDE
        subject = f"s{number % 10}" if named else None
        yield tuple(record(str(number), body(one, subject)) for one in drawn)  # type: ignore[misc]


def test_constants_come_back_that_the_annotators_have() -> None:
    first, second = zip(*twice(4000), strict=True)
    found = agreement(first, second, SKELETON)
    assert [point.sigma for point in found.points] == pytest.approx(SIGMAS, rel=0.05)
    assert (found.num_pictures, found.num_bodies, found.num_swapped, found.drawn_by) == (4000, 4000, 0, "pictures")
    inside = [
        low <= sigma <= high for sigma, (low, high) in zip(SIGMAS, (p.interval for p in found.points), strict=True)
    ]
    assert sum(inside) >= 14  # 95 % of 17, less what chance may take
    assert sum(point.is_biased for point in found.points) <= 3


def test_a_steady_difference_is_called_a_bias() -> None:
    first, second = zip(*twice(300, bias=0.05), strict=True)
    nose = agreement(first, second, SKELETON).points[0]
    assert nose.is_biased
    assert nose.bias == pytest.approx((0.05, 0), abs=0.01)


def test_intervals_are_wider_where_pictures_are_of_few_subjects() -> None:
    pairs = list(twice(200, named=True))
    shift = {f"s{number}": np.float32(0.1 * SIDE * (number - 4.5)) for number in range(10)}
    for _, other in pairs:
        other.instances[0].keypoints[:, 0] += shift[str(other.instances[0].subject_id)]
    first, second = zip(*pairs, strict=True)
    by_subject = agreement(first, second, SKELETON)
    for one in (*first, *second):
        one.instances[0].subject_id = None
    by_picture = agreement(first, second, SKELETON)
    assert by_subject.drawn_by == "subjects"
    widths = [found.points[0].interval[1] - found.points[0].interval[0] for found in (by_subject, by_picture)]
    assert widths[0] > 2 * widths[1]


def test_bodies_are_the_same_by_name_and_else_by_place() -> None:
    here, there = np.full((17, 2), 10.0), np.full((17, 2), 80.0)
    first = record("a", body(here), body(there))
    found = agreement([first], [record("a", body(there + 1), body(here + 1))], SKELETON)
    assert [point.bias for point in found.points] == [pytest.approx((0.01, 0.01))] * 17
    first = record("a", body(here, track="x"), body(there, track="y"))
    found = agreement([first], [record("a", body(here + 1, track="y"))], SKELETON)
    assert found.num_unpaired == (1, 0)
    assert found.points[0].bias == pytest.approx((-0.69, -0.69))
    far = agreement(
        [record("a", body(here)), record("b", body(here))], [record("a", body(here)), record("b")], SKELETON
    )
    assert far.num_unpaired == (1, 0)


def test_exchanged_sides_are_counted_and_left_out() -> None:
    points = np.random.default_rng(1).uniform(0, SIDE, (17, 2))
    other = body(points)
    other.keypoints[:] = other.keypoints[SKELETON.flip_indices]
    found = agreement(
        [record("a", body(points)), record("b", body(points))],
        [record("a", other), record("b", body(points))],
        SKELETON,
    )
    assert (found.num_swapped, found.num_bodies, found.points[5].num_pairs) == (1, 2, 1)


def test_points_that_one_annotator_left_out_are_counted() -> None:
    points = np.random.default_rng(1).uniform(0, SIDE, (17, 2))
    first, second = body(points), body(points + 2)
    first.keypoints[0], second.keypoints[1] = 0, 0
    nose, eye, *_ = agreement([record("a", first)], [record("a", second)], SKELETON).points
    assert (nose.num_pairs, nose.num_alone, eye.num_alone) == (0, (0, 1), (1, 0))
    assert np.isnan(nose.sigma)
    assert agreement([record("a", first)], [record("a", second)], SKELETON).to_json()["oks_sigmas"]["nose"] is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([record("a")], [record("b")], r"first has a.png, the second b.png"),
        ([record("a"), record("a")], [record("a")], "have one name"),
        ([record("a")], [record("a")], "no body is in both"),
    ],
)
def test_what_cannot_be_compared_is_said(first: list[Record], second: list[Record], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        agreement(first, second, SKELETON)
