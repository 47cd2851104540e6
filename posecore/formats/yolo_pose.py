"""YOLO-pose as Ultralytics trains on it: a ``data.yaml``, and beside every picture a text with a row for each body.

A row is class, centre and size of the box, then x, y and a flag of every point, all as shares of the picture's width
and height, so the size is read from the picture. In files with two numbers a point (``kpt_shape: [K, 2]``) a point is
not labelled where a number is below 0; (0, 0), which most converters write for it, counts as seen there
(ultralytics 8.4.190), unless the reader option ``zero_is_missing`` says otherwise.

Ultralytics drops a picture of which one point is beyond 1.01 or one number below -0.01, and takes of equal rows one; so
does this reader, and says so. Only points written as (-1, -1), which cost Ultralytics the picture, are read: as not
labelled.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
import yaml

from posecore.counting import counted
from posecore.errors import DatasetError, ImageHeaderError
from posecore.formats.files import read_text, relative_path, source_file
from posecore.formats.named_points import NamedBody, NamedPointsOptions, add_bodies, reader_options
from posecore.formats.reader import ReaderOfParts, Source
from posecore.formats.values import Refusal
from posecore.image_header import HEADER_BYTES, ImageSize, image_size
from posecore.schema import Json, Record, Reject
from posecore.storage import open_regular
from posecore.strict_yaml import parse_yaml

PARTS = ("train", "val", "test")
_IMAGES = (".jpg", ".jpeg", ".png")
_OTHER_IMAGES = (".bmp", ".webp", ".tif", ".tiff", ".heic", ".dng", ".mpo", ".pfm", ".avif", ".jp2", ".jpeg2000")
_LEAST, _MOST = -0.01, 1.01
"""What Ultralytics lets a share be; boxes may be larger."""
NAME_FIELDS = ("kpt_names", "node_names", "keypoint_names")
"""Where names of the points stand, if at all: in Ultralytics', sleap-io's and others' files."""


class YoloPoseOptions(NamedPointsOptions):
    """``reader_options`` of YOLO-pose.

    Attributes:
        part: key of ``data.yaml`` that names the pictures; the split's name unless stated.
    """

    part: str = ""


class YoloDescription(NamedTuple):
    """What a ``data.yaml`` says.

    Attributes:
        shape: number of points, and numbers of each.
        classes: names by number.
        names: of the points, or () where the file has none.
        flip: partner of each point by position, or ().
        links: pairs of positions.
        pictures: by part, paths as they stand in the file.
        folder: of the file, below the root.
        stated_folder: what ``path`` says.
    """

    shape: tuple[int, int]
    classes: Mapping[int, str]
    names: tuple[str, ...]
    flip: tuple[int, ...]
    links: tuple[tuple[int, int], ...]
    pictures: Mapping[str, Sequence[str]]
    folder: str
    stated_folder: str


class YoloPoseReader(ReaderOfParts):
    """Reads the pictures of one part and the rows beside them; points are in the order of the skeleton.

    Options are those of :class:`YoloPoseOptions`; boxes are always there. A picture without a text is one without
    bodies, which trains Ultralytics, too.
    """

    options: ClassVar[frozenset[str]] = frozenset(YoloPoseOptions.model_fields)

    def parts(self, source: Source) -> list[str]:
        """The folders and lists of pictures that the part names."""
        description = describe_yolo(source)
        options = reader_options(source, YoloPoseOptions)
        part = options.part or source.split
        if not description.pictures.get(part):
            named = ", ".join(name for name, places in description.pictures.items() if places) or "none"
            raise DatasetError(
                f"{source.dataset} {source.split}: {source.annotations} names no pictures as {part}; it has {named}. "
                "Say which under the split's options: {part: train}."
            )
        _check_names(source, description)
        return [_place(source, description, stated) for stated in description.pictures[part]]

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """The pictures of one folder, in the order of their paths, or of one list, in its order."""
        description = describe_yolo(source)
        options = reader_options(source, YoloPoseOptions)
        for image in _pictures(source, description, part):
            try:
                yield from _read_picture(source, options, description, image)
            except Refusal as refusal:
                yield refusal.reject(source, image, image)


