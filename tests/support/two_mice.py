"""Three pictures: one with a mouse that somebody labelled, one with a mouse that a model drew, one without."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from posecore.schema import Instance, Record
from posecore.skeletons.skeleton import Skeleton

SKELETON = Skeleton.model_validate(
    {
        "name": "lab_mouse",
        "keypoints": [
            {"name": "nose", "union": "a"},
            {"name": "left ear", "union": "b", "flip": "right ear"},
            {"name": "right ear", "union": "c", "flip": "left ear"},
            {"name": "tail", "union": "d"},
        ],
        "links": [("nose", "left ear"), ("nose", "tail")],
    }
)
BOB = [[11.5, 12.25, 2], [23, 14.5, 1], [0, 0, 0], [17.125, 38, 2]]
EVE = [[41, 12, 2], [53, 14, 2], [45, 16, 2], [47.75, 38.5, 2]]
SCORES = {"nose": 0.5, "left ear": 0.25, "right ear": 0.75, "tail": 1.0}


def body(points: list[list[float]], number: int, **more: Any) -> Instance:
    return Instance(
        id=str(number), bbox_xywh=(9, 10, 60, 40), keypoints=np.array(points, np.float32), area=2400, area_rule="box",
        category="mouse", **more,
    )  # fmt: skip


def records() -> list[Record]:
    whole = Record(dataset="d", split="train", source_id="7", image="a/0.png", width=80, height=60)
    drawn = body(EVE, 2, extras={"predicted": True, "scores": SCORES})
    return [
        replace(whole, instances=[body(BOB, 1, subject_id="m7", track_id="t1")]),
        replace(whole, source_id="8", image="b/0.png", instances=[drawn]),
        replace(whole, source_id="9", image="b/1.png", instances=[]),
    ]


def picture() -> bytes:
    return cv2.imencode(".png", np.full((60, 80, 3), 90, np.uint8))[1].tobytes()
