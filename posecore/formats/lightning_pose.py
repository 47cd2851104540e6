"""Lightning Pose's CSV of labels: three rows of header as DeepLabCut's, then a row for each picture, by its path.

An empty cell is a point that is not labelled; there is no other flag. Tables with a third column, ``likelihood``, are
predictions: their rows are numbers of frames, so they name no picture.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.files import read_text
from posecore.formats.named_points import (
    NamedBody,
    NamedPointsOptions,
    NamedPointsReader,
    add_bodies,
    check_names,
    prefix_of,
    reader_options,
)
from posecore.formats.reader import Source
from posecore.formats.stated_files import StatedFiles
from posecore.formats.values import Refusal
from posecore.schema import Record, Reject

_HEADER = ["scorer", "bodyparts", "coords"]


class PointTable(NamedTuple):
    """A table of labels.

    Attributes:
        columns: (x column, y column) of each point, by its name.
        rows: line and cells of each picture.
    """

    columns: Mapping[str, tuple[int, int]]
    rows: Sequence[tuple[int, Sequence[str]]]


class LightningPoseReader(NamedPointsReader):
    """Reads one table, or those of a folder, such as one per camera; the folder of a picture is its video.

    Options are those of :class:`~posecore.formats.named_points.NamedPointsOptions`.
    """

    suffixes = (".csv",)
    kind: ClassVar[str] = "a table of Lightning Pose"

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per row, with one body if a point of it is labelled."""
        options = reader_options(source, NamedPointsOptions)
        table = point_table(source, part)
        check_names(source, list(table.columns), f"{part} has the points", options.skip_points, "skip_points")
        files = StatedFiles(source, part)
        prefix = prefix_of(source, part)
        seen: set[str] = set()
        for line, cells in table.rows:
            where = f"{part} line {line}"
            try:
                stated = cells[0].replace("\\", "/")
                image = files.find(stated)
                if image in seen:
                    raise Refusal("duplicate-id", f"the picture {image} was there before in this table.")
                seen.add(image)
                points = _points(table.columns, cells)
                video = image.split("/")[-2] if "/" in image else None
                record = Record(
                    dataset=source.dataset,
                    split=source.split,
                    source_id=f"{prefix}{stated}",
                    image=image,
                    width=0,
                    height=0,
                    license=source.license,
                    video_id=video,
                    frame_index=_trailing_number(image),
                )
            except Refusal as refusal:
                yield refusal.reject(source, where)
                continue
            points = {name: point for name, point in points.items() if name not in options.skip_points}
            if points:
                body = NamedBody(id=record.source_id, points=points)
                yield from add_bodies(source, options, record, [body], where)
            yield record


def point_table(source: Source, part: str) -> PointTable:
    """A table of labels.

    Raises:
        DatasetError: it is none, or one of predictions.
    """
    where = f"{source.dataset} {source.split}: {part}"
    try:
        rows = list(csv.reader(read_text(source, part).splitlines(), strict=True))
    except csv.Error as error:
        raise DatasetError(f"{where} is not a CSV table ({error}).") from None
    if [row[0] if row else "" for row in rows[:3]] != _HEADER or len({len(row) for row in rows[:3]}) != 1:
        raise DatasetError(f"{where} must begin with the rows {', '.join(_HEADER)} of one length.")
    if "likelihood" in rows[2]:
        raise DatasetError(f"{where} has likelihoods: it holds predictions, not labels, and names no pictures.")
    columns: dict[str, dict[str, int]] = {}
    for column, (name, axis) in enumerate(zip(rows[1], rows[2], strict=True)):
        if column == 0 or axis not in ("x", "y"):
            continue
        if axis in columns.setdefault(name, {}):
            raise DatasetError(f"{where} has two columns {axis} of {name}.")
        columns[name][axis] = column
    if not columns or any(len(pair) != 2 for pair in columns.values()):
        raise DatasetError(f"{where} must have one column x and one y for each point.")
    body = [(line, row) for line, row in enumerate(rows, start=1) if line > 3 and any(row)]
    return PointTable({name: (pair["x"], pair["y"]) for name, pair in columns.items()}, body)


def _points(columns: Mapping[str, tuple[int, int]], cells: Sequence[str]) -> dict[str, tuple[float, float, int]]:
    points = {}
    if len(cells) <= max(max(pair) for pair in columns.values()):
        raise Refusal("wrong-length", f"the row has {counted(len(cells), 'cell')}, fewer than the header.")
    for name, pair in columns.items():
        try:
            x, y = (float(cells[column]) if cells[column].strip() else math.nan for column in pair)
        except ValueError:
            raise Refusal("not-a-number", f"a cell of {name} is not a number.") from None
        if math.isnan(x) != math.isnan(y):
            raise Refusal("nan-keypoints", f"{name} has only one of its two coordinates.")
        if not math.isnan(x):
            points[name] = (x, y, 2)
    return points


def _trailing_number(image: str) -> int | None:
    stem = image.rpartition("/")[2].rpartition(".")[0]
    digits = stem[len(stem.rstrip("0123456789")) :]
    return int(digits) if 0 < len(digits) <= 9 else None
