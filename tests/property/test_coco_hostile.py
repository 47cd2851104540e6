"""Whatever stands in a COCO file, reading it gives records, counted rejects or one sentence: never a raw traceback."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import DatasetError
from posecore.schema import Record, Reject

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=3))

PARTS = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
COCO: dict[str, Any] = {
    "licenses": [{"id": 1, "name": "x"}],
    "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48, "license": 1, "frame_id": 3, "video_id": 4}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 3, 4],
            "area": 5,
            "iscrowd": 0,
            "num_keypoints": 17,
            "keypoints": [1, 1, 2] * 17,
            "segmentation": {"size": [48, 64], "counts": [3072]},
            "absent": ["nose"],
            "valid_label": 1,
            "face_valid": True,
            **{field: [1, 1, 1] * count for field, count in PARTS.items()},
        }
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": []}],
}
POINTS = [1, 1, 1] * 19
OCHUMAN: dict[str, Any] = {
    "keypoint_names": list(load_dataset("ochuman19").skeleton.names),
    "images": [
        {
            "image_id": "1",
            "file_name": "1.jpg",
            "width": 64,
            "height": 48,
            "annotations": [
                {
                    "bbox": [1, 2, 30, 40],
                    "keypoints": POINTS,
                    "segms": {"outer": [[1, 1, 9, 1, 9, 9]], "inner": [], "height": 48, "width": 64},
                }
            ],
        }
    ],
}


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all nodes, long lists of numbers by their first entry only."""
    found = [path] if path else []
    children = node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


@pytest.mark.parametrize(
    ("name", "split", "base"),
    [
        ("coco", "val", COCO),
        ("coco_wholebody", "val", COCO),
        ("halpe", "val", COCO),
        ("humanart", "val", COCO),
        ("crowdpose", "val", COCO),
        ("ubody", "intra_train", COCO),
        ("ochuman19", "all", OCHUMAN),
    ],
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere(name: str, split: str, base: dict[str, Any], data: st.DataObject, tmp_path: Path):
    document = copy.deepcopy(base)
    *parents, last = data.draw(st.sampled_from(places(document)))
    node: Any = document
    for key in parents:
        node = node[key]
    node[last] = data.draw(VALUES)
    definition = load_dataset(name)
    part = definition.splits[split].model_copy(update={"annotations": "a.json", "options": {}})
    definition = definition.model_copy(update={"splits": {split: part}})
    (tmp_path / "a.json").write_text(json.dumps(document))
    with contextlib.suppress(DatasetError):
        assert all(isinstance(item, (Record, Reject)) for item in read_split(definition, split, tmp_path))
