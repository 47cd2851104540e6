"""Animal-Pose in its three forms: per-animal XML in two dialects, the official JSON, and mmpose's COCO-style JSON."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from typing import ClassVar

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.claims import Texts, together
from posecore.formats.coco import CocoReader, identifier
from posecore.formats.files import read_text, relative_path, source_file
from posecore.formats.json_lists import StoredList, open_json
from posecore.formats.reader import Source
from posecore.formats.values import (
    Refusal,
    area_of_box,
    box_from_corners,
    box_xywh,
    integer,
    keypoints_from_rows,
    mapping,
    number,
    numbers,
    sequence,
    text,
)
from posecore.schema import BoxXywh, FloatArray, Instance, Json, Record, Reject

OFFICIAL_ORDER = (
    "L_Eye", "R_Eye", "Nose", "L_EarBase", "R_EarBase",
    "L_F_Elbow", "R_F_Elbow", "L_B_Elbow", "R_B_Elbow",
    "L_F_Knee", "R_F_Knee", "L_B_Knee", "R_B_Knee",
    "L_F_Paw", "R_F_Paw", "L_B_Paw", "R_B_Paw",
    "Throat", "Withers", "TailBase",
)  # fmt: skip
"""Order of the official ``keypoints.json``; mmpose's, which the skeleton has, differs."""

_OTHER_NAMES = {"l_ear": "l_earbase", "r_ear": "r_earbase", "tail": "tailbase"}
SPECIES = {"cat": 1, "cow": 2, "dog": 3, "horse": 4, "sheep": 5}


class AnimalPoseReader:
    """Reads Animal-Pose; points are put into the skeleton's order by their names.

    Options:
        form: ``coco`` (default; mmpose's JSON, whose categories are all 1), ``official`` (``keypoints.json``: images
            are a mapping, boxes are corners) or ``xml`` (a folder of species folders).
    """

    options: ClassVar[frozenset[str]] = frozenset({"form"})

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        form = source.options.get("form", "coco")
        if form == "coco":
            return CocoReader().read(source)
        if form == "official":
            return _read_official(source)
        if form == "xml":
            return _read_xml(source)
        raise DatasetError(f"{source.dataset}: reader option form is {form!r}; it may be coco, official or xml.")


# --- official JSON ------------------------------------------------------------------------------------------------


def _read_official(source: Source) -> Iterator[Record | Reject]:
    with open_json(source, source.annotations, ("annotations",)) as document:
        yield from _official_records(document, source)


def _official_records(document: Json, source: Source) -> Iterator[Record | Reject]:
    if not isinstance(document, dict) or not isinstance(document.get("images"), dict):
        raise DatasetError(
            f"{source.dataset} {source.split}: {source.annotations} must hold images as a mapping of id to file name; "
            "for mmpose's files set the reader option form: coco."
        )
    indices = _indices(source, OFFICIAL_ORDER)
    names = {
        integer(category.get("id"), "a category's id"): text(category.get("name"), "a category's name")
        for item in sequence(document.get("categories", ()), f"{source.annotations}: categories")
        for category in [mapping(item, "a category")]
    }
    entries = document.get("annotations")
    if not isinstance(entries, StoredList):
        entries = sequence(entries, f"{source.annotations}: annotations")
    image_ids = Texts()
    for entry in entries:
        image_ids.append(_image_id(entry))
    for positions in together(image_ids.column()):
        record = None
        for index in positions:
            image_id = ""
            try:
                row = mapping(entries[index], "an annotation")
                image_id = identifier(row.get("image_id"), "image_id")
                if image_id not in document["images"]:
                    raise Refusal("missing-image-entry", f"image {image_id} is not among the file's images.")
                category_id = integer(row.get("category_id", 1), "category_id")
                bbox = box_from_corners(row.get("bbox"), "bbox")
                file_name = text(document["images"][image_id], "file name")
                path = relative_path(source.images, file_name)
                keypoints = _official_keypoints(row.get("keypoints"), indices)
                species = names.get(category_id, "animal")
                body = _instance(source, str(index), bbox, keypoints, species, category_id)
                record = record or _new_record(source, image_id, path)
                record.instances.append(body)
            except Refusal as refusal:
                yield refusal.reject(source, f"{source.annotations} annotations[{index}]", image_id, str(index))
        if record is not None:
            yield record


def _image_id(entry: Json) -> str | None:
    try:
        return identifier(mapping(entry, "an annotation").get("image_id"), "image_id")
    except Refusal:
        return None


def _official_keypoints(value: Json, indices: Mapping[str, int]) -> FloatArray:
    points = sequence(value, "keypoints")
    if len(points) != len(OFFICIAL_ORDER):
        raise Refusal(
            "wrong-length", f"keypoints must have {counted(len(OFFICIAL_ORDER), 'entry')}, not {len(points)}."
        )
    rows = [(0.0, 0.0, 0)] * len(indices)
    for name, point in zip(OFFICIAL_ORDER, points, strict=True):
        x, y, visible = numbers(point, 3, f"point {name}")
        rows[indices[name.lower()]] = (x, y, _flag(visible))
    return keypoints_from_rows(rows)


