"""Sequences and a submission in PoseTrack18's form, by closed formulas: what poseval said of them is stored.

    python tests/support/posetrack_case.py FOLDER   # writes FOLDER/gt and FOLDER/pred

There are persons near each other, hidden and missing joints, frames without a person, one whose person has a box and no
joint, joints and whole bodies within regions to ignore, and predictions of nobody, twice of one, and far off.
"""

import json
import sys
from math import cos, sin
from pathlib import Path
from typing import Any

NAMES = (
    "nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
SEQUENCES = {"000342_mpii_test": 342, "000522_mpii_test": 522}
_FRAMES = 8
_CATEGORIES = [{"supercategory": "person", "id": 1, "name": "person", "keypoints": list(NAMES)}]


def _joint(sequence: int, frame: int, person: int, joint: int) -> tuple[float, float]:
    phase = sequence + 1.7 * person + 0.3 * frame
    return 120 + 95 * person + 30 * sin(phase + joint), 100 + 12 * joint + 4 * cos(phase * 1.3 + joint)


def truth(number: int, name: str) -> dict[str, Any]:
    """A file of annotations."""
    first = 10**10 + number * 10**4
    images, annotations = [], []
    for frame in range(_FRAMES):
        image = {
            "is_labeled": frame != 3, "nframes": _FRAMES, "frame_id": first + frame, "id": first + frame,
            "vid_id": f"{number:06d}", "file_name": f"images/val/{name}/{frame:06d}.jpg",
        }  # fmt: skip
        if frame in (1, 5, 6):  # a triangle over the second person's arms, and the whole of the third
            image["ignore_regions_x"] = [[180, 270, 215], [285, 400, 400, 285]]
            image["ignore_regions_y"] = [[140, 150, 215], [60, 60, 330, 330]]
        images.append(image)
        for person in range(0 if frame == 3 else 3 if frame % 2 else 2):
            points: list[float] = []
            for joint in range(17):
                missing = joint in (3, 4) or (joint + 2 * frame + person) % 7 == 0 or (frame, person) == (4, 1)
                missing |= frame == 2  # a box and no joint
                x, y = (0, 0) if missing else _joint(number, frame, person, joint)
                points += [x, y, 0 if missing or (joint + frame) % 11 == 0 else 1]
            annotations.append(
                {
                    "bbox": [100 + 95 * person, 90, 80, 230], "bbox_head": [100 + 95 * person, 80, 30 + 5 * person, 36],
                    "category_id": 1, "image_id": first + frame, "id": (first + frame) * 100 + person,
                    "keypoints": points, "track_id": person, "scores": [],
                }
            )  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": _CATEGORIES}


def submission(number: int, name: str) -> dict[str, Any]:
    """A file of predictions: whom it sees twice, misses and makes up varies from frame to frame."""
    first = 10**10 + number * 10**4
    images = [
        {"file_name": f"images/val/{name}/{frame:06d}.jpg", "id": first + frame, "frame_id": first + frame}
        for frame in range(_FRAMES)
    ]
    annotations = []
    for frame in range(_FRAMES):
        for body in range(4 - (frame + number) % 2):
            person, away = (body, 6.0) if body < 3 else (0, 14.0)
            points, scores = [], []
            for joint in range(17):
                x, y = _joint(number, frame, person, joint)
                turn = 2.4 * joint + 0.9 * frame + body + number
                x, y = x + away * sin(turn), y + away * cos(1.1 * turn)
                if joint in (3, 4) or (joint + frame + body) % 13 == 0:
                    x = y = 0.0
                points += [x, y, 0 if x == y == 0.0 else 1]
                scores.append(0.5 + 0.4999 * sin(3.7 * joint + 1.9 * frame + 5.3 * body + number))
            annotations.append(
                {
                    "bbox": [90, 90, 80, 230], "image_id": first + frame, "keypoints": points, "scores": scores,
                    "track_id": body, "category_id": 1,
                }
            )  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": _CATEGORIES}


def write(folder: Path) -> tuple[Path, Path]:
    """Both, a file per sequence; returns the folders."""
    places = folder / "gt", folder / "pred"
    for place, make in zip(places, (truth, submission), strict=True):
        place.mkdir(parents=True)
        for name, number in SEQUENCES.items():
            (place / f"{name}.json").write_text(json.dumps(make(number, name)))
    return places


if __name__ == "__main__":
    write(Path(sys.argv[1]))
