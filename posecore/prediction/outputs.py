"""What is written: COCO results, one table, and which image every number belongs to.

::

    <out>/
    ├── coco_<head>.json     COCO results list: image_id, category_id, keypoints, score; also file_name (of a video
    │                        frame_index too), bbox, box_score, track_id
    ├── images.json          image ids → files and frames, the points of every head, and the files that failed
    └── predictions.parquet  one row per body, image and head (see TABLE)

Files appear under their names only when all is written.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posecore.labels.plausibility import BodyScorer
from posecore.models.uncertainty import HeadUncertainty
from posecore.prediction.instances import NO_TRACK, ImagePrediction
from posecore.prediction.sources import Frame
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import write_atomically, written_aside

Found = Mapping[str, ImagePrediction]
"""The prediction of every head for one image."""

ImageId = int | str

SURE = ("sigma_x", "sigma_y", "rho", "visible", "radius")
"""How sure each point is: standard deviations in pixels, their correlation, the probability that the point is visible,
and the pixels within which it is with the probability that ``images.json`` states."""

TABLE = pa.schema(
    [
        ("file_name", pa.string()),
        ("image_id", pa.string()),
        ("frame_index", pa.int64()),
        ("time_s", pa.float64()),
        ("head", pa.string()),
        ("track_id", pa.int64()),
        ("score", pa.float64()),
        ("box_score", pa.float64()),
        *((side, pa.float64()) for side in ("x", "y", "w", "h")),
        *((column, pa.list_(pa.float64())) for column in ("keypoint_x", "keypoint_y", "keypoint_score")),
        ("plausibility", pa.float64()),
        *((f"keypoint_{column}", pa.list_(pa.float64())) for column in SURE),
    ]
)
"""Columns of the table. ``frame_index`` and ``time_s`` are null for photos, ``track_id`` without tracking; the lists
hold one value per point, in the order of the head's points in ``images.json``. ``plausibility`` is null unless the
statistics of a population were given, and for a body of which too few points are sure. The columns of :data:`SURE` are
null of a model that was not calibrated, and hold null where there is no point or nobody knows."""

_ROWS_PER_GROUP = 2000


class Sink(Protocol):
    """Takes predictions, image after image."""

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Takes the predictions of one image."""
        ...