# --- XML ----------------------------------------------------------------------------------------------------------


def _read_xml(source: Source) -> Iterator[Record | Reject]:
    top = source_file(source, source.annotations)
    names = sorted(f"{path.parent.name}/{path.name}" for path in top.glob("*/*.xml"))
    if not names:
        raise DatasetError(f"{source.dataset} {source.split}: {source.annotations} holds no <species>/*.xml.")
    indices = _indices(source, OFFICIAL_ORDER)
    images = Texts()
    for name in names:
        images.append(_image_of(source, name))
    for positions in together(images.column()):
        record = None
        for name in (names[position] for position in positions):
            instance_id = name.removesuffix(".xml")
            try:
                root, species, bounds, image = _xml_file(source, name)
                image_id = image.rsplit("/", 1)[-1].rsplit(".", 1)[0]
                path = relative_path(source.images, image)
                keypoints, bbox = _xml_keypoints(root, indices), _xml_box(bounds)
                category_id = SPECIES.get(species, len(SPECIES) + 1)
                body = _instance(source, instance_id, bbox, keypoints, species, category_id)
                record = record or _new_record(source, image_id, path)
                record.instances.append(body)
            except Refusal as refusal:
                yield refusal.reject(source, relative_path(source.annotations, name), instance_id=instance_id)
        if record is not None:
            yield record


def _image_of(source: Source, name: str) -> str | None:
    try:
        return _xml_file(source, name)[-1]
    except Refusal:
        return None


def _xml_file(source: Source, name: str) -> tuple[ElementTree.Element, str, ElementTree.Element, str]:
    """Root, species, box and image of a file."""
    root = _parse_xml(read_text(source, relative_path(source.annotations, name)))
    species = text(_content(root, "category") or name.split("/")[0], "category")
    bounds = _child(root, "visible_bounds")
    return root, species, bounds, _xml_image(root, bounds, species)


def _parse_xml(content: str) -> ElementTree.Element:
    """The root element; a document type is refused, because entities are declared there."""
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise Refusal("bad-xml", "the file declares a document type, which this format does not need.")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise Refusal("bad-xml", f"not well-formed XML ({error}).") from None


def _xml_image(root: ElementTree.Element, bounds: ElementTree.Element, species: str) -> str:
    """The VOC part names images without extension, the other part by file below a folder of the species."""
    name = text(_content(root, "image"), "image")
    return f"{name}.jpg" if "ymin" in bounds.attrib else f"{species}/{name}"


def _xml_box(bounds: ElementTree.Element) -> BoxXywh:
    """In the second dialect the attribute that holds the top is misnamed ``xmax``."""
    top = "ymin" if "ymin" in bounds.attrib else "xmax"
    x, y, width, height = (_attribute(bounds, name) for name in ("xmin", top, "width", "height"))
    return box_xywh(x, y, width, height)


def _xml_keypoints(root: ElementTree.Element, indices: Mapping[str, int]) -> FloatArray:
    rows = [(0.0, 0.0, 0)] * len(indices)
    for point in _child(root, "keypoints").findall("keypoint"):
        name = point.get("name", "")
        key = _OTHER_NAMES.get(name.lower(), name.lower())
        if key not in indices:
            raise Refusal("unknown-keypoint", f"the point {name!r:.60} is not one of the skeleton.")
        flag = _flag(_attribute(point, "visible"))
        if flag:
            rows[indices[key]] = (_attribute(point, "x"), _attribute(point, "y"), flag)
    return keypoints_from_rows(rows)


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    child = element.find(name)
    if child is None:
        raise Refusal("missing-field", f"the file has no element {name}.")
    return child


def _content(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _attribute(element: ElementTree.Element, name: str) -> float:
    value = element.get(name)
    try:
        return number(float(value if value is not None else "missing"), name)
    except ValueError:
        raise Refusal("not-a-number", f"{element.tag} has {name}={value!r:.60}, which is not a number.") from None


# --- shared -------------------------------------------------------------------------------------------------------


def _flag(visible: float) -> int:
    """1 means annotated; the forms do not say what is hidden."""
    if visible not in (0, 1, 2):
        raise Refusal("flag-out-of-range", f"a point has visible={visible:g}; 0 and 1 exist.")
    return 2 if visible else 0


def _indices(source: Source, names: tuple[str, ...]) -> dict[str, int]:
    indices = {name.lower(): index for index, name in enumerate(source.skeleton.names)}
    if set(indices) != {name.lower() for name in names}:
        raise DatasetError(f"{source.dataset}: skeleton {source.skeleton.name} does not have Animal-Pose's 20 points.")
    return indices


def _new_record(source: Source, image_id: str, path: str) -> Record:
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=image_id,
        image=path,
        width=0,
        height=0,
        license=source.license,
    )


def _instance(
    source: Source, instance_id: str, bbox: BoxXywh, keypoints: FloatArray, species: str, category_id: int
) -> Instance:
    return Instance(
        id=instance_id,
        bbox_xywh=bbox,
        keypoints=keypoints,
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        category=species,
        category_id=category_id,
    )
