import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posecore.errors import ConfigError, DatasetError
from posecore.formats.animal_kingdom import AnimalKingdomReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject
from posecore.skeletons.library import load_skeleton

pytestmark = pytest.mark.usefixtures("both_ways")

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
NAMES = load_skeleton("animalkingdom23").names
PLACES = {0: (220.5, 135.75), 1: (238.0, 151.0), 7: (260.25, 154.0), 18: (251.0, 269.5)}


def row(image: str = "AAOYRUDX/AAOYRUDX_f000027.jpg", **changes: Any) -> dict[str, Any]:
    """As ``annotation/ak_P1/test.json`` has it."""
    return {
        "image": image,
        "animal": "Elephant",
        "animal_parent_class": "Mammal",
        "animal_class": "Mammal",
        "animal_subclass": "Elephant",
        "joints_vis": [int(place in PLACES) for place in range(23)],
        "joints": [PLACES.get(place, (-1.0, -1.0)) for place in range(23)],
        "scale": 133.75 / 200,
        "center": [240.375, 202.625],
        "Protocol 1": "test",
        **changes,
    }


def coco(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as ``annotation_coco`` has it."""
    names = ["Ankle_Left " if name == "Ankle_Left" else name for name in NAMES]
    images = [{"id": n, "file_name": one["image"], "width": 640, "height": 360} for n, one in enumerate(rows)]
    bodies = [
        {
            "id": number,
            "image_id": number,
            "category_id": 4,
            **{name: one[name] for name in ("animal", "animal_class", "animal_subclass", "animal_parent_class")},
            "bbox": [221.0, 136.25, 38.75, 132.75],
            "area": 38.75 * 132.75,
            "iscrowd": 0,
            "num_keypoints": len(PLACES),
            "keypoints": [
                value for joint, flag in zip(one["joints"], one["joints_vis"], strict=True) for value in (*joint, flag)
            ],
        }
        for number, one in enumerate(rows)
    ]
    categories = [{"id": 4, "name": "Mammal", "keypoints": names, "skeleton": [[1, 0]]}]
    return {"images": images, "annotations": bodies, "categories": categories}


def test_both_forms_are_the_same(tmp_path: Path, make_source: Make, read: Read) -> None:
    rows = [row(), row("AAOYRUDX/AAOYRUDX_f000028.jpg")]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    (tmp_path / "coco.json").write_text(json.dumps(coco(rows)))
    own, rejects = read(AnimalKingdomReader(), make_source("own.json", "dataset", NAMES))
    theirs, others = read(AnimalKingdomReader(), make_source("coco.json", "dataset", NAMES, form="coco"))
    assert not rejects
    assert not others
    assert own[0].image == "dataset/AAOYRUDX/AAOYRUDX_f000027.jpg"
    for one, other in zip(own, theirs, strict=True):
        assert (one.image, one.width, one.height, one.video_id, one.frame_index) == (
            *(other.image, other.width, other.height, other.video_id),
            other.frame_index,
        )
        (body,), (same,) = one.instances, other.instances
        assert (body.keypoints == same.keypoints).all()
        assert (body.category, body.category_id, body.extras) == (same.category, same.category_id, same.extras)
        assert [a - b for a, b in zip(body.bbox_xywh, same.bbox_xywh, strict=True)] == [-0.5, -0.5, 1, 1]


def test_the_box_is_what_scale_and_center_say(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "own.json").write_text(json.dumps([row()]))
    (record,), _ = read(AnimalKingdomReader(), make_source("own.json", "dataset", NAMES))
    (body,) = record.instances
    x, y, width, height = body.bbox_xywh
    stated = row()
    assert max(width, height) == pytest.approx(200 * stated["scale"])
    assert [x + width / 2, y + height / 2] == pytest.approx(stated["center"])
    assert (body.category, body.category_id) == ("Mammal", 4)
    assert (record.video_id, record.frame_index) == ("AAOYRUDX", 27)
    assert (body.keypoints[:, 2] > 0).sum() == len(PLACES)


def test_rows_of_one_picture_are_one_record(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "own.json").write_text(json.dumps([row(), row("b/b_f1.jpg"), row()]))
    records, _ = read(AnimalKingdomReader(), make_source("own.json", "dataset", NAMES))
    assert [[body.id for body in record.instances] for record in records] == [["0", "2"], ["1"]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"joints": []}, "wrong-length"),
        ({"joints_vis": [0] * 23}, "no-keypoints"),
        ({"joints_vis": [-1] * 23}, "flag-out-of-range"),
        ({"animal_parent_class": "Fungus"}, "unknown-category"),
        ({"image": 7}, "not-a-text"),
    ],
)
def test_what_is_wrong_is_counted(
    changes: dict[str, Any], reason: str, tmp_path: Path, make_source: Make, read: Read
) -> None:
    (tmp_path / "own.json").write_text(json.dumps([row(**changes)]))
    _, rejects = read(AnimalKingdomReader(), make_source("own.json", "dataset", NAMES))
    assert [reject.reason for reject in rejects] == [reason]


def test_the_other_form_is_refused(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(coco([row()])))
    with pytest.raises(DatasetError, match="a list with a row per picture"):
        read(AnimalKingdomReader(), make_source("coco.json", "dataset", NAMES))
    with pytest.raises(ConfigError, match="form"):
        read(AnimalKingdomReader(), make_source("coco.json", "dataset", NAMES, form="voc"))
