"""YOLO-pose as Ultralytics trains on it."""

from pathlib import Path

import numpy as np
import yaml

from posecore.formats.named_points import PREDICTED
from posecore.formats.writing.writer import LabelledPicture, LabelWriter
from posecore.schema import Instance
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically

_DATA = "data.yaml"


class YoloPoseWriter(LabelWriter):
    """Writes ``data.yaml`` and a text for each picture.

    Ultralytics drops a picture with a point outside, so such points are written as not labelled, and boxes are cut to
    the picture. Subjects, tracks, areas and crowds have no place in the format.
    """

    def __init__(self, folder: Path, split: str, skeleton: Skeleton) -> None:
        super().__init__(folder, split, skeleton)
        self._classes: dict[str, int] = {}
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)

    def add(self, picture: LabelledPicture) -> None:
        """Writes a picture's text."""
        rows = dict.fromkeys(row for body in picture.bodies if (row := self._row(body, picture)))
        path = self.folder / picture.path.replace("images/", "labels/", 1).rpartition(".")[0]
        write_atomically(path.with_name(f"{path.name}.txt"), "".join(f"{row}\n" for row in rows).encode())

    def _row(self, body: Instance, picture: LabelledPicture) -> str:
        if body.is_crowd:
            self.lost["crowd regions"] += 1
            return ""
        x, y, width, height = body.bbox_xywh
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + width, picture.width), min(y + height, picture.height)
        if right <= left or bottom <= top:
            self.lost["bodies whose box is outside the picture"] += 1
            return ""
        self.lost["boxes cut to the picture"] += (left, top, right, bottom) != (x, y, x + width, y + height)
        for what, value in (("subjects", body.subject_id), ("tracks", body.track_id)):
            self.lost[what] += value is not None
        self.lost["marks of what a model drew"] += PREDICTED in body.extras
        size = np.array([picture.width, picture.height], np.float64)
        points = body.keypoints[:, :2].astype(np.float64) / size
        labelled = body.keypoints[:, 2] > 0
        outside = labelled & ((points < 0) | (points > 1)).any(axis=1)
        self.lost["points outside the picture"] += int(outside.sum())
        kept = labelled & ~outside
        flags = np.where(kept, body.keypoints[:, 2], 0).astype(int)
        points[~kept] = 0
        box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        shares = np.array(box) / np.tile(size, 2)
        number = self._classes.setdefault(body.category, len(self._classes))
        values = [f"{value:.7g}" for value in shares.tolist()]
        for (px, py), flag in zip(points.tolist(), flags.tolist(), strict=True):
            values += [f"{px:.7g}", f"{py:.7g}", str(flag)]
        return " ".join([str(number), *values])

    def close(self) -> list[Path]:
        """Writes ``data.yaml``, of which parts that are there already stay."""
        path = self.folder / _DATA
        parts = {}
        if path.exists():
            before = yaml.safe_load(path.read_text())
            parts = {name: places for name, places in before.items() if name in ("train", "val", "test")}
        place = f"images/{self.split}"
        part = self.split if self.split in ("train", "val", "test") else "train"
        parts[part] = place
        parts.setdefault("val", place)  # Ultralytics asks for both
        parts.setdefault("train", place)
        count = self.skeleton.num_keypoints
        names = list(self.skeleton.names)
        classes = {number: name for name, number in self._classes.items()} or {0: "animal"}
        document = {
            **parts,
            "names": classes,
            "kpt_shape": [count, 3],
            "flip_idx": self.skeleton.flip_indices.tolist(),
            "kpt_names": {number: names for number in classes},
            "skeleton": [list(link) for link in self.skeleton.link_indices],
        }
        write_atomically(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
        self.lost += type(self.lost)()
        return [path]
