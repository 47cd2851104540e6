"""Pictures in WebDataset tars, with what is known of them as JSON, such as the shards that this project writes."""

import tarfile
from collections.abc import Iterator, Mapping
from typing import cast, get_args

import numpy as np
import orjson
from webdataset.tariterators import group_by_keys

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.files import relative_path, source_file
from posecore.formats.reader import ReaderOfParts, Source
from posecore.formats.segmentations import check_segmentation
from posecore.formats.values import (
    Refusal,
    boolean,
    box_xywh,
    integer,
    keypoints_from_rows,
    mapping,
    number,
    numbers,
    sequence,
    text,
)
from posecore.schema import AreaRule, BoxXyxy, DepthImage, Instance, Json, Record, Reject, Segmentation
from posecore.storage import AnyPath
from posecore.tar_members import TarMember, member_address, members

PICTURES, DEPTH = ("jpg", "jpeg", "png"), "depth.png"
MOST_JSON_BYTES = 64 << 20
_LABELS = "labels"


class WebDatasetReader(ReaderOfParts):
    """Every sample of the tars that the split's ``annotations`` name: a tar, or a folder with tars at any depth.

    A sample is what webdataset takes for one: neighbours in the tar whose names are equal up to the first dot. Its
    picture ends in ``.jpg``, ``.jpeg`` or ``.png``, its ``.json`` is a record as shards have it
    (docs/shard_format.md), with the points of the definition's skeleton in its order. Masks and whatever else it holds
    are not looked at: they are made anew. With the reader option ``labels: none`` its JSON is not read either, and no
    body is known.
    """

    options = frozenset({_LABELS})

    def parts(self, source: Source) -> list[str]:
        """Every tar, by its path below ``annotations``, in order; "" where they are one tar.

        Raises:
            DatasetError: there is none, or the option is another than ``record`` or ``none``.
        """
        _labels(source)
        top = source_file(source, source.annotations)
        if top.is_file():
            return [""]
        found = sorted(path.relative_to(top).as_posix() for path in top.rglob("*.tar") if not path.is_dir())
        if not found:
            raise DatasetError(
                f"{source.dataset} {source.split}: no file below {top} ends in .tar; name the folder of the tars, or "
                "one tar, as `annotations` of the split."
            )
        return found

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """Yields one record per sample of a tar, in its order."""
        archive = relative_path(source.annotations, part)
        try:
            yield from self._read(source, archive, source_file(source, archive))
        except (OSError, tarfile.TarError, ValueError) as error:  # the last is webdataset's, of a name that comes twice
            raise DatasetError(
                f"{source.dataset} {source.split}: {archive} is no whole tar of samples ({error}); get it again."
            ) from None

    def _read(self, source: Source, archive: str, path: AnyPath) -> Iterator[Record | Reject]:
        listed = (
            {
                "fname": found.name,
                "data": TarMember(path, found.name, found.offset_data, found.size),
                "__url__": archive,
            }
            for found in members(path)
        )
        for sample in group_by_keys(listed):
            key = sample["__key__"]
            where = f"{archive} {key}"
            pictures = [name for name in PICTURES if name in sample]
            try:
                if len(pictures) != 1:
                    said = " and ".join(pictures) or ", ".join(name for name in sample if not name.startswith("__"))
                    raise Refusal("no-picture", f"{where} has {said}; a sample has one of {', '.join(PICTURES)}.")
                picture: TarMember = sample[pictures[0]]
                address = member_address(archive, picture.name, picture.offset, picture.size)
                known = _known(sample.get("json"), where) if _labels(source) == "record" else {}
                record = _record(source, known, key, address, _depth(known, sample.get(DEPTH), archive, where))
            except Refusal as refusal:
                yield refusal.reject(source, where, key)
                continue
            size = record.height, record.width
            for place, body in enumerate(sequence(known.get("instances", ()), f"{where}: instances")):
                try:
                    record.instances.append(_instance(source, body, f"{where} instances[{place}]", size))
                except Refusal as refusal:
                    yield refusal.reject(source, f"{where} instances[{place}]", record.source_id, str(place))
            yield record


def _labels(source: Source) -> str:
    labels = source.options.get(_LABELS, "record")
    if labels not in ("record", "none"):
        raise DatasetError(
            f"{source.dataset} {source.split}: reader option {_LABELS} is {labels!r}; record reads the JSON of samples "
            "as shards have it, none reads pictures only."
        )
    return str(labels)


def _known(member: TarMember | None, where: str) -> Mapping[str, Json]:
    """The content of a sample's JSON."""
    if member is None:
        raise Refusal(
            "missing-field", f"{where} has no .json; the reader option `{_LABELS}: none` reads pictures only."
        )
    try:
        known = mapping(orjson.loads(member.read(MOST_JSON_BYTES)), where)
    except (OSError, orjson.JSONDecodeError) as error:
        raise Refusal("unreadable-file", f"{where}.json cannot be read ({error}).") from None
    if "instances" not in known:
        raise Refusal("unreadable-file", f"{where}.json is no record of a shard: it has no instances.")
    sequence(known["instances"], f"{where}: instances")
    return known