def describe_yolo(source: Source) -> YoloDescription:
    """The ``data.yaml`` of a source.

    Raises:
        DatasetError: it is none of pose.
    """
    where = f"{source.dataset} {source.split}: {source.annotations}"
    try:
        found = parse_yaml(read_text(source, source.annotations))
    except yaml.YAMLError as error:
        raise DatasetError(f"{where} is not readable as YAML ({' '.join(str(error).split())}).") from None
    shape: Json = found.get("kpt_shape") if isinstance(found, dict) else None
    if shape is None or not (_whole_numbers(shape) and len(shape) == 2 and shape[0] >= 1 and shape[1] in (2, 3)):
        raise DatasetError(f"{where} has no kpt_shape: [points, 2 or 3], so it is no data.yaml of poses.")
    flip = found.get("flip_idx") or []
    if not _whole_numbers(flip) or (flip and sorted(flip) != list(range(shape[0]))):
        raise DatasetError(f"{where}: flip_idx must list each of the {counted(shape[0], 'point')} once.")
    links = found.get("skeleton") or []
    links = links if all(_whole_numbers(link) and len(link) == 2 for link in links) else []
    pictures = {part: _listed(found.get(part)) for part in PARTS}
    if not pictures["val"]:
        pictures["val"] = _listed(found.get("validation"))
    pictures |= {
        part: _listed(places)
        for part, places in found.items()
        if part not in (*pictures, "validation") and _is_part(places)
    }
    return YoloDescription(
        shape=(shape[0], shape[1]),
        classes=_classes(found.get("names")),
        names=_point_names(found, shape[0]),
        flip=tuple(flip),
        links=tuple((a, b) for a, b in links if min(a, b) >= 0 and max(a, b) < shape[0]),
        pictures=pictures,
        folder=source.annotations.rpartition("/")[0],
        stated_folder=str(found.get("path") or ""),
    )


def _whole_numbers(value: Json) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


def _is_part(places: Json) -> bool:
    return isinstance(places, str) and places.endswith(("images", ".txt"))


def _listed(places: Json) -> list[str]:
    found = places if isinstance(places, list) else [places]
    return [place for place in found if isinstance(place, str) and place]


def _classes(names: Json) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    return {int(number): str(name) for number, name in pairs if str(number).isdecimal()}


def _point_names(found: Mapping[str, Json], count: int) -> tuple[str, ...]:
    for field in NAME_FIELDS:
        names = found.get(field)
        if isinstance(names, dict):  # by class; they share kpt_shape, and the first one's stand for all
            names = next(iter(names.values()), None)
        if isinstance(names, list) and len(names) == count:
            return tuple(map(str, names))
    return ()


def _check_names(source: Source, description: YoloDescription) -> None:
    count, names = description.shape[0], source.skeleton.names
    if count != len(names):
        raise DatasetError(
            f"{source.dataset}: {source.annotations} has {counted(count, 'point')} (kpt_shape), skeleton "
            f"{source.skeleton.name} {len(names)}; name a skeleton that fits the file."
        )
    for position, (theirs, ours) in enumerate(zip(description.names, names, strict=False)):
        if theirs != ours:
            raise DatasetError(
                f"{source.dataset}: {source.annotations} calls point {position} {theirs}, skeleton "
                f"{source.skeleton.name} {ours}; the order must be the file's."
            )


def _place(source: Source, description: YoloDescription, stated: str) -> str:
    """Where pictures lie: as Ultralytics would look, and else beside ``data.yaml``, as if the folder had moved."""
    pieces = [piece for piece in stated.replace("\\", "/").split("/") if piece not in ("", ".", "..")]
    top = description.stated_folder
    tops = ["" if top.startswith("/") or ".." in PurePosixPath(top).parts else top, ""]
    for within in dict.fromkeys(tops):
        for left in range(len(pieces)):
            place = relative_path(description.folder, within, *pieces[left:])
            if (source.root / place).exists():
                return place
    missing = relative_path(description.folder, *pieces)
    source_file(source, missing)
    return missing


