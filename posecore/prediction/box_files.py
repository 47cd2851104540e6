"""Boxes from a file: COCO annotations or results as JSON, or a table of image names as CSV or Parquet."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from posecore.counting import counted
from posecore.errors import PredictionError
from posecore.geometry import MAX_COORDINATE_PX, boxes_beyond_reach
from posecore.prediction.instances import Boxes
from posecore.schema import Json

_COLUMNS = ("image", "x", "y", "w", "h")
_FORMS = (
    "expected COCO annotations (images and annotations with bbox), COCO results (a list of image_id, bbox and score), "
    f"or a table with the columns {', '.join(_COLUMNS)} and optionally score and frame, or another model's "
    "predictions.parquet"
)

_OTHER_FORMS = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)

_Row = tuple[str, int | None, tuple[float, float, float, float], float | None]
"""Image, frame of a video, box, score."""


@dataclass(frozen=True)
class BoxFile:
    """Boxes by image.

    Attributes:
        path: the file, for messages.
        boxes: by name of the image, or its id as text, and frame number of a video or None.
        image_ids: id by the same name, where the file states one.
    """

    path: Path
    boxes: Mapping[tuple[str, int | None], Boxes]
    image_ids: Mapping[str, int | str]

    @cached_property
    def images(self) -> frozenset[str]:
        """Every image the file names, with boxes or without."""
        return frozenset(image for image, _ in self.boxes) | self.image_ids.keys()

    def key_of(self, name: str) -> str | None:
        """What the file calls an image, or None if it does not name it.

        Args:
            name: of the source; its whole path is looked for first, then the last parts of it, then its stem, and at
                last the number its stem is (COCO's ``000000000139.jpg`` has the id 139).
        """
        images, path = self.images, PurePosixPath(name)
        tails = ["/".join(path.parts[start:]) for start in range(len(path.parts))]
        for candidate in (*tails, path.stem, str(int(path.stem)) if path.stem.isdecimal() else path.stem):
            if candidate in images:
                return candidate
        return None

    def of(self, key: str | None, frame: int | None) -> Boxes:
        """The boxes of an image or a frame, possibly none.

        Args:
            key: as :meth:`key_of` found it.
            frame: 0-based number in a video, None for a photo.
        """
        nothing = Boxes(np.zeros((0, 4)))
        return nothing if key is None else self.boxes.get((key, frame), nothing)


def read_box_file(path: Path) -> BoxFile:
    """Reads boxes by the suffix of their file: ``.json``, ``.csv`` or ``.parquet``.

    Raises:
        PredictionError: the file cannot be read, has another form, or a box or a score is no plausible number.
    """
    with _explained(path, _FORMS):
        if path.suffix == ".json":
            return _coco_file(path, json.loads(path.read_bytes()))
        if path.suffix == ".csv":
            table = pl.read_csv(path, schema_overrides={"image": pl.String}, infer_schema_length=None)
            return BoxFile(path, _grouped(_table_rows(table)), {})
        if path.suffix == ".parquet":
            return BoxFile(path, _grouped(_table_rows(pl.read_parquet(path))), {})
    raise PredictionError(f"{path}: boxes come as .json, .csv or .parquet; {_FORMS}.")


def read_image_ids(path: Path) -> BoxFile:
    """What COCO annotations call their images, without boxes: whatever they say of bodies is not looked at.

    Raises:
        PredictionError: the file cannot be read, has another form, or two images have one name or one id.
    """
    with _explained(path, "expected COCO annotations, whose images have id and file_name"):
        images = [(str(image["file_name"]), _id(image["id"])) for image in json.loads(path.read_bytes())["images"]]
    for what, values in zip(("file_name", "id"), zip(*images, strict=True), strict=False):
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            raise PredictionError(f"{path}: {counted(times, 'image')} have the {what} {value!r}; give each its own.")
    return BoxFile(path, {}, dict(images))


@contextmanager
def _explained(path: Path, forms: str) -> Iterator[None]:
    """What goes wrong in reading a file, said of it."""
    try:
        yield
    except _Implausible as error:
        raise PredictionError(f"{path}: {error}") from None
    except OSError as error:
        raise PredictionError(f"{path} cannot be read ({error.strerror or error}).") from None
    except (*_OTHER_FORMS, pl.exceptions.PolarsError) as error:
        detail = " ".join(str(error).split())[:120]
        raise PredictionError(f"{path}: {type(error).__name__} ({detail}); {forms}.") from None


def _coco_file(path: Path, document: Json) -> BoxFile:
    if isinstance(document, list):
        # By file where `posecore predict` wrote them: it numbered what had no number.
        called = [(str(item.get("file_name", item["image_id"])), item.get("frame_index")) for item in document]
        ids = {name: item["image_id"] for (name, frame), item in zip(called, document, strict=True) if frame is None}
        rows: Iterable[_Row] = (
            (name, frame, _box(item["bbox"]), float(item["score"]))
            for (name, frame), item in zip(called, document, strict=True)
        )
        return BoxFile(path, _grouped(rows), ids)
    names = {image["id"]: str(image["file_name"]) for image in document["images"]}
    scores = [item.get("score") for item in document["annotations"]]
    rows = (
        (names[item["image_id"]], None, _box(item["bbox"]), None if score is None else float(score))
        for item, score in zip(document["annotations"], scores, strict=True)
        if not item.get("iscrowd")
    )
    return BoxFile(path, _grouped(rows), {name: image_id for image_id, name in names.items()})


def _table_rows(table: pl.DataFrame) -> Iterable[_Row]:
    if "file_name" in table.columns and "image" not in table.columns:  # what `posecore predict` wrote
        table = table.rename({"file_name": "image", "frame_index": "frame"})
    table = table.select(*_COLUMNS, *(name for name in ("score", "frame") if name in table.columns))
    for row in table.iter_rows(named=True):
        frame, score = row.get("frame"), row.get("score")
        box = _box([row[name] for name in _COLUMNS[1:]])
        yield str(row["image"]), None if frame is None else int(frame), box, None if score is None else float(score)


def _id(value: Any) -> int | str:
    if not isinstance(value, int | str):
        raise TypeError(f"id {value!r}")
    return value


def _box(values: Any) -> tuple[float, float, float, float]:
    x, y, w, h = (float(value) for value in values)
    return x, y, w, h


class _Implausible(PredictionError):
    """A number that no box and no score has, whatever the image."""


def _check(rows: Sequence[_Row]) -> None:
    boxes = np.array([box for _, _, box, _ in rows], np.float64).reshape(-1, 4)
    scores = np.array([0.0 if score is None else score for *_, score in rows])
    for bad, problem in (
        (boxes_beyond_reach(boxes, None), f"is not in pixels, which are finite and below {MAX_COORDINATE_PX:g}"),
        (~np.isfinite(scores), "has a score that is not finite"),
    ):
        if bad.any():
            number = int(bad.argmax())
            shown = ", ".join(f"{value:g}" for value in boxes[number])
            raise _Implausible(f"box {number} ({shown}), on image {rows[number][0]!r:.80}, {problem}.")


def _grouped(found: Iterable[_Row]) -> dict[tuple[str, int | None], Boxes]:
    """Boxes of one image together; they count as detected if every one of them has a score."""
    rows = list(found)
    _check(rows)
    of_image: dict[tuple[str, int | None], list[_Row]] = {}
    for row in rows:
        of_image.setdefault((row[0], row[1]), []).append(row)
    return {
        key: Boxes(
            np.array([box for _, _, box, _ in found], np.float64),
            None if any(score is None for *_, score in found) else np.array([score for *_, score in found], np.float64),
        )
        for key, found in of_image.items()
    }
