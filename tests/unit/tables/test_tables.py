"""Annotations as tables: nothing is lost on the way there and back, in any portions and any order."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from posecore.datasets.discovery import load_dataset, read_split
from posecore.schema import DepthImage, Record, Reject, record_to_json
from posecore.tables.columns import Annotations
from posecore.tables.digest import update_with_table
from posecore.tables.json_text import ImageTexts
from posecore.tables.parts import Parts, write_part
from posecore.tables.records import divided, keypoints_of, to_annotations, to_records
from tests.support.small_split import instance, records


@pytest.fixture
def full(tmp_path):
    """Records in which every field says something somewhere, and nothing elsewhere."""
    source = records(tmp_path, 7)
    rich = instance(
        "rich",
        absent=(2,),
        num_keypoints=2,
        head_bbox_xyxy=(1.0, 2.0, 3.5, 4.0),
        center=(3.25, 4.0),
        scale=(10.0, 20.5),
        keypoints_3d=np.arange(9, dtype=np.float32).reshape(3, 3),
        track_id="t",
        segmentation={"size": [48, 64], "counts": [10, 62, 3000]},
        extras={"weight": 0.1, "of": [1, {"two": None}]},
        category="infant",
        category_id=1 << 40,
    )
    source[2] = replace(
        source[2],
        instances=[rich, *source[2].instances],
        license="CC0-1.0",
        view_id="top",
        frame_index=5,
        depth=DepthImage(image="depth/2.png", metres_per_unit=0.001),
        extras={"posture": "supine", "ä": [True]},
    )
    source[4] = replace(source[4], instances=[])
    return source


def texts(source):
    return [record_to_json(record) for record in source]


def texts_of_columns(tables, name, split, source):
    of = ImageTexts(tables, name, split)
    edges = np.searchsorted(tables.image_rows, np.arange(len(source) + 1)).tolist()
    return [
        of.text(row, (record.height, record.width), record.digest, record.depth, range(edges[row], edges[row + 1]))
        for row, record in enumerate(source)
    ]


def digest(table):
    state = hashlib.sha256()
    update_with_table(state, table)
    return state.hexdigest()


def test_records_come_back_as_they_went(full):
    tables = to_annotations(full, 3)
    assert tables.instances["keypoints"].type.list_size == 9
    assert texts(to_records(tables, "tiny", "train")) == texts(full)
    assert texts_of_columns(tables, "tiny", "train", full) == texts(full)
    some, one = tables.slice(2, 5), ImageTexts(tables.slice(2, 3), "tiny", "train")
    assert texts_of_columns(some, "tiny", "train", full[2:5]) == texts(full[2:5])
    size, bodies = (full[2].height, full[2].width), range(1, len(full[2].instances))
    without_first = one.text(0, size, "", full[2].depth, bodies)
    assert without_first == record_to_json(replace(full[2], instances=full[2].instances[1:]))


@pytest.mark.samples
@pytest.mark.parametrize(("name", "split"), [("coco", "train"), ("mpii", "val"), ("crowdpose", "mmpose_test")])
def test_real_annotations_come_back_as_they_went(samples, name, split):
    definition = load_dataset(name)
    source = [item for item in read_split(definition, split, samples / name) if isinstance(item, Record)]
    assert source
    tables = to_annotations(source, definition.skeleton.num_keypoints)
    assert texts(to_records(tables, name, split)) == texts(source)
    assert texts_of_columns(tables, name, split, source) == texts(source)


def test_portions_are_the_whole(full):
    whole = to_annotations(full, 3)
    portions = [whole.slice(start, min(start + 3, 7)) for start in range(0, 7, 3)]
    assert [texts(to_records(portion, "tiny", "train")) for portion in portions] == [
        texts(full[start : start + 3]) for start in range(0, 7, 3)
    ]
    again = Annotations.joined(portions)
    assert again.images.equals(whole.images)
    assert again.instances.equals(whole.instances)


def test_what_is_left_of_some_images_are_their_records_without_the_others(full):
    kept = [1, 2, 6]
    firsts = np.cumsum([0, *(len(record.instances) for record in full)]).tolist()
    bodies = [body for row in kept for body in range(firsts[row] + (row == 2), firsts[row + 1])]
    left = to_annotations(full, 3).left(kept, bodies)
    full[2] = replace(full[2], instances=full[2].instances[1:])
    assert texts(to_records(left, "tiny", "train")) == texts([full[row] for row in kept])


def test_a_digest_knows_values_and_not_where_they_lie(full):
    whole = to_annotations(full, 3)
    apart = Annotations.joined([to_annotations(full[:3], 3), to_annotations(full[3:], 3)])
    assert [digest(whole.images), digest(whole.instances)] == [digest(apart.images), digest(apart.instances)]
    assert digest(whole.slice(2, 5).images) == digest(to_annotations(full[2:5], 3).images)
    seen = {digest(whole.instances)}
    for name in whole.instances.schema.names:
        column = whole.instances[name]
        turned = column.take(pa.array(np.arange(len(column))[::-1].copy()))
        if turned.equals(column):
            continue  # all alike
        place = whole.instances.schema.get_field_index(name)
        changed = whole.instances.set_column(place, whole.instances.schema.field(name), turned)
        assert digest(changed) not in seen, name
        seen.add(digest(changed))
    missing = pa.table({"a": pa.array([None, ""], pa.string())})
    assert digest(missing) != digest(pa.table({"a": pa.array(["", None], pa.string())}))
    assert digest(pa.table({"a": ["ab", "c"]})) != digest(pa.table({"a": ["a", "bc"]}))


def test_parts_give_any_rows_in_any_order(full, tmp_path):
    whole = to_annotations(full, 3)
    reject = Reject(reason="odd", detail="why.", dataset="tiny", split="train", source="a.json")
    entries = []
    for number, (some, rejects) in enumerate(divided([*full[:4], reject, *full[4:]], 2)):
        entries.append(write_part(tmp_path / "parts", number, to_annotations(some, 3), rejects))
    parts = Parts(tmp_path / "parts", entries)
    assert (parts.num_images, parts.num_instances) == (7, whole.instances.num_rows)
    assert parts.rejects()["reason"].to_pylist() == ["odd"]
    assert parts.columns("instances", ["image_row", "id"]).equals(whole.instances.select(["image_row", "id"]))
    for rows in (np.random.default_rng(0).permutation(whole.instances.num_rows), np.array([3]), np.zeros(0, np.int64)):
        taken, expected = parts.take("instances", rows), whole.instances.take(pa.array(rows))
        assert taken.drop_columns("image_row").equals(expected.drop_columns("image_row"))
        assert np.array_equal(keypoints_of(taken), keypoints_of(expected))