def _record(source: Source, known: Mapping[str, Json], key: str, address: str, depth: DepthImage | None) -> Record:
    def optional(name: str) -> str | None:
        return None if known.get(name) is None else text(known[name], name)

    frame = known.get("frame_index")
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=optional("source_id") or key,
        image=address,
        width=integer(known.get("width", 0), "width"),
        height=integer(known.get("height", 0), "height"),
        license=optional("license") or source.license,
        video_id=optional("video_id"),
        view_id=optional("view_id"),
        frame_index=None if frame is None else integer(frame, "frame_index"),
        source_digest=optional("source_digest"),
        depth=depth,
        extras=dict(mapping(known.get("extras", {}), "extras")),
    )


def _depth(known: Mapping[str, Json], member: TarMember | None, archive: str, where: str) -> DepthImage | None:
    told = known.get("depth")
    if told is None:
        return None
    if member is None:
        raise Refusal("missing-field", f"{where}.json speaks of a depth picture, and the sample has no {DEPTH}.")
    metres = number(mapping(told, f"{where}: depth").get("metres_per_unit"), f"{where}: metres_per_unit")
    return DepthImage(image=member_address(archive, member.name, member.offset, member.size), metres_per_unit=metres)


def _instance(source: Source, value: Json, where: str, size: tuple[int, int]) -> Instance:
    body = mapping(value, where)
    names = source.skeleton.names
    rows = sequence(body.get("keypoints"), f"{where}: keypoints")
    if len(rows) != len(names):
        raise Refusal(
            "keypoint-count", f"{where} has {counted(len(rows), 'point')}; {source.skeleton.name} has {len(names)}."
        )
    points = [numbers(row, 3, f"{where}: keypoints") for row in rows]
    track, subject = body.get("track_id"), body.get("subject_id")
    head, center, scale = (
        None if body.get(name) is None else numbers(body[name], count, f"{where}: {name}")
        for name, count in (("head_bbox_xyxy", 4), ("center", 2), ("scale", 2))
    )
    three_d = body.get("keypoints_3d")
    if three_d is not None:
        three_d = [numbers(row, 3, f"{where}: keypoints_3d") for row in sequence(three_d, f"{where}: keypoints_3d")]
    stated = body.get("num_keypoints")
    return Instance(
        id=text(body.get("id"), f"{where}: id"),
        bbox_xywh=box_xywh(*numbers(body.get("bbox_xywh"), 4, f"{where}: bbox_xywh")),
        keypoints=keypoints_from_rows([(x, y, int(flag)) for x, y, flag in points]),
        area=_area(body.get("area"), where),
        area_rule=_area_rule(body.get("area_rule"), where),
        category=text(body.get("category", "person"), f"{where}: category"),
        category_id=integer(body.get("category_id", 1), f"{where}: category_id"),
        is_crowd=boolean(body.get("is_crowd", False), f"{where}: is_crowd"),
        absent=_absent(body.get("absent", ()), len(names), where),
        num_keypoints=None if stated is None else integer(stated, f"{where}: num_keypoints"),
        segmentation=_segmentation(body.get("segmentation"), size),
        keypoints_3d=None if three_d is None else np.array(three_d, np.float32),
        subject_id=None if subject is None else text(subject, f"{where}: subject_id"),
        track_id=None if track is None else text(track, f"{where}: track_id"),
        extras=dict(mapping(body.get("extras", {}), f"{where}: extras")),
        head_bbox_xyxy=cast(BoxXyxy | None, head),
        center=cast(tuple[float, float] | None, center),
        scale=cast(tuple[float, float] | None, scale),
    )


def _segmentation(value: Json, size: tuple[int, int]) -> Segmentation | None:
    if value is not None:
        check_segmentation(value, *size)
    return value


def _area(value: Json, where: str) -> float:
    area = number(value, f"{where}: area")
    if not area > 0:
        raise Refusal("bad-area", f"{where}: the area is {area:g} px²; it must be positive.")
    return area


def _area_rule(value: Json, where: str) -> AreaRule:
    if value not in get_args(AreaRule):
        raise Refusal("bad-area", f"{where}: area_rule is {value!r:.60}; there are {', '.join(get_args(AreaRule))}.")
    return cast(AreaRule, value)


def _absent(value: Json, num_keypoints: int, where: str) -> tuple[int, ...]:
    absent = tuple(integer(place, f"{where}: absent") for place in sequence(value, f"{where}: absent"))
    if any(not 0 <= place < num_keypoints for place in absent):
        raise Refusal("absent-out-of-range", f"{where}: absent names a point beyond the {num_keypoints} there are.")
    return absent
