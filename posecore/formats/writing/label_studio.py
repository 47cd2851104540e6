"""Label Studio's JSON: labels as annotations, pre-labels as predictions, and the labelling setup that fits them."""

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import orjson

from posecore.formats.label_studio import BOXES, CHOICES, POINTS
from posecore.formats.named_points import PREDICTED, SCORES
from posecore.formats.writing.writer import LabelledPicture, LabelWriter
from posecore.schema import Instance, Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically

_HIDDEN = "occluded"


class LabelStudioWriter(LabelWriter):
    """Writes ``<split>.json``, the tasks, and ``label_config.xml``, the setup of the project.

    Pictures are named as files of Label Studio's local storage, of which the export's folder is the root
    (``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``). Each body is a box, with its points below it in the tree of regions.
    """

    def __init__(self, folder: Path, split: str, skeleton: Skeleton) -> None:
        super().__init__(folder, split, skeleton)
        self._tasks: list[Json] = []
        self._categories: dict[str, None] = {}

    def add(self, picture: LabelledPicture) -> None:
        """Takes a picture."""
        drawn: list[Json] = []
        made: list[Json] = []
        scores = []
        for number, body in enumerate(picture.bodies):
            if body.is_crowd:
                self.lost["crowd regions"] += 1
                continue
            is_drawn = bool(body.extras.get(PREDICTED))
            (drawn if is_drawn else made).extend(self._results(body, number, picture))
            scores += list((body.extras.get(SCORES) or {}).values())
        subjects = {body.subject_id for body in picture.bodies} - {None}
        data: dict[str, Json] = {"image": f"/data/local-files/?d={picture.path}"}
        if len(subjects) == 1:
            data["subject_id"] = next(iter(subjects))
        self.lost["subjects"] += len(subjects) if len(subjects) > 1 else 0
        self.lost["tracks"] += sum(body.track_id is not None for body in picture.bodies)
        task: dict[str, Json] = {"id": len(self._tasks) + 1, "data": data}
        task |= {"annotations": [{"result": made, "was_cancelled": False}]} if made or not drawn else {}
        if drawn:
            task["predictions"] = [{"model_version": "posecore", "result": drawn}]
            task["predictions"][0] |= {"score": float(np.mean(scores))} if scores else {}
        self._tasks.append(task)

    def _results(self, body: Instance, number: int, picture: LabelledPicture) -> Iterable[Json]:
        self._categories.setdefault(body.category)
        size = {"original_width": picture.width, "original_height": picture.height, "image_rotation": 0}
        across, down = 100 / picture.width, 100 / picture.height
        x, y, width, height = body.bbox_xywh
        box = {"x": x * across, "y": y * down, "width": width * across, "height": height * down, "rotation": 0}
        whole = f"body{number}"
        yield {
            **size, "id": whole, "from_name": "body", "to_name": "image", "type": BOXES,
            "value": {**box, BOXES: [body.category]},
        }  # fmt: skip
        for name, (px, py, flag) in zip(self.skeleton.names, body.keypoints.tolist(), strict=True):
            if not flag:
                continue
            place = {"x": px * across, "y": py * down, "width": 0.75}
            region = f"{whole}_{name}"
            common = {**size, "id": region, "to_name": "image"}
            yield {
                **common, "from_name": "point", "type": POINTS, "parentID": whole, "value": {**place, POINTS: [name]}
            }  # fmt: skip
            if flag == 1:
                yield {**common, "from_name": "state", "type": CHOICES, "value": {**place, CHOICES: [_HIDDEN]}}

    def close(self) -> list[Path]:
        """Writes both files."""
        tasks, setup = self.folder / f"{self.split}.json", self.folder / "label_config.xml"
        write_atomically(tasks, orjson.dumps(self._tasks, option=orjson.OPT_INDENT_2))
        write_atomically(setup, self._setup().encode())
        self.lost += type(self.lost)()
        return [tasks, setup]

    def _setup(self) -> str:
        points = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in self.skeleton.names)
        bodies = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in self._categories or {"animal": None})
        return (
            '<View>\n  <Image name="image" value="$image"/>\n'
            f'  <RectangleLabels name="body" toName="image">\n{bodies}  </RectangleLabels>\n'
            f'  <KeyPointLabels name="point" toName="image">\n{points}  </KeyPointLabels>\n'
            '  <Choices name="state" toName="image" perRegion="true" whenTagName="point">\n'
            f'    <Choice value="{_HIDDEN}"/>\n  </Choices>\n</View>\n'
        )
