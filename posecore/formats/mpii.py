"""MPII Human Pose in its published forms, and MPII-TRB.

What they have in common: coordinates are 1-based in every form (one is subtracted here from joints, centre and head
box), persons have a centre and a height instead of a box, and one image's persons lie in separate rows (they are merged
here, images in order of first appearance).

The instance's ``center`` is the published one, shifted down by ``15 · scale`` pixels, and its ``scale`` is
``200 · scale`` in both directions, as the loaders of HRNet, mmpose and ViTPose have it before they enlarge it by 1.25
(which is the definition's ``conventions.padding``). ``bbox_xywh`` is the square they span, and the OKS area follows the
definition's rule for it; MPII has no OKS benchmark. The raw centre and scale stay in ``extras``.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.formats.claims import Texts, together
from posecore.formats.files import read_bytes, read_text, relative_path
from posecore.formats.json_lists import WHOLE, Entries, StoredList, open_json
from posecore.formats.matfile import MatValue, StoredStructs, damage_in_a_sentence, read_mat
from posecore.formats.reader import Source
from posecore.formats.values import (
    Refusal,
    area_of_box,
    integer,
    keypoints_from_rows,
    mapping,
    number,
    numbers,
    sequence,
    text,
)
from posecore.schema import BoxXyxy, Instance, Json, Record, Reject

NUM_JOINTS = 16
UPPER_NECK, HEAD_TOP = 8, 9
CENTER_SHIFT = 15.0
"""The published loaders move the centre down by this many pixels per unit of scale, so that feet are not cut."""
PIXEL_STD = 200.0
"""Pixels per unit of scale: ``scale`` is the person's height divided by this."""
TRB_INVERSE_SCALE = 0.8286
"""``scale`` of MPII-TRB is this divided by MPII's; measured on five persons known in both (0.82860 ± 0.00001)."""
HEAD_POINTS_PER_DIAGONAL = 0.8
"""Distance of head_top and upper_neck over the head box's diagonal, the same for every validation person."""

DERIVED_HEAD_BOXES = "derived-head-boxes"

JointRow = tuple[float, float, int]


@dataclass(slots=True, kw_only=True)
class _Person:
    """One row of any form; every coordinate still 1-based, flags already COCO's."""

    image: str
    instance_id: str
    where: str
    center: tuple[float, float]
    scale: float
    joints: list[JointRow]
    head_xyxy: tuple[float, ...] | None = None
    image_size: tuple[int, int] = (0, 0)
    is_crowd: bool = False
    extras: dict[str, Json] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _EmptyImage:
    """An image of the split without any annotated person."""

    image: str


_Row = _Person | _EmptyImage | Reject


@dataclass(slots=True)
class _Rows:
    """The rows of a file; those of an image are not together.

    Attributes:
        number: of them.
        image_of: name of the image of a row; None where it has none that can be read.
        read: what a row says.
        remarks: of the whole.
    """

    number: int
    image_of: Callable[[int], str | None]
    read: Callable[[int], Iterable[_Row]]
    remarks: list[Reject] = field(default_factory=list)


class MpiiReader:
    """Reads MPII.

    Options:
        form: ``hrnet`` (default; JSON list of HRNet and mmpose), ``cpm`` (JSON of pytorch-pose and CPM) or ``mat``
            (the official ``mpii_human_pose_v1_u12_1.mat``).
        head_boxes: the forms of JSON only: the official evaluation file (``gt_valid.mat``; ``headboxes_src``), whose
            rows are those of the split. Without it the head box is a square around head_top and upper_neck with the
            diagonal of nearly all originals; ``extras.head_box`` then says ``derived``. PCKh of the validation persons
            comes out 0.06 to 0.15 too high by it, since 26 have no such pair of points and 205 another box, so a file
            that is named and not there is counted.
        validation: ``cpm`` only: true or false keeps the rows with that ``isValidation``.
        train: ``mat`` only: true (default) keeps images with ``img_train`` 1, false the others.
        only_images: ``mat`` only: text file of image names, one per line, to keep.
        without_images: ``mat`` only: text file of image names to leave out.
    """

    options: ClassVar[frozenset[str]] = frozenset(
        {"form", "head_boxes", "validation", "train", "only_images", "without_images"}
    )

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        form = source.options.get("form", "hrnet")
        if not isinstance(form, str) or form not in _FORMS:
            raise DatasetError(
                f"{source.dataset} {source.split}: reader option form is {form!r}; it may be {', '.join(_FORMS)}."
            )
        if source.skeleton.num_keypoints != NUM_JOINTS:
            raise DatasetError(
                f"{source.dataset}: MPII has {NUM_JOINTS} joints, but skeleton {source.skeleton.name} has "
                f"{source.skeleton.num_keypoints}."
            )
        with _FORMS[form](source) as rows:
            yield from _records(source, rows)


