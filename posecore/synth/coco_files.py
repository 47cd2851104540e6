"""Scenes written as COCO-family JSON: COCO, COCO-WholeBody, AP-10K, SyRIP and CrowdPose, each with its own fields.

Coordinates are kept to hundredths of a pixel, where the real files mostly have whole numbers, so that a reader that is
off by half a pixel is found out. ``subject_id`` is one field more than the real files have.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from posecore.schema import FloatArray, Json
from posecore.synth.incubator import REACHING
from posecore.synth.landmarks import AP10K_17, COCO_17, CROWDPOSE_14, FACE_68, FOOT_6, hand_21
from posecore.synth.masks import mask_box, mask_polygons, mask_runs
from posecore.synth.quadruped import SPECIES
from posecore.synth.randomness import generator
from posecore.synth.scene import Body, Scene

_FEWEST_PIXELS = 25
"""A body of which less is seen is not annotated."""

_COCO_LINKS = (
    "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7",
    "1-2 1-3 2-3 3-4 4-5 4-6 6-7 7-8 4-9 9-10 10-11 5-12 12-13 13-14 5-15 15-16 16-17",
    "1-3 3-5 2-4 4-6 1-7 7-9 9-11 2-8 8-10 10-12 13-14 1-14 2-14 7-8",
)


def _links(text: str) -> list[list[int]]:
    return [[int(end) for end in link.split("-")] for link in text.split()]


class CocoFile:
    """COCO's ``person_keypoints_*.json``: polygons, crowds as RLE, persons too small for points."""

    names: ClassVar[tuple[str, ...]] = COCO_17

    def __init__(self, description: str, subject_prefix: str) -> None:
        self._info = {"description": description, "version": "1.0", "contributor": "posecore"}
        self._subject_prefix = subject_prefix
        self._images: list[dict[str, Json]] = []
        self._annotations: list[dict[str, Json]] = []

    def add(self, number: int, file_name: str, scene: Scene) -> None:
        """Takes over one picture whose id is ``number``."""
        height, width = scene.image.shape[:2]
        image = {"license": 1, "file_name": file_name, "height": height, "width": width, "id": number}
        self._images.append(image | self.image_fields(scene))
        first = len(self._annotations)
        for body in scene.bodies:
            if body.role != "crowd" and body.mask.sum() >= _FEWEST_PIXELS:
                subject = f"{self._subject_prefix}{body.subject}"
                self._annotations.append(self.annotation(body) | {"iscrowd": 0, "subject_id": subject})
        crowd = [body.mask for body in scene.bodies if body.role == "crowd"]
        if crowd:
            self._annotations.append(self._crowd(np.logical_or.reduce(crowd)))
        for position, annotation in enumerate(self._annotations[first:]):
            annotation |= {"image_id": number, "id": 100 * number + position}

    def document(self) -> dict[str, Json]:
        """The whole file."""
        return {
            "info": self._info,
            "licenses": [{"id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": self._images,
            "annotations": self._annotations,
            "categories": self.categories(),
        }

    def categories(self) -> list[dict[str, Json]]:
        """COCO's one category."""
        return [_category(1, "person", "person", COCO_17, _COCO_LINKS[0])]

    def image_fields(self, scene: Scene) -> dict[str, Json]:
        """Fields of an image entry beyond COCO's."""
        return {}

    def annotation(self, body: Body) -> dict[str, Json]:
        """One annotation without its ids."""
        keypoints = (
            body.keypoints(self.names) if body.role == "labelled" else np.zeros((len(self.names), 3), np.float32)
        )
        return {
            "segmentation": mask_polygons(body.mask),
            "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            "area": float(body.mask.sum()),
            "keypoints": flat(keypoints),
            "bbox": [float(value) for value in mask_box(body.mask)],
            "category_id": body.category_id,
        }

    def _crowd(self, mask: NDArray[np.bool_]) -> dict[str, Json]:
        return {
            "segmentation": mask_runs(mask),
            "num_keypoints": 0,
            "area": float(mask.sum()),
            "keypoints": [0] * (3 * len(self.names)),
            "bbox": [float(value) for value in mask_box(mask)],
            "category_id": 1,
            "iscrowd": 1,
        }


def detections(document: dict[str, Json], seed: int) -> list[dict[str, Json]]:
    """Boxes as a fair person detector would give them, in COCO's list form, highest score first in each picture.

    Every thirtieth body is missed, boxes are off by a few percent, every fifth picture has a false alarm of low score.
    """
    found: list[dict[str, Json]] = []
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if not annotation["iscrowd"]:
            boxes[annotation["image_id"]].append(annotation["bbox"])
    for image in document["images"]:
        rng = generator("detections", seed, image["id"])
        size = np.array([image["width"], image["height"]])
        seen = [
            (np.array(box) + rng.normal(0, 0.03, 4) * np.tile(box[2:], 2), rng.uniform(0.55, 1.0))
            for box in boxes[image["id"]]
            if rng.random() > 1 / 30
        ]
        if rng.random() < 0.2:
            seen.append((np.concatenate([rng.uniform(0, 0.6, 2) * size, 0.35 * size]), rng.uniform(0.05, 0.5)))
        for box, score in sorted(seen, key=lambda item: -item[1]):
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": [round(value, 2) for value in box.tolist()],
                    "score": round(float(score), 4),
                }
            )
    return found


