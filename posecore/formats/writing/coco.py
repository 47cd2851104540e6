"""COCO keypoint JSON, with subjects, tracks, and what a model drew."""

from pathlib import Path

import orjson

from posecore.formats.named_points import PREDICTED, SCORES, TOUCHED
from posecore.formats.writing.writer import LabelledPicture, LabelWriter
from posecore.schema import Instance, Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically


class CocoWriter(LabelWriter):
    """Writes ``annotations/person_keypoints_<split>.json``; reads back without loss by ``CocoReader``.

    Beside COCO's own fields: ``subject_id``, ``track_id``, ``predicted``, ``scores`` by point, and ``touched``.
    """

    def __init__(self, folder: Path, split: str, skeleton: Skeleton) -> None:
        super().__init__(folder, split, skeleton)
        self._images: list[Json] = []
        self._annotations: list[Json] = []
        self._categories: dict[str, int] = {}

    def add(self, picture: LabelledPicture) -> None:
        """Takes a picture."""
        number = len(self._images) + 1
        name = picture.path.removeprefix(f"images/{self.split}/")
        image = {"id": number, "file_name": name, "width": picture.width, "height": picture.height}
        self._images.append(image)
        for body in picture.bodies:
            self._annotations.append(self._annotation(body, number))

    def _annotation(self, body: Instance, image: int) -> Json:
        category = self._categories.setdefault(body.category, len(self._categories) + 1)
        points = [value for x, y, flag in body.keypoints.tolist() for value in (round(x, 4), round(y, 4), int(flag))]
        annotation: dict[str, Json] = {
            "id": len(self._annotations) + 1,  # COCO's own tools pass over an id of 0
            "image_id": image,
            "category_id": category,
            "bbox": [round(float(side), 4) for side in body.bbox_xywh],
            "area": float(body.area),
            "iscrowd": int(body.is_crowd),
            "keypoints": points,
            "num_keypoints": int((body.keypoints[:, 2] > 0).sum()),
        }
        if body.segmentation is not None:
            annotation["segmentation"] = body.segmentation
        if body.absent:
            annotation["absent"] = [self.skeleton.names[place] for place in body.absent]
        for field, value in (("subject_id", body.subject_id), ("track_id", body.track_id)):
            annotation |= {field: value} if value is not None else {}
        return annotation | {key: body.extras[key] for key in (PREDICTED, SCORES, TOUCHED) if key in body.extras}

    def close(self) -> list[Path]:
        """Writes the file."""
        links = [[first + 1, second + 1] for first, second in self.skeleton.link_indices]  # COCO counts points from 1
        points = {"keypoints": list(self.skeleton.names), "skeleton": links}
        names = self._categories or {"animal": 1}
        document = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": number, "name": name, **points} for name, number in names.items()],
        }
        path = self.folder / "annotations" / f"person_keypoints_{self.split}.json"  # as COCO calls it
        write_atomically(path, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
        return [path]
