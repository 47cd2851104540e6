"""Labels that do not mean what they are read as, made from real healthy ones, and found by how they relate."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posecore.datasets.areas import areas_of_boxes, impossible_areas
from posecore.datasets.check import check_split
from posecore.datasets.discovery import load_dataset, read_split
from posecore.datasets.relations import Bodies, columns_of, relations, worst, worst_records
from posecore.schema import Instance, Record
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Keypoint, Skeleton

COCO17 = load_skeleton("coco17")
MOUSE = Skeleton(name="mouse", keypoints=tuple(Keypoint(name=name, union=name) for name in ("a", "b", "c", "d")))


@pytest.fixture(scope="module")
def healthy(samples: Path) -> Bodies:
    """COCO's own labels of 160 photographs."""
    definition = load_dataset("coco")
    records = [item for split in ("train", "val") for item in read_split(definition, split, samples / "coco")]
    return columns_of([item for item in records if isinstance(item, Record)], 17)


def _corners(bodies: Bodies) -> Bodies:
    """The corners of the boxes where x, y, width, height belong."""
    x, y, w, h = bodies.boxes.T
    return replace(bodies, boxes=np.stack([x, y, x + w, y + h], axis=1))


def _of_picture(bodies: Bodies) -> Bodies:
    return replace(bodies, points=bodies.points / bodies.sizes[:, None])


def _from_box(bodies: Bodies) -> Bodies:
    return replace(bodies, points=bodies.points - bodies.boxes[:, None, :2])


def _boxes_by_centre(bodies: Bodies) -> Bodies:
    x, y, w, h = bodies.boxes.T
    return replace(bodies, boxes=np.stack([x + w / 2, y + h / 2, w, h], axis=1))


def test_healthy_labels_fit(healthy: Bodies) -> None:
    assert len(healthy.names) > 250
    assert relations(healthy, COCO17) == []
    # The share that the thresholds stand on.
    assert healthy.outside_of_all() == pytest.approx(0.023, abs=0.005)


@pytest.mark.parametrize(
    ("spoil", "code", "cause"),
    [
        (
            lambda b: replace(b, points=b.points[..., ::-1]),
            "points-outside-box",
            "with x and y of the points swapped, 2%",
        ),
        (lambda b: replace(b, points=b.points / 2), "points-outside-box", "points in another unit (2 × as large)"),
        (lambda b: replace(b, points=b.points * 3), "points-outside-box", "points in another unit (0.34 × as large)"),
        (_of_picture, "points-outside-box", "points as shares of the picture"),
        (_from_box, "points-outside-box", "points counted from the corner of their box"),
        (_boxes_by_centre, "points-outside-box", "boxes as centre, width, height"),
        (_corners, "boxes-are-corners", "probably corners x1, y1, x2, y2"),
    ],
)
def test_what_a_field_means_instead_is_named(
    healthy: Bodies, spoil: Callable[[Bodies], Bodies], code: str, cause: str
) -> None:
    (finding,) = relations(spoil(healthy), COCO17)
    assert (finding.severity, finding.code) == ("error", code)
    assert cause in finding.message
    assert len(finding.examples) == 3


def test_a_reading_that_needs_sizes_nobody_knows_explains_nothing(healthy: Bodies) -> None:
    unknown = replace(healthy, points=healthy.points[..., ::-1], sizes=np.full_like(healthy.sizes, np.nan))
    (finding,) = relations(unknown, COCO17)
    assert "with x and y of the points swapped, 2% would" in finding.message


def test_boxes_without_a_size_are_not_related() -> None:
    """They are said to be bad elsewhere; here they would be divided by."""
    points = np.array([[4, 4, 2], [5, 5, 2], [6, 4, 2], [6, 6, 2]], np.float32)
    body = Instance(id="1", bbox_xywh=(4, 4, 0, 5), keypoints=points, area=1.0, area_rule="box", category="mouse")
    record = Record(dataset="a", split="b", source_id="1", image="1.png", width=9, height=9, instances=[body] * 4)
    assert relations(columns_of([record], 4), MOUSE) == []


def test_corners_are_met_where_none_leaves_its_picture() -> None:
    """Small bodies in the upper left: their corners are boxes within the picture, too, but lopsided ones."""
    points = np.array([[24, 48, 2], [38, 40, 2], [58, 40, 1], [72, 48, 2]], np.float32)
    body = Instance(id="1", bbox_xywh=(24, 36, 72, 60), keypoints=points, area=1.0, area_rule="box", category="mouse")
    records = [
        Record(dataset="a", split="b", source_id=str(n), image=f"{n}.png", width=96, height=96, instances=[body])
        for n in range(4)
    ]
    (finding,) = relations(columns_of(records, 4), MOUSE)
    assert finding.code == "boxes-are-corners"


def test_the_worst_come_first(healthy: Bodies) -> None:
    spoilt = healthy.points.copy()
    row = int(healthy.num_labelled.argmax())
    spoilt[row] += 1000
    assert worst(replace(healthy, points=spoilt))[0] == row
    assert worst(replace(healthy, points=np.full_like(spoilt, np.nan))) == []


def test_a_point_at_one_place_in_many_pictures_is_met(healthy: Bodies) -> None:
    points = healthy.points.copy()
    points[:60, 3] = (17, 4)
    (finding,) = relations(replace(healthy, points=points), COCO17)
    assert (finding.severity, finding.code, finding.count) == ("warning", "one-place", 60)
    assert "labels of left_ear lie at (17, 4)" in finding.message


def test_areas_that_are_those_of_boxes_are_met() -> None:
    boxes = np.linspace(100, 9000, 20)
    assert areas_of_boxes(boxes * 0.53, boxes) is None
    assert "area_rule" in (areas_of_boxes(boxes, boxes) or "")
    assert impossible_areas(boxes, boxes) is None


def test_whole_samples_have_no_relation_that_is_wrong(samples: Path) -> None:
    for name, split in (("aic", "val"), ("ap10k", "val"), ("coco_wholebody", "val"), ("halpe", "val"), ("mpii", "val")):
        found = check_split(load_dataset(name), split, samples / name).findings
        assert not {item.code for item in found} & {
            "points-outside-box",
            "boxes-are-corners",
            "one-place",
            "areas-are-boxes",
            "labelled-at-origin",
            "16-bit",
        }, name


def test_the_worst_three_are_the_bodies_that_are_spoilt(samples: Path) -> None:
    definition = load_dataset("coco")
    records = [item for item in read_split(definition, "val", samples / "coco") if isinstance(item, Record)]
    labelled = [record for record in records if record.width and any(b.keypoints.any() for b in record.instances)]
    spoilt = {}
    for record in labelled[:3]:
        body = next(body for body in record.instances if body.keypoints.any() and not body.is_crowd)
        points = body.keypoints.copy()
        points[points[:, 2] > 0, :2] += 4 * max(body.bbox_xywh[2:])
        spoilt[record.source_id] = body.id
        record.instances[record.instances.index(body)] = replace(body, keypoints=points)
    shown = worst_records(labelled, columns_of(labelled, 17))
    assert {record.source_id: record.instances[0].id for record in shown} == spoilt
    assert all(len(record.instances) == 1 for record in shown)
    assert worst_records([], columns_of([], 17)) == []