class WholeBodyFile(CocoFile):
    """COCO-WholeBody v1.0: COCO's annotation plus feet, face and hands where they are large enough and seen."""

    _PARTS: ClassVar[tuple[tuple[str, tuple[str, ...], float], ...]] = (
        ("face", FACE_68, 12.0),
        ("lefthand", hand_21("left"), 6.0),
        ("righthand", hand_21("right"), 6.0),
    )
    """Field prefix, points, and the smallest extent that is annotated, px."""

    def annotation(self, body: Body) -> dict[str, Json]:
        """One annotation without its ids."""
        value = super().annotation(body)
        labelled = body.role == "labelled"
        feet = body.keypoints(FOOT_6) if labelled else np.zeros((6, 3), np.float32)
        value |= {"foot_kpts": flat(feet), "foot_valid": bool((feet[:, 2] > 0).any())}
        for prefix, names, smallest in self._PARTS:
            points = body.keypoints(names)
            extent = np.ptp(points[points[:, 2] > 0, :2], axis=0) if (points[:, 2] > 0).any() else np.zeros(2)
            valid = labelled and bool((points[:, 2] == 2).mean() >= 0.5 and extent.max() >= smallest)
            points = points if valid else np.zeros_like(points)
            value |= {
                f"{prefix}_kpts": flat(points),
                f"{prefix}_box": _points_box(points),
                f"{prefix}_valid": valid,
            }
        return value

    def _crowd(self, mask: NDArray[np.bool_]) -> dict[str, Json]:
        value = super()._crowd(mask) | {"foot_kpts": [0] * 18, "foot_valid": False}
        for prefix, names, _ in self._PARTS:
            value |= {f"{prefix}_kpts": [0] * (3 * len(names)), f"{prefix}_box": [0.0] * 4, f"{prefix}_valid": False}
        return value


class Ap10kFile(CocoFile):
    """AP-10K: species as categories, whole-number boxes, area = w · h, every labelled point flagged 2."""

    names = AP10K_17

    def categories(self) -> list[dict[str, Json]]:
        """The species that are rendered, under AP-10K's numbers."""
        return [
            _category(species.category_id, species.name, species.family, AP10K_17, _COCO_LINKS[1])
            for species in SPECIES
        ]

    def image_fields(self, scene: Scene) -> dict[str, Json]:
        """``background``: 5 is human habitation, 1 grass."""
        return {"background": 5 if scene.setting == "indoor" else 1}

    def annotation(self, body: Body) -> dict[str, Json]:
        """One annotation without its ids."""
        keypoints = body.keypoints(self.names)
        keypoints[keypoints[:, 2] > 0, 2] = 2
        x, y, width, height = mask_box(body.mask)
        return {
            "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            "area": width * height,
            "keypoints": flat(keypoints),
            "bbox": [x, y, width, height],
            "category_id": body.category_id,
        }


