"""A DeepLabCut project: ``config.yaml`` and, per video, a folder of extracted frames with one table of points.

The tables come in many shapes: three header rows, or four with ``individuals``; one index column with the path, or
three (``labeled-data``, video, image); slashes or Windows backslashes. An empty cell is an unlabelled point; there is
no other flag, so every labelled point counts as seen. Image sizes are not stored and may differ within a folder.

The definition's skeleton is authoritative: it must name the project's bodyparts. DeepLabCut knows neither mirror pairs
nor OKS constants, and its own skeleton is for drawing only.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import DatasetError, ImageHeaderError
from posecore.formats.files import read_bytes, read_text, relative_path, source_file
from posecore.formats.hdf5 import open_h5, table, values
from posecore.formats.named_points import check_names
from posecore.formats.reader import ReaderOfParts, Source
from posecore.formats.values import Refusal, area_of_box, box_around, keypoints_from_rows, number, sequence
from posecore.image_header import image_size
from posecore.schema import BoxXywh, FloatArray, Instance, Record, Reject
from posecore.strict_yaml import parse_yaml

BOX_MARGIN = 0.25
"""The box is the points' extent plus this share of its longer side all around, unless the definition says otherwise."""
MIN_BOX_SIDE = 64.0
"""Pixels; an animal with one labelled point still needs a box."""

_FRAME_NUMBER = re.compile(r"(\d+)$")


class DeepLabCutReader(ReaderOfParts):
    """Reads the labelled frames of a project.

    The video is the folder. In a project with several animals, each individual with a labelled point in a frame is an
    instance and its name the track; a frame without any labelled point is a record without instances.

    Options:
        table: ``csv`` (default), or ``h5`` to take the numbers from the ``.h5`` beside each CSV (names and order still
            come from the CSV: in the ``.h5`` they are a pickle, which is never opened).
        skip_bodyparts: bodyparts of the project that the skeleton leaves out.
        box: ``points`` (default), the extent of the points and a margin; or ``picture``, the whole frame, for a fixed
            camera and one animal: where no label says where to look, nothing else is known.
        box_margin: see :data:`BOX_MARGIN`.
        min_box_side: see :data:`MIN_BOX_SIDE`.
        category: name of the animal, ``animal`` unless stated.
        tracks_are_subjects: true where the name of an individual is that of an animal, in every video.
    """

    options: ClassVar[frozenset[str]] = frozenset(
        {"table", "skip_bodyparts", "box", "box_margin", "min_box_side", "category", "tracks_are_subjects"}
    )

    def parts(self, source: Source) -> list[str]:
        """The tables, in the order of their paths."""
        _check_config(source)
        folder = relative_path(_project(source), "labeled-data")
        names = sorted(f"{path.parent.name}/{path.name}" for path in source_file(source, folder).glob("*/*.csv"))
        tables = [name for name in names if name.rpartition("/")[2].startswith("CollectedData_")]
        if not tables:
            raise DatasetError(
                f"{source.dataset}: no CollectedData_*.csv in the folders of {folder}; label some frames."
            )
        return [relative_path(folder, name) for name in tables]

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """The frames of one table."""
        return _read_table(source, _project(source), part)


class _Header(NamedTuple):
    """What the header rows of a table say.

    Attributes:
        num_rows: 3 or 4.
        num_index: columns of the path, 1 or 3.
        columns: per individual, (x column, y column) of each bodypart, counted without the index columns.
    """

    num_rows: int
    num_index: int
    columns: Mapping[str, Mapping[str, tuple[int, int]]]


def _project(source: Source) -> str:
    """The project's folder."""
    return source.annotations.rpartition("/")[0]