class CocoResults:
    """Writes one COCO results list per head, body after body, so that a long video does not fill the memory."""

    def __init__(self, files: Mapping[str, BinaryIO]) -> None:
        self._files = files
        self._started: set[str] = set()

    @classmethod
    @contextmanager
    def open(cls, out: Path, heads: Sequence[str]) -> Iterator["CocoResults"]:
        """Files ``coco_<head>.json``, whole when the block ends."""
        with ExitStack() as stack:
            paths = {
                head: stack.enter_context(written_aside(out / f"coco_{quote(head, safe='')}.json")) for head in heads
            }
            with ExitStack() as opened:
                files = {head: opened.enter_context(path.open("wb")) for head, path in paths.items()}
                for file in files.values():
                    file.write(b"[")
                yield cls(files)
                for file in files.values():
                    file.write(b"\n]\n")

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Takes the predictions of one image."""
        place: dict[str, Json] = {"file_name": frame.name}
        if frame.index is not None:
            place["frame_index"] = frame.index
        for head, prediction in found.items():
            for entry in prediction.to_coco(image_id):
                separator = b",\n" if head in self._started else b"\n"
                self._started.add(head)
                self._files[head].write(separator + orjson.dumps(place | entry))


class PredictionTable:
    """Writes all predictions as one Parquet table with the columns :data:`TABLE`."""

    def __init__(self, writer: pq.ParquetWriter, scorers: Mapping[str, BodyScorer], min_score: float) -> None:
        self._writer = writer
        self._scorers = scorers
        self._min_score = min_score
        self._rows: list[dict[str, Json]] = []

    @classmethod
    @contextmanager
    def open(
        cls, out: Path, scorers: Mapping[str, BodyScorer] | None = None, min_score: float = 0.3
    ) -> Iterator["PredictionTable"]:
        """File ``predictions.parquet``, whole when the block ends.

        Args:
            out: folder, made if missing.
            scorers: by head, who says how plausible a body is; a head without one gets null.
            min_score: points with a lower score have no say in that.
        """
        with written_aside(out / "predictions.parquet") as aside, pq.ParquetWriter(aside, TABLE) as writer:
            table = cls(writer, scorers or {}, min_score)
            yield table
            table._flush()

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Takes the predictions of one image."""
        for head, prediction in found.items():
            plausibility = self._plausibility(head, prediction)
            sure = {name: _or_none(values) for name, values in prediction.sure().items()}
            for row in range(len(prediction)):
                track_id = int(prediction.track_ids[row])
                x, y = prediction.keypoints[row].T.tolist()
                self._rows.append(
                    {
                        "file_name": frame.name,
                        "image_id": str(image_id),
                        "frame_index": frame.index,
                        "time_s": None if frame.index is None else frame.time_s,
                        "head": head,
                        "track_id": None if track_id == NO_TRACK else track_id,
                        "score": float(prediction.scores[row]),
                        "box_score": float(prediction.box_scores[row]),
                        **dict(zip(("x", "y", "w", "h"), prediction.bbox_xywh[row].tolist(), strict=True)),
                        "keypoint_x": x,
                        "keypoint_y": y,
                        "keypoint_score": prediction.keypoint_scores[row].tolist(),
                        "plausibility": plausibility[row],
                        **{f"keypoint_{name}": values[row] for name, values in sure.items()},
                    }
                )
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def _plausibility(self, head: str, prediction: ImagePrediction) -> list[float | None]:
        if head not in self._scorers:
            return [None] * len(prediction)
        sure = prediction.keypoint_scores >= self._min_score
        values = self._scorers[head].plausibility(prediction.keypoints, sure)
        return [None if math.isnan(value) else value for value in values.tolist()]

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=TABLE))
            self._rows.clear()


class ImageList:
    """Remembers which image every id belongs to."""

    def __init__(self) -> None:
        self._images: list[dict[str, Json]] = []

    def write(self, frame: Frame, image_id: ImageId, found: Found) -> None:
        """Takes one image, also one without a body."""
        height, width = frame.image.shape[:2]
        entry: dict[str, Json] = {"id": image_id, "file_name": frame.name, "width": width, "height": height}
        if frame.index is not None:
            entry |= {"frame_index": frame.index, "time_s": frame.time_s}
        self._images.append(entry)

    def save(
        self,
        out: Path,
        model: str,
        skeletons: Mapping[str, Skeleton],
        failures: Sequence[tuple[str, str]],
        promised: Mapping[str, HeadUncertainty] | None = None,
    ) -> None:
        """Writes ``images.json``.

        Args:
            out: folder.
            model: what was asked for.
            skeletons: by head that answered.
            failures: name of every file that could not be used, or not wholly, with the reason.
            promised: by head, what is known of how sure its answers are.
        """
        document = {
            "model": model,
            "images": self._images,
            "categories": {head: [_category(skeleton)] for head, skeleton in skeletons.items()},
            "failed": [{"file_name": name, "reason": reason} for name, reason in failures],
            **({"uncertainty": {head: _promise(each) for head, each in promised.items()}} if promised else {}),
        }
        write_atomically(out / "images.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _promise(promised: HeadUncertainty) -> dict[str, Json]:
    return {"radius_probability": promised.level, "of_a_new": promised.unit, "calibrated_on": promised.data}


def _or_none(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def _category(skeleton: Skeleton) -> dict[str, Json]:
    links = [[first + 1, second + 1] for first, second in skeleton.link_indices]  # COCO counts points from 1
    return {"id": 1, "name": skeleton.name, "keypoints": list(skeleton.names), "skeleton": links}