class MpiiTrbReader:
    """Reads MPII-TRB: the same images and persons with 40 points, in a COCO-like JSON whose ``scale`` is inverse."""

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        with _trb_rows(source) as rows:
            yield from _records(source, rows)


def _records(source: Source, rows: _Rows) -> Iterator[Record | Reject]:
    yield from rows.remarks
    images = Texts()
    for position in range(rows.number):
        images.append(rows.image_of(position))
    seen: set[str] = set()
    for positions in together(images.column()):
        record = None
        for row in (row for position in positions for row in rows.read(position)):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                with_row = record or _empty_record(source, row)
                if isinstance(row, _Person):
                    if row.instance_id in seen:
                        raise Refusal("duplicate-id", f"a person with the id {row.instance_id} came before.")
                    with_row.instances.append(_instance(source, row))
                    seen.add(row.instance_id)
                record = with_row
            except Refusal as refusal:
                where = row.where if isinstance(row, _Person) else source.annotations
                instance_id = row.instance_id if isinstance(row, _Person) else ""
                yield refusal.reject(source, where, _stem(row.image), instance_id)
        if record is not None:
            yield record


def _named(entry: Json, field_name: str) -> str | None:
    """The text of a field; None if there is none."""
    name = entry.get(field_name) if isinstance(entry, dict) else None
    return name if isinstance(name, str) else None


def _empty_record(source: Source, row: "_Person | _EmptyImage") -> Record:
    height, width = row.image_size if isinstance(row, _Person) else (0, 0)
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=_stem(row.image),
        image=relative_path(source.images, row.image),
        width=width,
        height=height,
        license=source.license,
    )


def _instance(source: Source, person: _Person) -> Instance:
    scale = person.scale
    if scale <= 0 or person.center == (-1, -1):
        raise Refusal(
            "no-center", f"centre {person.center} and scale {scale:g} mark a person that the publisher could not place."
        )
    side = PIXEL_STD * scale
    x, y = person.center[0] - 1, person.center[1] - 1 + CENTER_SHIFT * scale
    head, extras = person.head_xyxy, dict(person.extras)
    if head is None and source.skeleton.num_keypoints == NUM_JOINTS:
        head = _derived_head_box(person.joints)
        if head is not None:
            extras["head_box"] = "derived"
    keypoints = keypoints_from_rows(person.joints)
    keypoints[keypoints[:, 2] > 0, :2] -= 1
    return Instance(
        id=person.instance_id,
        bbox_xywh=(x - side / 2, y - side / 2, side, side),
        keypoints=keypoints,
        area=area_of_box(source.area_rule, side, side),
        area_rule=source.area_rule,
        is_crowd=person.is_crowd,
        center=(x, y),
        scale=(side, side),
        head_bbox_xyxy=None if head is None else (head[0] - 1, head[1] - 1, head[2] - 1, head[3] - 1),
        extras={"center": list(person.center), "scale": scale, **extras},
    )


def _derived_head_box(joints: list[JointRow]) -> BoxXyxy | None:
    (x1, y1, flag1), (x2, y2, flag2) = joints[HEAD_TOP], joints[UPPER_NECK]
    if not flag1 or not flag2:
        return None
    half_side = math.hypot(x2 - x1, y2 - y1) / HEAD_POINTS_PER_DIAGONAL / math.sqrt(8)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half_side, y - half_side, x + half_side, y + half_side


def _stem(image: str) -> str:
    return image.rsplit("/", 1)[-1].rsplit(".", 1)[0]


# --- JSON of HRNet and mmpose -------------------------------------------------------------------------------------


@contextmanager
def _hrnet_rows(source: Source) -> Iterator[_Rows]:
    with open_json(source, source.annotations, (WHOLE,)) as content:
        entries = _list_of_rows(source, content)
        heads, remarks = _head_boxes(source, len(entries))
        yield _Rows(
            len(entries),
            lambda index: _named(entries[index], "image"),
            lambda index: [_hrnet_row(source, index, entries[index], _row_of(heads, index))],
            remarks,
        )