def _pictures(source: Source, description: YoloDescription, part: str) -> list[str]:
    place = source_file(source, part)
    if place.is_dir():
        found = (one for one in place.rglob("*") if one.suffix.lower() in (*_IMAGES, *_OTHER_IMAGES))
        return sorted(relative_path(part, one.relative_to(place).as_posix()) for one in found if not one.is_dir())
    lines = [line.strip() for line in read_text(source, part).splitlines()]
    return [_place(source, description, line) for line in lines if line]


def _label_path(image: str) -> str:
    """Ultralytics' rule: the last folder ``images`` is ``labels``, and the suffix ``.txt``."""
    head, found, tail = f"/{image}".rpartition("/images/")
    path = f"{head}/labels/{tail}" if found else image
    return f"{path.rpartition('.')[0]}.txt".removeprefix("/")


def _read_picture(
    source: Source, options: NamedPointsOptions, description: YoloDescription, image: str
) -> Iterator[Record | Reject]:
    size = _size(source, image)
    record = Record(
        dataset=source.dataset,
        split=source.split,
        source_id=image,
        image=image,
        width=size.width,
        height=size.height,
        license=source.license,
    )
    labels = _label_path(image)
    if not (source.root / labels).exists():
        yield record
        return
    seen: set[tuple[float, ...]] = set()
    bodies: list[NamedBody] = []
    for number, line in enumerate(read_text(source, labels).splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, description)
        if row in seen:
            again = Refusal("repeated-body", "the row is there twice; one of them is taken.")
            yield again.reject(source, f"{labels} line {number}", image, f"{image}:{number}", outcome="skipped")
            continue
        seen.add(row)
        bodies.append(_body(source, description, size, row, f"{image}:{number}"))
    yield from add_bodies(source, options, record, bodies, labels)
    yield record


def _size(source: Source, image: str) -> ImageSize:
    if PurePosixPath(image).suffix.lower() in _OTHER_IMAGES:
        raise Refusal("unreadable-file", f"{image} is neither JPEG nor PNG; convert it.")
    try:
        with open_regular(source_file(source, image)) as file:
            head = file.read(HEADER_BYTES)
            try:
                return image_size(head)
            except ImageHeaderError:
                return image_size(head + file.read())
    except (OSError, ImageHeaderError) as error:
        raise Refusal("unreadable-file", f"{image} has no size that can be read ({error}).") from None


def _row(line: str, description: YoloDescription) -> tuple[float, ...]:
    count, each = description.shape
    try:
        row = tuple(map(float, line.split()))
    except ValueError:
        raise Refusal("not-a-number", f"{line!r:.60} is not a row of numbers.") from None
    if len(row) != 5 + count * each:
        raise Refusal(
            "wrong-length", f"a row has {counted(len(row), 'number')}, kpt_shape asks for {5 + count * each}."
        )
    if not all(map(math.isfinite, row)) or not row[0].is_integer() or row[0] < 0:
        raise Refusal("not-a-number", f"{line!r:.60} has a number that is none, or no class.")
    points = np.array(row[5:]).reshape(count, each)[:, :2]
    points = points[(points != -1).any(axis=1)]
    if points.max(initial=0) > _MOST or min(points.min(initial=0), *row[1:5]) < _LEAST:
        raise Refusal("not-a-share", f"{line!r:.60} has numbers beyond 0 to 1; they are shares of width and height.")
    return row


def _body(
    source: Source, description: YoloDescription, size: ImageSize, row: Sequence[float], identifier: str
) -> NamedBody:
    count, each = description.shape
    points = {}
    for name, values in zip(source.skeleton.names, np.array(row[5:]).reshape(count, each).tolist(), strict=True):
        x, y = values[0] * size.width, values[1] * size.height
        flag = values[2] if each == 3 and values[:2] != [-1, -1] else 2 * (values[0] >= 0 and values[1] >= 0)
        points[name] = (x, y, int(flag) if flag in (0, 1, 2) else -1)
    x, y, width, height = row[1:5]
    return NamedBody(
        id=identifier,
        points=points,
        bbox_xywh=(
            (x - width / 2) * size.width,
            (y - height / 2) * size.height,
            width * size.width,
            height * size.height,
        ),
        category=description.classes.get(int(row[0]), ""),
        category_id=int(row[0]),
    )
