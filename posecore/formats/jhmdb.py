"""JHMDB: short films of one person, with joints and a mask from a puppet model in MATLAB files, one per film."""

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from posecore.config import Config, parse_config
from posecore.errors import DatasetError
from posecore.formats.files import read_bytes, read_text, relative_path, source_file
from posecore.formats.matfile import MatValue, read_mat
from posecore.formats.reader import COMMON_OPTIONS, ReaderOfParts, Source
from posecore.formats.stated_files import frame_of
from posecore.formats.values import Refusal, area_of_box, box_around, keypoints_from_rows
from posecore.schema import BoxXywh, FloatArray, Instance, Record, Reject, Segmentation

_IMAGE_WIDTH, _IMAGE_HEIGHT = 320, 240
_JOINTS, _MASKS = "joint_positions.mat", "puppet_mask.mat"
_BOX_MARGIN = 0.1
_LIST = re.compile(r"(?P<action>.+)_test_split_?(?P<division>[123])\.txt")
_PARTS = {"1": "train", "2": "test"}


class JhmdbOptions(Config):
    """``reader_options``.

    Attributes:
        division: which of the three published divisions ``part`` is meant in.
        part: ``train`` or ``test`` of it; every film otherwise.
        lists: folder of the divisions' lists: ``splits``, or ``sub_splits`` of the films that show whole bodies.
        masks: folder of the puppets' masks, which give boxes and areas; "" where it was not fetched: boxes are then the
            extent of the joints and a margin.
    """

    division: Literal[1, 2, 3] = 1
    part: Literal["train", "test"] | None = None
    lists: str = "splits"
    masks: str = "puppet_mask"


class JhmdbReader(ReaderOfParts):
    """Reads ``joint_positions``: a folder per action, one per film in it; options are those of :class:`JhmdbOptions`.

    ``images`` is ``Rename_Images``, whose pictures are numbered from 1, or ``ReCompress_Videos``, whose films lie in a
    folder per action. Joints count pixels from 1. Nothing says what is hidden: a joint inside the picture counts as
    seen, one outside as labelled but not visible. Of ``pos_world`` (the same places, in shares) and ``scale`` nothing
    is kept, of ``viewpoint`` the text.
    """

    options: ClassVar[frozenset[str]] = frozenset(JhmdbOptions.model_fields)

    def parts(self, source: Source) -> list[str]:
        """``action/film``, sorted: those listed for the part, or all that there are."""
        options = _options(source)
        top = source_file(source, source.annotations)
        films = sorted(path.parent.relative_to(top).as_posix() for path in top.glob(f"*/*/{_JOINTS}"))
        if options.part is not None:
            listed = _listed(source, options)
            films = [film for film in films if film in listed]
        if not films:
            raise DatasetError(f"{source.dataset} {source.split}: {top} holds no <action>/<film>/{_JOINTS} of it.")
        return films

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """The frames of one film."""
        options = _options(source)
        where = relative_path(source.annotations, part, _JOINTS)
        joints, viewpoint = _joints(source, where)
        masks = _masks(source, options, part)
        action = part.split("/")[0]
        film = relative_path(source.images, f"{part}.avi")
        is_film = (source.root / film).exists()
        for frame in range(joints.shape[2]):
            source_id = f"{part}/{frame + 1}"
            record = Record(
                dataset=source.dataset,
                split=source.split,
                source_id=source_id,
                image=frame_of(film, frame) if is_film else relative_path(source.images, part, f"{frame + 1:05d}.png"),
                width=_IMAGE_WIDTH if masks is None else masks.shape[1],
                height=_IMAGE_HEIGHT if masks is None else masks.shape[0],
                license=source.license,
                video_id=part,
                frame_index=frame,
                extras={"action": action} | ({"viewpoint": viewpoint} if viewpoint else {}),
            )
            try:
                mask = None if masks is None else _mask(masks, frame)
                record.instances.append(_body(source, record, joints[:, :, frame], mask))
            except Refusal as refusal:
                yield refusal.reject(source, f"{where} frame {frame + 1}", source_id, source_id)
            yield record


def _options(source: Source) -> JhmdbOptions:
    given = {name: value for name, value in source.options.items() if name not in COMMON_OPTIONS}
    return parse_config(given, JhmdbOptions, origin=f"{source.dataset} {source.split}: reader_options")


