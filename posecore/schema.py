"""What flows through the system: a record (one image with all its instances), its masks, and a batch of crops.

Frames and units: every coordinate is in 0-based pixels of the source image unless its name says otherwise
(``_crop``, ``_heatmap``); points are (x, y); sizes are (height, width); boxes carry their format in their name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Literal, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
Json: TypeAlias = Any
"""A value :mod:`json` can write: None, bool, int, float, str, list, dict with string keys."""


class KeypointState(IntEnum):
    """What a dataset says of one union keypoint of one instance; losses and metrics read this and nothing else."""

    UNKNOWN = 0
    """Not in this dataset's vocabulary: no statement at all, so no penalty and no score."""
    UNLABELLED = 1
    """In the vocabulary, but not labelled on this instance."""
    OCCLUDED = 2
    """Labelled at a place that cannot be seen."""
    VISIBLE = 3
    """Labelled and seen."""
    ABSENT = 4
    """Declared not to exist on this body (a missing limb)."""


AreaRule: TypeAlias = Literal["segment", "annotated", "box", "box_053", "box_plus_one"]
"""Where an instance's area comes from: the mask; the file's field; w·h; 0.53·w·h; w·h + 1."""

BoxXywh: TypeAlias = tuple[float, float, float, float]
BoxXyxy: TypeAlias = tuple[float, float, float, float]

Segmentation: TypeAlias = list[list[float]] | dict[str, Json]
"""Polygons as flat x, y lists, or a COCO RLE ``{"size": [h, w], "counts": str | list[int]}``, as in the source."""

NUMBERS_OF_A_POLYGON = 6
"""Fewer enclose nothing, and a list of exactly four would be taken for a box."""


@dataclass(slots=True, kw_only=True, eq=False)
class Instance:
    """One person or animal in one image, in its dataset's own terms.

    Attributes:
        id: the source's annotation id as text, unique within a dataset's split.
        bbox_xywh: box in image pixels; not clipped.
        keypoints: (K, 3) float32 in the dataset's own order: x, y, COCO flag 0 (not labelled), 1 (labelled,
            occluded), 2 (labelled, visible). Unlabelled points are 0, 0, 0.
        area: px², the OKS scale squared.
        area_rule: where ``area`` came from.
        category: species or class name as the dataset spells it.
        category_id: the dataset's number of it.
        is_crowd: a region of many, not one body; never trained on, ignored by evaluation.
        absent: native indices of points declared not to exist on this body.
        num_keypoints: the source's own count where an official protocol reads it, else None.
        segmentation: polygons or RLE as in the source, or None.
        head_bbox_xyxy: head box for PCKh, or None.
        center: (x, y) and ``scale`` (w, h) in pixels for datasets that give them instead of a box (MPII), or None.
        scale: see ``center``.
        keypoints_3d: (K, 3) float32 in the dataset's units and frame, or None.
        subject_id: who it is, so that splits can be made by subject, or None.
        track_id: the same body across frames of one video, or None.
        extras: further JSON values the dataset's protocol or users may need.
    """

    id: str
    bbox_xywh: BoxXywh
    keypoints: FloatArray
    area: float
    area_rule: AreaRule
    category: str = "person"
    category_id: int = 1
    is_crowd: bool = False
    absent: tuple[int, ...] = ()
    num_keypoints: int | None = None
    segmentation: Segmentation | None = None
    head_bbox_xyxy: BoxXyxy | None = None
    center: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    keypoints_3d: FloatArray | None = None
    subject_id: str | None = None
    track_id: str | None = None
    extras: dict[str, Json] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, frozen=True)
class DepthImage:
    """The depth picture that belongs to an image: the same camera, the same pixels.

    Attributes:
        image: path of a PNG of one channel of 16 bits, relative to the dataset's root; 0 means not known.
        metres_per_unit: what a pixel value of 1 stands for.
        size_bytes: of the file, set by ingestion; 0 before.
        xxh3: 64-bit XXH3 of its bytes as 16 hexadecimal digits, set by ingestion; empty before.
    """

    image: str
    metres_per_unit: float
    size_bytes: int = 0
    xxh3: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """One image and all its instances, before or after ingestion.

    Attributes:
        dataset: name of the dataset definition.
        split: name of the split.
        source_id: the source's image id as text, unique within dataset and split.
        image: path of the image file, relative to the dataset's root, with forward slashes.
        width: image width in pixels as the annotation states it; 0 if the source does not say.
        height: image height in pixels as the annotation states it; 0 if the source does not say.
        instances: every annotated body, crowds included.
        license: licence of this image: its name in the source, else the source's id, else the definition's id, or None.
        video_id: video the frame belongs to, or None.
        view_id: camera or view, or None.
        frame_index: position within the video, or None.
        digest: of the image bytes (:mod:`posecore.shards.digests`), set by ingestion; empty before.
        source_digest: that of the source file of an image that a stage has changed; None where it is the source.
        depth: the depth picture beside the image, or None.
        extras: further JSON values of the image (CrowdPose ``crowdIndex``, AP-10K ``background``, …).
    """

    dataset: str
    split: str
    source_id: str
    image: str
    width: int
    height: int
    instances: list[Instance] = field(default_factory=list)
    license: str | None = None
    video_id: str | None = None
    view_id: str | None = None
    frame_index: int | None = None
    digest: str = ""
    source_digest: str | None = None
    depth: DepthImage | None = None
    extras: dict[str, Json] = field(default_factory=dict)