def _hrnet_row(source: Source, index: int, entry: Json, head: tuple[float, ...] | None) -> _Row:
    where = f"{source.annotations} [{index}]"
    try:
        row = mapping(entry, "a row")
        return _Person(
            image=text(row.get("image"), "image"),
            instance_id=str(index),
            where=where,
            center=_pair(row.get("center"), "center"),
            scale=number(row.get("scale"), "scale"),
            joints=_hrnet_joints(row),
            head_xyxy=head,
        )
    except Refusal as refusal:
        return refusal.reject(source, where, instance_id=str(index))


def _hrnet_joints(row: Json) -> list[JointRow]:
    """In this form 1 means annotated, hidden joints included, so whether a joint was hidden is lost."""
    if "joints" not in row:  # the test split
        return [(0.0, 0.0, 0)] * NUM_JOINTS
    joints = sequence(row["joints"], "joints")
    flags = numbers(row.get("joints_vis"), NUM_JOINTS, "joints_vis")
    if len(joints) != NUM_JOINTS:
        raise Refusal("wrong-length", f"joints must have {NUM_JOINTS} entries, not {len(joints)}.")
    rows: list[JointRow] = []
    for index, (joint, flag) in enumerate(zip(joints, flags, strict=True)):
        if flag not in (0, 1):
            raise Refusal("flag-out-of-range", f"joints_vis[{index}] is {flag:g}; 0 and 1 exist.")
        rows.append((*_pair(joint, f"joints[{index}]"), 2 if flag else 0))
    return rows


def _head_boxes(source: Source, num_rows: int) -> tuple[NDArray[np.float64] | None, list[Reject]]:
    """(N, 4) corners, 1-based, or None where no file is named, or the named one is not there, which is a remark."""
    name = source.options.get("head_boxes")
    if name is None:
        return None, []
    if not (source.root / relative_path(str(name))).exists():
        missing = Refusal(
            "derived-head-boxes",
            f"{name} is not in the download, so head boxes are derived from head_top and upper_neck, and PCKh comes "
            "out up to 0.15 too high; fetch that file to be exact.",
        )
        return None, [missing.reject(source, source.annotations, outcome="kept")]
    boxes = read_mat(read_bytes(source, str(name)), str(name)).get("headboxes_src")
    if not isinstance(boxes, np.ndarray) or boxes.shape != (2, 2, num_rows):
        raise DatasetError(
            f"{source.dataset} {source.split}: {name} must hold headboxes_src of shape 2 x 2 x {num_rows}, "
            f"a box for each row of {source.annotations}."
        )
    return boxes.astype(np.float64).reshape(4, num_rows).T, []


def _row_of(boxes: NDArray[np.float64] | None, row: int) -> tuple[float, ...] | None:
    return None if boxes is None else tuple(boxes[row].tolist())


# --- JSON of pytorch-pose and CPM ---------------------------------------------------------------------------------


@contextmanager
def _cpm_rows(source: Source) -> Iterator[_Rows]:
    wanted = source.options.get("validation")
    with open_json(source, source.annotations, (WHOLE, "root")) as content:
        entries = _list_of_rows(source, content.get("root") if isinstance(content, dict) else content)
        kept = [row for row, entry in enumerate(entries) if wanted is None or _is_validation(entry) in (wanted, None)]
        heads, remarks = _head_boxes(source, len(kept))
        yield _Rows(
            len(kept),
            lambda place: _named(entries[kept[place]], "img_paths"),
            lambda place: [_cpm_row(source, kept[place], entries[kept[place]], _row_of(heads, place))],
            remarks,
        )


def _cpm_row(source: Source, index: int, entry: Json, head: tuple[float, ...] | None) -> _Row:
    where = f"{source.annotations} [{index}]"
    try:
        row = mapping(entry, "a row")
        if source.options.get("validation") is not None:
            number(row.get("isValidation"), "isValidation")
        image_index = integer(row.get("annolist_index"), "annolist_index")
        person_index = integer(row.get("people_index"), "people_index")
        return _Person(
            image=text(row.get("img_paths"), "img_paths"),
            instance_id=f"{image_index}_{person_index}",
            where=where,
            center=_pair(row.get("objpos"), "objpos"),
            scale=number(row.get("scale_provided"), "scale_provided"),
            joints=_cpm_joints(row.get("joint_self")),
            head_xyxy=head,
            image_size=(
                integer(row.get("img_height", 0), "img_height"),
                integer(row.get("img_width", 0), "img_width"),
            ),
        )
    except Refusal as refusal:
        return refusal.reject(source, where)