def _listed(source: Source, options: JhmdbOptions) -> set[str]:
    """``action/film`` of the films of a part."""
    found = set()
    for path in sorted(source_file(source, options.lists).glob("*.txt")):
        name = _LIST.fullmatch(path.name)
        if name is None or int(name["division"]) != options.division:
            continue
        for number, line in enumerate(read_text(source, relative_path(options.lists, path.name)).splitlines(), 1):
            if not line.strip():
                continue
            film, _, mark = line.strip().rpartition(" ")
            if not film.strip().endswith(".avi") or mark not in ("0", "1", "2"):
                raise DatasetError(
                    f"{source.dataset} {source.split}: {options.lists}/{path.name} line {number} is {line[:60]!r}, "
                    "not a film and 0, 1 or 2."
                )
            if _PARTS.get(mark) == options.part:
                found.add(f"{name['action']}/{film.strip().removesuffix('.avi')}")
    if not found:
        raise DatasetError(
            f"{source.dataset} {source.split}: {options.lists} lists no film of the {options.part} part of division "
            f"{options.division} in files <action>_test_split{options.division}.txt."
        )
    return found


def _joints(source: Source, where: str) -> tuple[NDArray[np.float64], str]:
    """(2, K, T) x, y in pixels counted from 1, and from where the person is seen."""
    values = read_mat(read_bytes(source, where), where)
    places: MatValue = values.get("pos_img")
    if isinstance(places, np.ndarray) and places.ndim == 2:  # MATLAB has no third axis of one frame
        places = places[:, :, None]
    count = source.skeleton.num_keypoints
    if not isinstance(places, np.ndarray) or places.ndim != 3 or places.shape[:2] != (2, count):
        raise DatasetError(f"{source.dataset} {source.split}: {where} must hold pos_img of shape 2 x {count} x frames.")
    viewpoint = values.get("viewpoint")
    return places.astype(np.float64), viewpoint if isinstance(viewpoint, str) else ""


def _masks(source: Source, options: JhmdbOptions, part: str) -> NDArray[np.uint8] | None:
    """(height, width, T) of the person's pixels; None where masks are not asked for."""
    if not options.masks:
        return None
    where = relative_path(options.masks, part, _MASKS)
    masks = read_mat(read_bytes(source, where), where).get("part_mask")
    if isinstance(masks, np.ndarray) and masks.ndim == 2:
        masks = masks[:, :, None]
    if not isinstance(masks, np.ndarray) or masks.ndim != 3:
        raise DatasetError(f"{source.dataset} {source.split}: {where} must hold part_mask, height x width x frames.")
    return np.asarray(masks > 0, np.uint8)


def _mask(masks: NDArray[np.uint8], frame: int) -> dict[str, object]:
    if frame >= masks.shape[2] or not masks[:, :, frame].any():
        raise Refusal("missing-segment", f"{_MASKS} has no pixel of the person in this frame.")
    runs = coco_mask.encode(np.asfortranarray(masks[:, :, frame]))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def _body(source: Source, record: Record, places: NDArray[np.float64], mask: dict[str, object] | None) -> Instance:
    keypoints = _keypoints(places, record)
    bbox: BoxXywh
    segmentation: Segmentation | None = None
    if mask is None:
        bbox = box_around(keypoints, _BOX_MARGIN)
    else:
        x, y, width, height = map(float, coco_mask.toBbox(mask))
        bbox, segmentation = (x, y, width, height), mask
    by_mask = source.area_rule == "segment" and mask is not None
    return Instance(
        id=record.source_id,
        bbox_xywh=bbox,
        keypoints=keypoints,
        area=float(coco_mask.area(mask)) if by_mask else area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        segmentation=segmentation,
        track_id=record.video_id,
    )


def _keypoints(places: NDArray[np.float64], record: Record) -> FloatArray:
    x, y = places - 1
    inside = (x >= -0.5) & (y >= -0.5) & (x < record.width - 0.5) & (y < record.height - 0.5)
    return keypoints_from_rows(list(zip(x.tolist(), y.tolist(), np.where(inside, 2, 1).tolist(), strict=True)))