def _check_config(source: Source) -> None:
    """Refuses a project whose bodyparts are not the skeleton's."""
    try:
        config = parse_yaml(read_text(source, source.annotations))
    except yaml.YAMLError as error:
        raise DatasetError(
            f"{source.dataset}: {source.annotations} is not readable as YAML ({' '.join(str(error).split())})."
        ) from None
    if not isinstance(config, dict):
        raise DatasetError(f"{source.dataset}: {source.annotations} is not a DeepLabCut config.yaml.")
    lists = [config.get("bodyparts"), config.get("multianimalbodyparts"), config.get("uniquebodyparts")]
    project = [str(part) for parts in lists if isinstance(parts, list) for part in parts]
    _compare_names(source, project, f"{source.annotations} lists the bodyparts")


def _compare_names(source: Source, found: Sequence[str], what: str) -> None:
    skipped = list(map(str, sequence(source.options.get("skip_bodyparts", ()), "reader option skip_bodyparts")))
    check_names(source, found, what, skipped, "skip_bodyparts")


def _read_table(source: Source, project: str, name: str) -> Iterator[Record | Reject]:
    try:
        rows = list(csv.reader(read_text(source, name).splitlines(), strict=True))
    except csv.Error as error:
        raise DatasetError(f"{source.dataset}: {name} is not a CSV table ({error}).") from None
    header = _header(source, name, rows)
    body = [(line, row) for line, row in enumerate(rows, start=1) if line > header.num_rows and any(row)]
    stored = None
    if source.options.get("table", "csv") == "h5":
        stored = _h5_values(source, f"{name.removesuffix('.csv')}.h5", len(body))
    seen: set[str] = set()
    for index, (line, row) in enumerate(body):
        where = f"{name} line {line}"
        try:
            image = _image_path(source, project, row[: header.num_index])
            if image in seen:
                raise Refusal("duplicate-id", f"the frame {image} came before in this table.")
            values = _row_values(row[header.num_index :]) if stored is None else stored[index]
            record = _record(source, header, image, values)
        except Refusal as refusal:
            yield refusal.reject(source, where)
            continue
        seen.add(image)
        yield record


def _header(source: Source, name: str, rows: Sequence[Sequence[str]]) -> _Header:
    labels = [row[0] for row in rows[:4] if row]
    num_rows = 4 if labels[1:2] == ["individuals"] else 3
    if labels[:num_rows] not in (["scorer", "bodyparts", "coords"], ["scorer", "individuals", "bodyparts", "coords"]):
        raise DatasetError(
            f"{source.dataset}: {name} must begin with the rows scorer, (individuals,) bodyparts and coords."
        )
    coords = rows[num_rows - 1]
    num_index = next((column for column, cell in enumerate(coords) if cell in ("x", "y")), 0)
    if num_index not in (1, 3) or len({len(row) for row in rows[:num_rows]}) != 1:
        raise DatasetError(f"{source.dataset}: {name} needs one or three columns for the frame, then x and y columns.")
    columns: dict[str, dict[str, tuple[int, int]]] = {}
    individuals = rows[1] if num_rows == 4 else [""] * len(coords)
    bodyparts = rows[num_rows - 2]
    for column in range(num_index, len(coords), 2):
        pair = slice(column, column + 2)
        points = columns.setdefault(individuals[column], {})
        if (
            list(coords[pair]) != ["x", "y"]
            or len({*bodyparts[pair]}) != 1
            or len({*individuals[pair]}) != 1
            or bodyparts[column] in points
        ):
            raise DatasetError(
                f"{source.dataset}: {name} must have exactly one x and one y column for each bodypart; column "
                f"{column + 1} is {bodyparts[column]!r} {coords[column]!r} (tables of predictions are not labels)."
            )
        points[bodyparts[column]] = (column - num_index, column - num_index + 1)
    found = list(dict.fromkeys(part for points in columns.values() for part in points))
    _compare_names(source, found, f"{name} has the bodyparts")
    return _Header(num_rows, num_index, columns)


def _image_path(source: Source, project: str, cells: Sequence[str]) -> str:
    pieces = [piece for cell in cells for piece in cell.replace("\\", "/").split("/") if piece]
    if "labeled-data" not in pieces[:-2]:
        raise Refusal("path-escape", f"the frame {'/'.join(cells)!r:.80} does not lie in labeled-data/<video>/.")
    start = len(pieces) - 1 - pieces[::-1].index("labeled-data")
    return relative_path(source.images or project, *pieces[start:])