def _is_validation(entry: Json) -> bool | None:
    """What a row says of itself; None if nothing that can be understood, so that it is rejected with its reason."""
    value = entry.get("isValidation") if isinstance(entry, dict) else None
    return bool(value) if isinstance(value, int | float) else None


def _cpm_joints(value: Json) -> list[JointRow]:
    """In this form the flag is 0 both for hidden and for missing joints; a missing one lies at 0, 0."""
    joints = sequence(value, "joint_self")
    if len(joints) != NUM_JOINTS:
        raise Refusal("wrong-length", f"joint_self must have {NUM_JOINTS} entries, not {len(joints)}.")
    rows: list[JointRow] = []
    for index, joint in enumerate(joints):
        x, y, visible = numbers(joint, 3, f"joint_self[{index}]")
        if visible not in (0, 1):
            raise Refusal("flag-out-of-range", f"joint_self[{index}] has flag {visible:g}; 0 and 1 exist.")
        rows.append((x, y, 0 if x == 0 and y == 0 else 1 + int(visible)))
    return rows


# --- the official .mat --------------------------------------------------------------------------------------------


@contextmanager
def _mat_rows(source: Source) -> Iterator[_Rows]:
    variables = read_mat(read_bytes(source, source.annotations), source.annotations)
    with damage_in_a_sentence(source.annotations):
        yield _release_rows(source, variables)


def _release_rows(source: Source, variables: dict[str, MatValue]) -> _Rows:
    release = _first_struct(variables.get("RELEASE"))
    images = _structs(release.get("annolist"))
    flags = np.ravel(release.get("img_train", ()))
    if not images or len(flags) != len(images):
        raise DatasetError(
            f"{source.dataset} {source.split}: {source.annotations} has no RELEASE with an annolist and an equally "
            "long img_train; it is not the official MPII file."
        )
    wanted_flag = 1 if source.options.get("train", True) else 0
    only, without = _image_names(source, "only_images"), _image_names(source, "without_images")
    separated = release.get("single_person")

    def image_of(index: int) -> str | None:
        image = images.value(index, "image") if isinstance(images, StoredStructs) else images[index].get("image")
        return _named(_first_struct(image), "name")

    def read(index: int) -> Iterator[_Row]:
        where = f"{source.annotations} annolist({index + 1})"
        name = image_of(index)
        if flags[index] != wanted_flag:
            return
        if not name:
            yield Refusal("not-a-text", "the image has no name.").reject(source, where)
            return
        if (only is not None and name not in only) or (without is not None and name in without):
            return
        yield _EmptyImage(image=name)
        alone = np.ravel(separated[index]).tolist() if isinstance(separated, list) and index < len(separated) else []
        for person_index, rect in enumerate(_structs(images[index].get("annorect")), start=1):
            instance_id = f"{index + 1}_{person_index}"
            try:
                yield _mat_person(rect, name, instance_id, where, alone=person_index in alone)
            except Refusal as refusal:
                yield refusal.reject(source, f"{where} annorect({person_index})", _stem(name), instance_id)

    return _Rows(len(images), image_of, read)


def _mat_person(rect: dict[str, MatValue], image: str, instance_id: str, where: str, *, alone: bool) -> _Person:
    position = _first_struct(rect.get("objpos"))
    if not position or not isinstance(rect.get("scale"), float):
        raise Refusal("no-center", "the person has no objpos or no scale, so it cannot be cropped.")
    joints: list[JointRow] = [(0.0, 0.0, 0)] * NUM_JOINTS
    for point in _structs(_first_struct(rect.get("annopoints")).get("point")):
        joint = integer(point.get("id"), "a point's id")
        if not 0 <= joint < NUM_JOINTS:
            raise Refusal("flag-out-of-range", f"a point has id {joint}; 0 to {NUM_JOINTS - 1} exist.")
        joints[joint] = (number(point.get("x"), "x"), number(point.get("y"), "y"), _mat_flag(point.get("is_visible")))
    corners = [rect.get(name) for name in ("x1", "y1", "x2", "y2")]
    has_head = all(isinstance(corner, float) for corner in corners)
    return _Person(
        image=image,
        instance_id=instance_id,
        where=f"{where} annorect({instance_id.split('_')[1]})",
        center=(number(position.get("x"), "objpos.x"), number(position.get("y"), "objpos.y")),
        scale=number(rect["scale"], "scale"),
        joints=joints,
        head_xyxy=numbers(corners, 4, "head box") if has_head else None,
        extras={"sufficiently_separated": alone},
    )


