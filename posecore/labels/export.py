"""An ingested split, or what a model predicted, as files of a labelling tool with the pictures beside them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np
import orjson

from posecore.errors import DatasetError
from posecore.formats.named_points import PREDICTED, RADII, SCORES
from posecore.formats.writing.coco import CocoWriter
from posecore.formats.writing.cvat import CvatWriter
from posecore.formats.writing.label_studio import LabelStudioWriter
from posecore.formats.writing.sleap import SleapWriter
from posecore.formats.writing.writer import LabelledPicture, LabelWriter
from posecore.formats.writing.yolo_pose import YoloPoseWriter
from posecore.image_header import MAX_PIXELS, image_size
from posecore.schema import Instance, Json, Record, Reject
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.videos import VideoFrames
from posecore.storage import read_at_most, write_atomically
from posecore.videos.address import frame_address, parse_frame_address

WRITERS: Mapping[str, type[LabelWriter]] = {
    "coco": CocoWriter,
    "yolo": YoloPoseWriter,
    "sleap": SleapWriter,
    "label-studio": LabelStudioWriter,
    "cvat": CvatWriter,
}
IMAGES_NAME = "images.json"
"""What a folder of predictions is known by."""
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        files: that a person opens.
        num_pictures: written.
        num_bodies: in them, before anything was lost.
        lost: what the format cannot hold, with how often.
        missing: pictures that cannot be had, with the reason.
    """

    files: tuple[Path, ...]
    num_pictures: int
    num_bodies: int
    lost: Mapping[str, int]
    missing: tuple[str, ...]


def export(
    pictures: Iterable[tuple[Record, bytes | str]], skeleton: Skeleton, split: str, kind: str, folder: Path
) -> Exported:
    """Writes pictures and their labels.

    Args:
        pictures: records in the skeleton's points, each with the bytes of its picture, or why there are none.
        skeleton: of all bodies.
        split: what the part is called.
        kind: one of :data:`WRITERS`.
        folder: to write into.

    Raises:
        DatasetError: the split was exported there before, or there is no picture.
    """
    if (folder / "images" / split).exists():
        raise DatasetError(f"{folder / 'images' / split} exists; export into another folder, or take it away.")
    folder.mkdir(parents=True, exist_ok=True)
    writer = WRITERS[kind](folder, split, skeleton)
    used: set[str] = set()
    missing = []
    num_bodies = 0
    for record, data in pictures:
        if isinstance(data, str):
            missing.append(data)
            continue
        size = image_size(data)
        name = _free_name(record, size.format, used)
        path = writer.picture_path(name)
        write_atomically(folder / path, data)
        bodies = tuple(record.instances)
        num_bodies += len(bodies)
        writer.add(LabelledPicture(id=record.source_id, path=path, width=size.width, height=size.height, bodies=bodies))
    if not used:
        raise DatasetError(f"there is no picture to export{': ' + missing[0] if missing else ''}.")
    files = writer.close()
    return Exported(tuple(files), len(used), num_bodies, Counter(writer.lost), tuple(missing))