def _row_values(cells: Sequence[str]) -> NDArray[np.float64]:
    try:
        return np.array([float(cell) if cell.strip() else math.nan for cell in cells])
    except ValueError as error:
        raise Refusal("not-a-number", f"a cell is not a number ({error}).") from None


def _h5_values(source: Source, name: str, num_rows: int) -> NDArray[np.float64]:
    """(rows, 2·K) numbers of a pandas table, read as plain HDF5."""
    with open_h5(source, name, "a DeepLabCut table that can be read; use table: csv") as file:
        found = table(file, "df_with_missing/table")
        rows = found.shape[0] if found.shape else 1
        if found.shape == (num_rows,):
            numbers = values(file, "df_with_missing/table")["values_block_0"]
            return np.asarray(numbers, np.float64).reshape(num_rows, -1)
    raise DatasetError(f"{source.dataset}: {name} has {counted(rows, 'row')}, its CSV {num_rows}; use table: csv.")


def _record(source: Source, header: _Header, image: str, values: NDArray[np.float64]) -> Record:
    num_columns = 2 * sum(len(points) for points in header.columns.values())
    if len(values) != num_columns:
        raise Refusal("wrong-length", f"the row has {counted(len(values), 'coordinate')}, the header {num_columns}.")
    video, frame = image.split("/")[-2:]
    frame_number = _FRAME_NUMBER.search(frame.rpartition(".")[0])
    record = Record(
        dataset=source.dataset,
        split=source.split,
        source_id=f"{video}/{frame}",
        image=image,
        width=0,
        height=0,
        license=source.license,
        video_id=video,
        frame_index=int(frame_number[1]) if frame_number else None,
    )
    for individual, points in header.columns.items():
        keypoints = _keypoints(source, points, values)
        if keypoints[:, 2].any():
            record.instances.append(_instance(source, record, individual, keypoints))
    return record


def _keypoints(source: Source, points: Mapping[str, tuple[int, int]], values: NDArray[np.float64]) -> FloatArray:
    rows = []
    for name in source.skeleton.names:
        x, y = (values[column] for column in points[name]) if name in points else (math.nan, math.nan)
        if math.isnan(x) != math.isnan(y):
            raise Refusal("nan-keypoints", f"{name} has only one of its two coordinates.")
        rows.append((float(x), float(y), 0 if math.isnan(x) else 2))
    return keypoints_from_rows(rows)


def _instance(source: Source, record: Record, individual: str, keypoints: FloatArray) -> Instance:
    bbox = _box(source, record.image, individual, keypoints)
    return Instance(
        id=f"{record.source_id}/{individual}" if individual else record.source_id,
        bbox_xywh=bbox,
        keypoints=keypoints,
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        category=str(source.options.get("category", "animal")),
        track_id=individual or None,
        subject_id=individual or None if source.options.get("tracks_are_subjects") else None,
    )


def _box(source: Source, image: str, individual: str, keypoints: FloatArray) -> BoxXywh:
    match source.options.get("box", "points"):
        case "points":
            margin = number(source.options.get("box_margin", BOX_MARGIN), "reader option box_margin")
            min_side = number(source.options.get("min_box_side", MIN_BOX_SIDE), "reader option min_box_side")
            return box_around(keypoints, margin, min_side)
        case "picture" if individual:
            raise DatasetError(
                f"{source.dataset}: reader option box: picture cannot tell {individual} from other animals of the "
                "frame; take box: points."
            )
        case "picture":
            return _whole_picture(source, image)
        case kind:
            raise DatasetError(f"{source.dataset}: reader option box is {kind!r}, which is neither points nor picture.")


def _whole_picture(source: Source, image: str) -> BoxXywh:
    try:
        size = image_size(read_bytes(source, image))
    except ImageHeaderError as error:
        raise Refusal("unreadable-file", f"the frame {image} has no size that can be read: {error}") from None
    return 0.0, 0.0, float(size.width), float(size.height)
