"""VGG Image Annotator, version 2: a JSON of the project, or of its annotations alone.

A region is a shape with attributes that the user has named. One attribute says which point a region is, another, if
there is one, whose body. VIA knows neither sizes nor hidden points, unless an attribute says so.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.files import read_json
from posecore.formats.named_points import (
    NamedBody,
    NamedPointsOptions,
    NamedPointsReader,
    Point,
    add_bodies,
    prefix_of,
    reader_options,
)
from posecore.formats.reader import Source
from posecore.formats.stated_files import StatedFiles
from posecore.formats.values import Refusal, mapping, number, sequence, text
from posecore.schema import BoxXywh, Json, Record, Reject

POINT_ATTRIBUTES = ("keypoint", "keypoints", "point", "name", "label", "part", "bodypart", "joint", "landmark")
BODY_ATTRIBUTES = ("body", "person", "animal", "individual", "instance", "instance_id", "subject", "id", "track")


class ViaOptions(NamedPointsOptions):
    """``reader_options`` of VIA.

    Attributes:
        point_attribute: attribute of a region that names the point; guessed from its usual names unless stated.
        body_attribute: attribute of a region that says whose it is; where there is none, a picture has one body.
        hidden_attribute: attribute of a region that says the point is hidden, by one of ``hidden_values``.
        hidden_values: what it says then.
    """

    point_attribute: str = ""
    body_attribute: str = ""
    hidden_attribute: str = "visibility"
    hidden_values: tuple[str, ...] = Field(default=("occluded", "hidden", "1"))


class ViaReader(NamedPointsReader):
    """Reads VIA 2; options are those of :class:`ViaOptions`."""

    Options = ViaOptions
    suffixes = (".json",)
    kind: ClassVar[str] = "a file of VIA"

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per picture."""
        options = reader_options(source, ViaOptions)
        pictures = via_pictures(source, part)
        attributes = via_attributes(pictures, options)
        files = StatedFiles(source, part)
        prefix = prefix_of(source, part)
        others: Counter[str] = Counter()
        for key, picture in pictures.items():
            where = f"{part} {key}"
            try:
                found = mapping(picture, "a picture")
                record = Record(
                    dataset=source.dataset,
                    split=source.split,
                    source_id=f"{prefix}{key}",
                    image=files.find(text(found.get("filename"), "filename")),
                    width=0,
                    height=0,
                    license=source.license,
                )
                bodies = _bodies(options, attributes, _regions(found), record.source_id, others)
            except Refusal as refusal:
                yield refusal.reject(source, where)
                continue
            yield from add_bodies(source, options, record, bodies, where)
            yield record
        for name, count in sorted(others.items()):
            other = Refusal(
                "other-annotation", f"{counted(count, 'region')} of the shape {name}: neither point nor box."
            )
            yield other.reject(source, part, outcome="skipped")


def via_pictures(source: Source, part: str) -> Mapping[str, Json]:
    """Pictures by their keys.

    Raises:
        DatasetError: the file is not VIA's.
    """
    document = read_json(source, part)
    found = document.get("_via_img_metadata", document) if isinstance(document, dict) else None
    if not isinstance(found, dict) or not all(isinstance(one, dict) and "regions" in one for one in found.values()):
        raise DatasetError(
            f"{source.dataset} {source.split}: {part} is neither a project of VIA 2 nor its annotations as JSON."
        )
    return found


def via_attributes(pictures: Mapping[str, Json], options: ViaOptions) -> tuple[str, str]:
    """Which attributes name the point and the body; "" for none.

    Raises:
        DatasetError: none names the point.
    """
    there: dict[str, None] = {}
    for picture in pictures.values():
        for region in _regions(picture):
            there.update(dict.fromkeys(mapping(region.get("region_attributes") or {}, "region_attributes")))
    point, body = (
        stated or next((name for usual in names for name in there if name.lower() == usual), "")
        for stated, names in ((options.point_attribute, POINT_ATTRIBUTES), (options.body_attribute, BODY_ATTRIBUTES))
    )
    if not point and len(there) == 1:
        point = next(iter(there))
    if not point:
        raise DatasetError(
            f"no region attribute of VIA's file is known to name a point; it has {', '.join(there) or 'none'}. Say "
            "which under the reader option point_attribute."
        )
    return point, body if body != point else ""


def via_names(pictures: Mapping[str, Json], point_attribute: str) -> list[str]:
    """Names of points in the order in which they come."""
    names: dict[str, None] = {}
    for picture in pictures.values():
        for region in _regions(picture):
            if _shape(region).get("name") == "point":
                name = mapping(region.get("region_attributes") or {}, "region_attributes").get(point_attribute)
                names.update({str(name): None} if name else {})
    return list(names)


def _regions(picture: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    regions = picture.get("regions") or ()
    found = regions.values() if isinstance(regions, dict) else sequence(regions, "regions")  # VIA 1 numbers them
    return [mapping(one, "a region") for one in found]


def _shape(region: Mapping[str, Json]) -> Mapping[str, Json]:
    return mapping(region.get("shape_attributes") or {}, "shape_attributes")


def _bodies(
    options: ViaOptions,
    names: tuple[str, str],
    regions: Sequence[Mapping[str, Json]],
    source_id: str,
    others: Counter[str],
) -> list[NamedBody]:
    points: dict[str, dict[str, Point]] = defaultdict(dict)
    boxes: dict[str, BoxXywh] = {}
    for region in regions:
        shape = _shape(region)
        attributes = mapping(region.get("region_attributes") or {}, "region_attributes")
        whose = str(attributes.get(names[1], "")) if names[1] else ""
        if shape.get("name") == "point":
            name = text(attributes.get(names[0]), f"the attribute {names[0]}")
            if name in points[whose]:
                raise Refusal("duplicate-id", f"two points of one body are called {name}.")
            hidden = str(attributes.get(options.hidden_attribute, "")).lower() in options.hidden_values
            points[whose][name] = (number(shape.get("cx"), "cx"), number(shape.get("cy"), "cy"), 1 if hidden else 2)
        elif shape.get("name") == "rect":
            sides = [number(shape.get(name), name) for name in ("x", "y", "width", "height")]
            boxes[whose] = sides[0], sides[1], sides[2], sides[3]
        else:
            others[str(shape.get("name"))] += 1
    return [
        NamedBody(
            id=f"{source_id}/{whose or number}",
            points={name: point for name, point in found.items() if name not in options.skip_points},
            bbox_xywh=boxes.get(whose),
            track=whose or None,
        )
        for number, (whose, found) in enumerate(points.items())
    ]
