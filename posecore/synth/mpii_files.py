"""Scenes written as MPII: HRNet's JSON rows and the official MATLAB structure, both with 1-based coordinates."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from posecore.schema import Json
from posecore.synth.landmarks import MPII_16
from posecore.synth.scene import Body, Scene

_MAT_HEADER = b"MATLAB 5.0 MAT-file, written by posecore synth"
_HEAD_POINTS_PER_DIAGONAL = 0.8  # distance of head_top and upper_neck over the head box's diagonal, as in MPII
_PIXELS_PER_SCALE = 200.0
_DERIVED = {"pelvis": ("left_hip", "right_hip"), "thorax": ("left_shoulder", "right_shoulder")}


class MpiiRows:
    """Persons of any number of pictures, in the order added."""

    def __init__(self) -> None:
        self._rows: dict[str, list[dict[str, Json]]] = {}
        self._head_boxes: dict[str, list[list[float]]] = {}
        self._pictures: list[tuple[str, list[dict[str, Json]]]] = []

    def add(self, split: str, file_name: str, scene: Scene) -> None:
        """Takes over one picture."""
        persons = [_person(body) for body in scene.bodies if body.role == "labelled" and body.keypoints(MPII_16).any()]
        self._rows.setdefault(split, []).extend(
            {
                "joints_vis": [int(flag > 0) for _, _, flag in person["points"]],
                "joints": [[x, y] if flag > 0 else [-1, -1] for x, y, flag in person["points"]],
                "image": file_name,
                "scale": person["scale"],
                "center": person["center"],
            }
            for person in persons
        )
        self._head_boxes.setdefault(split, []).extend(person["head_xyxy"] for person in persons)
        self._pictures.append((file_name, persons))

    def json_rows(self, split: str) -> list[dict[str, Json]]:
        """The rows of HRNet's and mmpose's JSON; in this form a hidden joint is as good as a seen one."""
        return self._rows.get(split, [])

    def mat_bytes(self) -> bytes:
        """The official file: every picture has ``img_train`` 1, as the official validation pictures do."""
        release = _struct(
            annolist=_struct_array([_picture(name, persons) for name, persons in self._pictures]),
            img_train=np.ones((1, len(self._pictures)), np.uint8),
            single_person=_cells([_alone(persons) for _, persons in self._pictures]),
            version="12",
        )
        return _mat_bytes({"RELEASE": release})

    def evaluation_bytes(self, split: str) -> bytes:
        """The file that the official PCKh reads: joints and head boxes of the JSON's rows, in their order."""
        rows, boxes = self._rows.get(split, []), self._head_boxes.get(split, [])
        num_joints = len(MPII_16)
        missing = 1 - np.array([row["joints_vis"] for row in rows], np.uint8).reshape(-1, num_joints)
        points = np.array([row["joints"] for row in rows], np.float64).reshape(-1, num_joints, 2)
        values = {
            "jnt_missing": missing.T,
            "pos_gt_src": np.where(missing[..., None], 0, points).transpose(1, 2, 0),
            "headboxes_src": np.array(boxes, np.float64).reshape(-1, 2, 2).transpose(1, 2, 0),
        }
        return _mat_bytes(values)


def _mat_bytes(values: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, values, do_compression=True)  # type: ignore[arg-type]  # stubs know paths only
    data = buffer.getvalue()
    return _MAT_HEADER.ljust(116) + data[116:]  # scipy writes the time of day there


def _person(body: Body) -> dict[str, Json]:
    points = body.keypoints(MPII_16).astype(np.float64)
    for derived, sides in _DERIVED.items():  # never annotated without both sides
        if not all(points[MPII_16.index(side), 2] for side in sides):
            points[MPII_16.index(derived)] = 0
    x, y, width, height = body.extent_xywh
    head = body.points[[body.names.index("head_top"), body.names.index("upper_neck")], :2].astype(np.float64)
    diagonal = float(np.hypot(*(head[0] - head[1]))) / _HEAD_POINTS_PER_DIAGONAL
    reach = diagonal * np.array([0.3, 0.4])  # 3 : 4 : 5, so that the diagonal is exact
    corners = np.concatenate([head.mean(axis=0) - reach, head.mean(axis=0) + reach])
    return {
        "points": [[round(px + 1, 2), round(py + 1, 2), int(flag)] for px, py, flag in points.tolist()],
        "scale": round(max(width, height) / _PIXELS_PER_SCALE, 6),
        "center": [round(x + width / 2 + 1, 2), round(y + height / 2 + 1, 2)],
        "head_xyxy": [round(value + 1, 4) for value in corners.tolist()],
    }


def _picture(file_name: str, persons: list[dict[str, Json]]) -> dict[str, object]:
    return {
        "image": _struct(name=file_name),
        "annorect": _struct_array([_rect(person) for person in persons]),
        "frame_sec": np.zeros((0, 0)),
        "vidx": np.zeros((0, 0)),
    }


def _rect(person: dict[str, Json]) -> dict[str, object]:
    points = [
        {"x": x, "y": y, "id": float(index), "is_visible": float(flag == 2)}
        for index, (x, y, flag) in enumerate(person["points"])
        if flag > 0
    ]
    return {
        **dict(zip(("x1", "y1", "x2", "y2"), person["head_xyxy"], strict=True)),
        "scale": person["scale"],
        "objpos": _struct(x=person["center"][0], y=person["center"][1]),
        "annopoints": _struct(point=_struct_array(points)),
    }


def _alone(persons: list[dict[str, Json]]) -> NDArray[np.float64]:
    """1-based numbers of the persons that stand apart: every one in a picture of one, as a column."""
    return np.arange(1, 2, dtype=np.float64)[:, None] if len(persons) == 1 else np.zeros((0, 0))


def _struct(**fields: object) -> NDArray[np.void]:
    return _struct_array([fields])


def _struct_array(entries: list[dict[str, object]]) -> NDArray[np.void]:
    """A 1 × N MATLAB structure array."""
    if not entries:
        return np.zeros((1, 0), [("name", object)])
    array = np.zeros((1, len(entries)), [(name, object) for name in entries[0]])
    for index, entry in enumerate(entries):
        array[0, index] = tuple(entry.values())
    return array


def _cells(values: list[NDArray[np.float64]]) -> NDArray[np.object_]:
    """An N × 1 MATLAB cell array."""
    cells = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        cells[index, 0] = value
    return cells