def _mat_flag(value: MatValue) -> int:
    """A listed point is labelled; ``is_visible`` is a number, a text, empty or missing, and the last two mean seen."""
    if value is None or (isinstance(value, np.ndarray) and value.size == 0) or value == "":
        return 2
    if isinstance(value, (float, str)) and value in (0, 1, "0", "1"):
        return 1 + int(value)
    raise Refusal("flag-out-of-range", f"is_visible is {value!r}; 0 and 1 exist.")


def _structs(value: MatValue) -> Sequence[dict[str, MatValue]]:
    """The entries of a struct array; a missing or empty field has none."""
    if isinstance(value, StoredStructs):
        return value
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _first_struct(value: MatValue) -> dict[str, MatValue]:
    entries = _structs(value)
    return entries[0] if entries else {}


def _image_names(source: Source, option: str) -> frozenset[str] | None:
    name = source.options.get(option)
    if name is None:
        return None
    return frozenset(line.strip() for line in read_text(source, str(name)).splitlines() if line.strip())


# --- MPII-TRB -----------------------------------------------------------------------------------------------------


@contextmanager
def _trb_rows(source: Source) -> Iterator[_Rows]:
    with open_json(source, source.annotations, ("images", "annotations")) as content:
        entries = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(entries, list | StoredList):
            raise DatasetError(f"{source.dataset} {source.split}: {source.annotations} has no list of annotations.")
        images = content.get("images")
        if not isinstance(images, StoredList):
            images = sequence(images, f"{source.annotations}: images")
        places = {
            image["id"]: place
            for place, image in enumerate(images)
            if isinstance(image, dict) and isinstance(image.get("id"), int)
        }

        def image_of(row: Json) -> Json:
            """The image entry of a row."""
            place = places.get(integer(mapping(row, "an annotation").get("image_id"), "image_id"))
            if place is None:
                raise Refusal("unknown-image", f"image_id {row['image_id']} is not among the file's images.")
            return images[place]

        def name_of(index: int) -> str | None:
            try:
                return _named(image_of(entries[index]), "file_name")
            except Refusal:
                return None

        def read(index: int) -> Iterator[_Row]:
            where, instance_id, entry = f"{source.annotations} annotations[{index}]", "", entries[index]
            try:
                instance_id = str(mapping(entry, "an annotation").get("id", ""))
                yield _trb_person(entry, image_of(entry), instance_id, where, source.skeleton.num_keypoints)
            except Refusal as refusal:
                yield refusal.reject(source, where, instance_id=instance_id)

        yield _Rows(len(entries), name_of, read)


def _trb_person(row: Json, image: Json, instance_id: str, where: str, num_keypoints: int) -> _Person:
    scale = number(row.get("scale"), "scale")
    return _Person(
        image=text(image.get("file_name"), "file_name"),
        instance_id=instance_id,
        where=where,
        center=_pair(row.get("center"), "center"),
        scale=TRB_INVERSE_SCALE / scale if scale > 0 else scale,
        joints=_trb_joints(row.get("keypoints"), num_keypoints),
        image_size=(integer(image.get("height"), "height"), integer(image.get("width"), "width")),
        is_crowd=bool(row.get("iscrowd", 0)),
        extras={"trb_scale": scale},
    )


def _trb_joints(value: Json, num_keypoints: int) -> list[JointRow]:
    flat = numbers(value, 3 * num_keypoints, "keypoints")
    return [(flat[i], flat[i + 1], integer(flat[i + 2], "a flag")) for i in range(0, len(flat), 3)]


def _list_of_rows(source: Source, content: Json) -> Entries:
    if not isinstance(content, list | StoredList):
        raise DatasetError(
            f"{source.dataset} {source.split}: {source.annotations} must hold a list with a row a person."
        )
    return content


def _pair(value: Json, what: str) -> tuple[float, float]:
    x, y = numbers(value, 2, what)
    return x, y


_FORMS: dict[str, Callable[[Source], AbstractContextManager[_Rows]]] = {
    "hrnet": _hrnet_rows,
    "cpm": _cpm_rows,
    "mat": _mat_rows,
}