class SyripFile(CocoFile):
    """SyRIP: COCO's points with flags as decimals, the posture and a head box; of infants alone."""

    def add(self, number: int, file_name: str, scene: Scene) -> None:
        """Takes over one picture whose id is ``number``; adults who reach into it are not annotated."""
        super().add(number, file_name, replace(scene, bodies=[b for b in scene.bodies if b.posture != REACHING]))

    def image_fields(self, scene: Scene) -> dict[str, Json]:
        """Origin and posture."""
        return {
            "is_synthetic": True,
            "is_labeled": True,
            "nframes": -1,
            "posture": scene.bodies[0].posture if scene.bodies else "",
            "image_source": "posecore synth",
        }

    def annotation(self, body: Body) -> dict[str, Json]:
        """One annotation without its ids."""
        _, _, width, height = mask_box(body.mask)
        head = body.points[[body.names.index(name) for name in (*FACE_68, "head_top", "left_ear", "right_ear")]]
        value = super().annotation(body)
        return value | {
            "keypoints": [float(number) for number in value["keypoints"]],
            "area": float(width * height),
            "bbox_head": _points_box(np.concatenate([head[:, :2], np.ones((len(head), 1), np.float32)], axis=1)),
            "scores": [],
        }


class CrowdPoseFile(CocoFile):
    """CrowdPose: 14 points without areas or crowd regions; ``num_keypoints`` leaves out head and neck."""

    names = CROWDPOSE_14
    _NUM_COUNTED: ClassVar[int] = 12

    def add(self, number: int, file_name: str, scene: Scene) -> None:
        """Takes over one picture whose id is ``number``."""
        super().add(number, file_name, replace(scene, bodies=[b for b in scene.bodies if b.role == "labelled"]))

    def categories(self) -> list[dict[str, Json]]:
        """CrowdPose's one category, whose points are called ``head`` and ``neck`` in the file."""
        return [_category(1, "person", "person", (*CROWDPOSE_14[:12], "head", "neck"), _COCO_LINKS[2])]

    def image_fields(self, scene: Scene) -> dict[str, Json]:
        """``crowdIndex``: mean over the bodies of how many points of others lie in the box, per own point."""
        ratios = []
        for body in scene.bodies:
            x, y, width, height = mask_box(body.mask)
            inside = [
                (
                    (points[:, 2] > 0)
                    & (abs(points[:, :2] - (x + width / 2, y + height / 2)) <= (width / 2, height / 2)).all(1)
                ).sum()
                for points in (other.keypoints(self.names) for other in scene.bodies if other is not body)
            ]
            ratios.append(sum(inside) / max(1, (body.keypoints(self.names)[:, 2] > 0).sum()))
        return {"crowdIndex": round(min(1.0, float(np.mean(ratios))), 3) if ratios else 0.0}

    def annotation(self, body: Body) -> dict[str, Json]:
        """One annotation without its ids."""
        keypoints = body.keypoints(self.names)
        labelled = keypoints[:, 2] > 0
        keypoints[:, 2] = np.where(labelled, [2] * self._NUM_COUNTED + [1, 1], 0)
        return {
            "num_keypoints": int(labelled[: self._NUM_COUNTED].sum()),
            "keypoints": flat(keypoints),
            "bbox": [float(value) for value in mask_box(body.mask)],
            "category_id": 1,
        }


def flat(keypoints: FloatArray) -> list[float]:
    """x, y, flag of all points in one list; coordinates in hundredths of a pixel, flags as whole numbers."""
    values: list[float] = []
    for x, y, flag in keypoints.tolist():
        values += [round(x, 2), round(y, 2), int(flag)]
    return values


def _points_box(points: FloatArray) -> list[float]:
    """x, y, width, height of the labelled points; zeros if there are none."""
    labelled = points[points[:, 2] > 0, :2]
    if not len(labelled):
        return [0.0] * 4
    low, high = labelled.min(axis=0), labelled.max(axis=0)
    return [round(float(value), 2) for value in (*low, *(high - low))]


def _category(number: int, name: str, supercategory: str, points: Sequence[str], links: str) -> dict[str, Json]:
    return {
        "supercategory": supercategory,
        "id": number,
        "name": name,
        "keypoints": list(points),
        "skeleton": _links(links),
    }
