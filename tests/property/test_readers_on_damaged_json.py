"""Whatever value of an annotation file is replaced by whatever else, a reader rejects or refuses, and never crashes."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posecore.errors import DatasetError
from posecore.formats.aic import AicReader
from posecore.formats.animalpose import AnimalPoseReader
from posecore.formats.apt36k import Apt36kReader
from posecore.formats.mpii import MpiiReader, MpiiTrbReader
from posecore.formats.reader import Reader, Source
from posecore.schema import Record, Reject
from posecore.skeletons.library import load_skeleton

JOINTS = [[10.0 + i, 20.0 + i] for i in range(16)]
HRNET = [{"image": "a.jpg", "center": [101, 201], "scale": 2.0, "joints": JOINTS, "joints_vis": [1] * 16}]
CPM = {
    "root": [
        {
            "img_paths": "a.jpg", "img_width": 640, "img_height": 480, "objpos": [101, 201], "scale_provided": 2.0,
            "joint_self": [[*joint, 1] for joint in JOINTS], "annolist_index": 5, "people_index": 1, "isValidation": 1,
        }
    ]
}  # fmt: skip
TRB = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}],
    "annotations": [{"id": 4, "image_id": 1, "center": [5, 5], "scale": 0.5, "keypoints": [1, 2, 2] * 40}],
}
AIC = [
    {
        "image_id": "abc",
        "human_annotations": {"human1": [0, 0, 10, 20]},
        "keypoint_annotations": {"human1": [1, 2, 1] * 14},
    }
]
APT36K = {
    "license": [{"id": 3, "name": "x"}],
    "images": [{"id": 1, "file_name": "D:\\dog\\clip\\1.jpg", "width": 9, "height": 9, "video_id": 4}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "keypoints": [5, 6, 2] * 17, "is_crowd": 0}
    ],
    "categories": [{"id": 5, "name": "dog"}],
}
OFFICIAL = {
    "images": {"1": "a.jpg"},
    "annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 31, 42], "keypoints": [[1, 2, 1]] * 20}],
    "categories": [{"id": 2, "name": "cat"}],
}
CASES: dict[str, tuple[Reader, str, Any, dict[str, Any]]] = {
    "hrnet": (MpiiReader(), "mpii16", HRNET, {}),
    "cpm": (MpiiReader(), "mpii16", CPM, {"form": "cpm", "validation": True}),
    "trb": (MpiiTrbReader(), "mpii_trb40", TRB, {}),
    "aic": (AicReader(), "aic14", AIC, {}),
    "apt36k": (Apt36kReader(), "ap10k17", APT36K, {"part": "train"}),
    "official": (AnimalPoseReader(), "animalpose20", OFFICIAL, {"form": "official"}),
}

junk = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.just(10**400), st.floats(), st.text(max_size=3),
    st.just([]), st.just({}), st.just([[]]), st.just({"id": []}), st.just("../x"),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a document, its own included."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(document)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_readers_reject_or_refuse(tmp_path: Path, data: st.DataObject) -> None:
    reader, skeleton, document, options = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    damaged = replaced(document, data.draw(st.sampled_from(places(document))), data.draw(junk))
    (tmp_path / "a.json").write_text(json.dumps(damaged))
    source = Source(
        dataset="d", split="s", root=tmp_path, annotations="a.json", images="i", skeleton=load_skeleton(skeleton),
        area_rule="box", options=options,
    )  # fmt: skip
    with contextlib.suppress(DatasetError):
        assert all(isinstance(item, Record | Reject) for item in reader.read(source))