Outcome: TypeAlias = Literal["lost", "kept", "skipped"]


@dataclass(slots=True, kw_only=True, frozen=True)
class Reject:
    """A record or instance that was not taken over as it stands: counted in the manifest by reason, kept in quarantine.

    Attributes:
        reason: short kebab-case code, the same for the same cause (``missing-image``, ``nan-keypoints``).
        detail: one sentence for a person: what is wrong and what was expected.
        dataset: name of the dataset definition.
        split: name of the split.
        source: file and position, such as ``annotations/x.json annotations[3]``.
        source_id: image id, if known.
        instance_id: annotation id, if one instance was rejected and not the whole image.
        outcome: ``lost``; ``kept`` if it was taken over without what was wrong with it, such as a body without its
            broken mask; ``skipped`` if it never was of this dataset, such as another category.
    """

    reason: str
    detail: str
    dataset: str
    split: str
    source: str
    source_id: str = ""
    instance_id: str = ""
    outcome: Outcome = "lost"


OPTIONAL_INSTANCE_FIELDS = (
    "num_keypoints",
    "segmentation",
    "head_bbox_xyxy",
    "center",
    "scale",
    "subject_id",
    "track_id",
)
"""Left out of an instance's JSON where they are None; those of a record are next."""
OPTIONAL_RECORD_FIELDS = ("license", "video_id", "view_id", "frame_index", "source_digest")
_FORMERLY = {"digest": "sha256", "source_digest": "source_sha256"}
"""Names in shards of format 3."""


def _instance_to_json(instance: Instance) -> dict[str, Json]:
    value: dict[str, Json] = {
        "id": instance.id,
        "bbox_xywh": [float(v) for v in instance.bbox_xywh],
        "area": float(instance.area),
        "area_rule": instance.area_rule,
        "category": instance.category,
        "category_id": instance.category_id,
        "keypoints": instance.keypoints,
    }
    if instance.is_crowd:
        value["is_crowd"] = True
    if instance.absent:
        value["absent"] = instance.absent
    if instance.keypoints_3d is not None:
        value["keypoints_3d"] = instance.keypoints_3d
    if instance.extras:
        value["extras"] = instance.extras
    for name in OPTIONAL_INSTANCE_FIELDS:
        item = getattr(instance, name)
        if item is not None:
            value[name] = item
    return value


def _instance_from_json(value: Mapping[str, Json]) -> Instance:
    optional = {name: value[name] for name in OPTIONAL_INSTANCE_FIELDS if name in value}
    for name in ("head_bbox_xyxy", "center", "scale"):
        if name in optional:
            optional[name] = tuple(optional[name])
    three_d = value.get("keypoints_3d")
    return Instance(
        id=value["id"],
        bbox_xywh=tuple(value["bbox_xywh"]),
        keypoints=np.asarray(value["keypoints"], np.float32).reshape(-1, 3),
        area=value["area"],
        area_rule=value["area_rule"],
        category=value["category"],
        category_id=value["category_id"],
        is_crowd=value.get("is_crowd", False),
        absent=tuple(value.get("absent", ())),
        keypoints_3d=None if three_d is None else np.asarray(three_d, np.float32),
        extras=value.get("extras", {}),
        **optional,
    )


def record_to_json(record: Record) -> bytes:
    """The record as JSON text, the content of a sample's ``.json`` member; fields that say nothing are left out."""
    value: dict[str, Json] = {
        "dataset": record.dataset,
        "split": record.split,
        "source_id": record.source_id,
        "image": record.image,
        "width": record.width,
        "height": record.height,
        "digest": record.digest,
        "instances": [_instance_to_json(instance) for instance in record.instances],
    }
    if record.depth is not None:
        value["depth"] = asdict(record.depth)
    if record.extras:
        value["extras"] = record.extras
    for name in OPTIONAL_RECORD_FIELDS:
        item = getattr(record, name)
        if item is not None:
            value[name] = item
    return json_text(value)


