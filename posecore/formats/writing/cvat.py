"""CVAT's "CVAT for images 1.1", and the labels that a project needs for it."""

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import orjson

from posecore.formats.named_points import PREDICTED
from posecore.formats.writing.writer import LabelledPicture, LabelWriter
from posecore.schema import Instance
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically


class CvatWriter(LabelWriter):
    """Writes ``<split>.xml``, and ``<split>_labels.json`` for the raw labels of a project.

    What a model drew has the source ``auto``. Each body is grouped with a box of the label ``box``; names of subjects
    and tracks are attributes.
    """

    def __init__(self, folder: Path, split: str, skeleton: Skeleton) -> None:
        super().__init__(folder, split, skeleton)
        self._images: list[Element] = []
        self._categories: dict[str, None] = {}
        self._group = 0

    def add(self, picture: LabelledPicture) -> None:
        """Takes a picture."""
        name = picture.path.removeprefix(f"images/{self.split}/")
        size = {"width": str(picture.width), "height": str(picture.height)}
        image = Element("image", {"id": str(len(self._images)), "name": name, **size})
        for body in picture.bodies:
            if body.is_crowd:
                self.lost["crowd regions"] += 1
            else:
                self._body(image, body)
        self._images.append(image)

    def _body(self, image: Element, body: Instance) -> None:
        self._categories.setdefault(body.category)
        self._group += 1
        source = "auto" if body.extras.get(PREDICTED) else "manual"
        common = {"source": source, "z_order": "0"}
        group = {"group_id": str(self._group)}
        skeleton = SubElement(image, "skeleton", {"label": body.category, **common, **group})
        for name, (x, y, flag) in zip(self.skeleton.names, body.keypoints.tolist(), strict=True):
            flags = {"outside": str(int(flag == 0)), "occluded": str(int(flag == 1))}
            SubElement(skeleton, "points", {"label": name, "source": source, **flags, "points": f"{x:.4f},{y:.4f}"})
        for name, value in (("subject_id", body.subject_id), ("track_id", body.track_id)):
            if value is not None:
                SubElement(skeleton, "attribute", {"name": name}).text = value
        x, y, width, height = body.bbox_xywh
        corners = {"xtl": x, "ytl": y, "xbr": x + width, "ybr": y + height}
        places = {side: f"{value:.4f}" for side, value in corners.items()}
        SubElement(image, "box", {"label": "box", **common, "occluded": "0", **places, **group})

    def close(self) -> list[Path]:
        """Writes both files."""
        root = Element("annotations")
        SubElement(root, "version").text = "1.1"
        task = SubElement(SubElement(root, "meta"), "task")
        labels = SubElement(task, "labels")
        for name in self._categories or {"animal": None}:
            label = SubElement(labels, "label")
            SubElement(label, "name").text = name
            SubElement(label, "type").text = "skeleton"
            SubElement(label, "svg").text = self._drawing()
            for point in self.skeleton.names:
                child = SubElement(labels, "label")
                SubElement(child, "name").text = point
                SubElement(child, "type").text = "points"
                SubElement(child, "parent").text = name
        box = SubElement(labels, "label")
        SubElement(box, "name").text = "box"
        SubElement(box, "type").text = "rectangle"
        root.extend(self._images)
        indent(root)
        path, setup = self.folder / f"{self.split}.xml", self.folder / f"{self.split}_labels.json"
        write_atomically(path, b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, "utf-8"))
        write_atomically(setup, orjson.dumps(self._labels(), option=orjson.OPT_INDENT_2))
        return [path, setup]

    def _labels(self) -> list[dict[str, object]]:
        attributes = [
            {"name": name, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
            for name in ("subject_id", "track_id")
        ]
        points = [{"name": name, "type": "points", "attributes": []} for name in self.skeleton.names]
        skeletons: list[dict[str, object]] = [
            {
                "name": name,
                "type": "skeleton",
                "svg": self._drawing(),
                "sublabels": points,
                "attributes": attributes,
            }
            for name in self._categories or {"animal": None}
        ]
        return [*skeletons, {"name": "box", "type": "rectangle", "attributes": []}]

    def _drawing(self) -> str:
        """Points on a grid of a drawing of 100 by 100, and the lines between them: CVAT's form of a skeleton."""
        columns = max(1, round(self.skeleton.num_keypoints**0.5))
        step = 90 / max(columns, -(-self.skeleton.num_keypoints // columns))
        places = [
            (5 + step * (number % columns), 5 + step * (number // columns))
            for number in range(self.skeleton.num_keypoints)
        ]
        lines = [
            f'<line x1="{places[a][0]:.2f}" y1="{places[a][1]:.2f}" x2="{places[b][0]:.2f}" y2="{places[b][1]:.2f}" '
            f'data-type="edge" data-node-from="{a + 1}" data-node-to="{b + 1}"></line>'
            for a, b in self.skeleton.link_indices
        ]
        circles = [
            f'<circle r="0.75" cx="{x:.2f}" cy="{y:.2f}" data-type="element node" data-element-id="{number}" '
            f'data-node-id="{number}" data-label-name="{name}"></circle>'
            for number, ((x, y), name) in enumerate(zip(places, self.skeleton.names, strict=True), start=1)
        ]
        return "\n".join([*lines, *circles])