def pictures_of_store(store: ShardStore, rows: Iterable[int] | None = None) -> Iterator[tuple[Record, bytes | str]]:
    """The pictures of an ingested split, all or some, as they are stored."""
    for row in range(store.num_images) if rows is None else rows:
        sample = store.read_sample(row)
        yield sample.record, bytes(sample.image_bytes)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What ``posecore predict`` has written of one head."""

    records: tuple[Record, ...]
    skeleton: Skeleton


def read_predictions(folder: Path, head: str = "", min_score: float = 0.0) -> Predicted:
    """Records of a folder that ``posecore predict`` has written.

    Args:
        folder: with ``images.json``.
        head: whose points; the first unless stated.
        min_score: points with a lower score are not labelled, and never those with a score of 0, which are none.

    Raises:
        DatasetError: it is no such folder, or has no such head.
    """
    if not (folder / IMAGES_NAME).is_file():
        absent = "does not exist" if not folder.exists() else f"has no {IMAGES_NAME}"
        raise DatasetError(
            f"{folder} {absent}; give the folder that `posecore predict --out` has written, or an ingested split."
        )
    try:
        document = orjson.loads(read_at_most(folder / IMAGES_NAME, _MAX_BYTES))
        categories: dict[str, Json] = document["categories"]
        wanted = head or next(iter(categories))
        if wanted not in categories:
            raise DatasetError(f"{folder} has no head {wanted!r}; it has {', '.join(categories)}.")
        skeleton = _skeleton(categories[wanted][0])
        results = orjson.loads(read_at_most(folder / f"coco_{quote(wanted, safe='')}.json", _MAX_BYTES))
    except (KeyError, TypeError, orjson.JSONDecodeError, StopIteration) as error:
        raise DatasetError(f"{folder} is not what `posecore predict --out` has written ({error}).") from None
    records = {image["id"]: _record(image) for image in document["images"]}
    for number, result in enumerate(results):
        record = records[result["image_id"]]
        record.instances.append(_body(result, number, skeleton, min_score))
    return Predicted(tuple(records.values()), skeleton)


def pictures_of_files(records: Iterable[Record], root: Path) -> Iterator[tuple[Record, bytes | str]]:
    """The pictures of records, from files or films below a folder."""
    stage = VideoFrames(format="png")
    for record in records:
        address = parse_frame_address(record.image)
        name = record.image if address is None else address.video
        place = next((one for one in (root / name, root / PurePosixPath(name).name) if one.is_file()), None)
        if place is None:
            yield record, f"{name} is not below {root}"
            continue
        if address is None:
            yield record, read_at_most(place, _MAX_BYTES)
            continue
        moved = replace(record, image=record.image.replace(name, place.name, 1))
        (found,) = stage(place.parent, [moved], MAX_PIXELS)
        yield record, found.detail if isinstance(found, Reject) else found.data


def _free_name(record: Record, kind: str, used: set[str]) -> str:
    """A file name that nobody has yet: that of the picture, else its path, else with a number."""
    path = PurePosixPath(record.image)
    suffix = {"jpeg": (".jpg", ".jpeg"), "png": (".png",)}[kind]
    for stem in (path.stem if "#" not in path.name else path.name, record.image.rpartition(".")[0], record.image):
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "picture"
        ending = path.suffix if path.suffix.lower() in suffix else suffix[0]
        if (name := f"{plain}{ending}") not in used:
            used.add(name)
            return name
    name = f"{plain}_{len(used)}{suffix[0]}"
    used.add(name)
    return name


def _skeleton(category: Mapping[str, Json]) -> Skeleton:
    names = list(map(str, category["keypoints"]))
    return Skeleton.model_validate(
        {
            "name": category["name"],
            "keypoints": [{"name": name, "union": name} for name in names],
            "links": [(names[a - 1], names[b - 1]) for a, b in category.get("skeleton", ())],
        }
    )


def _record(image: Mapping[str, Json]) -> Record:
    name, index = str(image["file_name"]), image.get("frame_index")
    return Record(
        dataset="predicted",
        split="all",
        source_id=str(image["id"]),
        image=name if index is None else frame_address(name, frame=int(index)),
        width=int(image["width"]),
        height=int(image["height"]),
        frame_index=index,
        video_id=None if index is None else name,
    )


def _radii(result: Mapping[str, Json], skeleton: Skeleton) -> dict[str, float]:
    """Pixels within which each point is, infinite where there is none."""
    return {
        name: float("inf") if pixels is None else float(pixels)
        for name, pixels in zip(skeleton.names, result[RADII], strict=True)
    }


def _body(result: Mapping[str, Json], number: int, skeleton: Skeleton, min_score: float) -> Instance:
    rows = np.array(result["keypoints"], np.float64).reshape(-1, 3)
    scores = dict(zip(skeleton.names, rows[:, 2].round(4).tolist(), strict=True))
    points = rows.astype(np.float32)
    points[:, 2] = 2
    points[(rows[:, 2] < min_score) | (rows[:, 2] == 0)] = 0
    x, y, width, height = result["bbox"]
    track = result.get("track_id")
    return Instance(
        id=str(number),
        bbox_xywh=(x, y, width, height),
        keypoints=points,
        area=width * height,
        area_rule="box",
        category=skeleton.name,
        track_id=None if track is None else str(track),
        extras={PREDICTED: True, SCORES: scores, **({RADII: _radii(result, skeleton)} if RADII in result else {})},
    )