def json_text(value: Json) -> bytes:
    """A value as JSON text, arrays within it as lists.

    They are written as they lie in memory, a float32 with the fewest digits that name it: half the time of making lists
    of them first.
    """
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=np.ndarray.tolist, option=options)  # the default: arrays that are views


def record_from_json(text: bytes | memoryview) -> Record:
    """The inverse of :func:`record_to_json`, also as shards of format 3 have it."""
    value: dict[str, Json] = orjson.loads(text)
    if "digest" not in value:
        value |= {name: value[former] for name, former in _FORMERLY.items() if former in value}
    return Record(
        dataset=value["dataset"],
        split=value["split"],
        source_id=value["source_id"],
        image=value["image"],
        width=value["width"],
        height=value["height"],
        digest=value["digest"],
        instances=[_instance_from_json(item) for item in value["instances"]],
        depth=DepthImage(**value["depth"]) if "depth" in value else None,
        extras=value.get("extras", {}),
        **{name: value[name] for name in OPTIONAL_RECORD_FIELDS if name in value},
    )


@dataclass(slots=True, kw_only=True, eq=False)
class CropGroup:
    """The crops of one dataset within a micro-batch: rows ``start`` to ``stop`` of :attr:`CropBatch.images`.

    A dataset without crops in this micro-batch still has a group, with ``start == stop``: every rank must run every
    head in every step.

    Attributes:
        dataset: name of the mixture entry.
        start: first row.
        stop: one past the last row.
        keypoints_crop: (n, K, 2) float32, x, y in crop pixels, in the dataset's own order after any flip; of whole
            scenes (n, M, K, 2), those of M bodies, or of fewer and rows that say nothing.
        state: (n, K) uint8 :class:`KeypointState` per native point, after any flip and crop; likewise (n, M, K).
        center: (n, 2) float32, crop centre in source-image pixels.
        scale: (n, 2) float32, (w, h) of the cropped region in source-image pixels, padding included.
        rotation: (n,) float32, degrees, counter-clockwise positive in the published convention.
        flipped: (n,) bool.
        rows: (n,) int64, row of the dataset's ``index.parquet``: names the instance. Where whole images are cropped,
            row of ``images.parquet``.
        seeds: (n,) int64, a random word per crop, from seed, dataset, pass and row: a method that draws from it draws
            the same on any number of ranks.
        taught_outputs: (n, P, …) what a teacher's head says, where stored answers are read; None elsewhere.
        taught_features: (n, D, h, w) what its backbone says, likewise.
        ignored: of whole scenes, (n, H/2, W/2) uint8, 1 where there is a crowd or a body without labels; else None.
        bbox_crop: of whole scenes, (n, M, 4) float32, left, top, right, bottom of each body in crop pixels; right is
            less than left in rows that say nothing; else None.
    """

    dataset: str
    start: int
    stop: int
    keypoints_crop: FloatArray
    state: NDArray[np.uint8]
    center: FloatArray
    scale: FloatArray
    rotation: FloatArray
    flipped: NDArray[np.bool_]
    rows: NDArray[np.int64]
    seeds: NDArray[np.int64]
    taught_outputs: NDArray[np.floating] | None = None
    taught_features: NDArray[np.floating] | None = None
    ignored: NDArray[np.uint8] | None = None
    bbox_crop: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadSample:
    """A stored sample whose bytes are not what was written, in whose place another one was taken.

    Attributes:
        dataset: name of the mixture entry.
        row: as :attr:`CropGroup.rows`.
        reason: what is wrong with it, and what to do.
        allowed: so many of the dataset's may be damaged.
    """

    dataset: str
    row: int
    reason: str
    allowed: int


@dataclass(slots=True, kw_only=True, eq=False)
class CropBatch:
    """One rank's micro-batch.

    Attributes:
        images: (B, H, W, 3) uint8 RGB crops.
        groups: one per dataset of the mixture, in mixture order, covering all rows.
        step: global optimiser step the batch belongs to, 0-based.
        epoch: epoch of the mixture, 0-based.
        depth: (B, H, W) float32, distance from the camera in metres, 0 where it is not known: outside the image, where
            the sensor saw nothing, and all over the crops of images without depth. None where depth is not wanted.
        bad: samples that were due and are damaged; others are in their places.
    """

    images: NDArray[np.uint8]
    groups: tuple[CropGroup, ...]
    step: int
    epoch: int
    depth: FloatArray | None = None
    bad: tuple[BadSample, ...] = ()
