"""A small dataset on disk: a few encoded images with one or two boxes each, a definition and its records."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from posecore.datasets.definition import DatasetDefinition
from posecore.formats.reader import Source
from posecore.ingest.job import IngestJob, IngestSettings, ingest_job
from posecore.schema import Instance, Record, record_from_json, record_to_json
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.storage import AnyPath

SKELETON = Skeleton(
    name="arm", keypoints=tuple(Keypoint(name=name, union=f"test_{name}") for name in ("shoulder", "elbow", "hand"))
)
HEIGHT, WIDTH = 48, 64


def definition(**changes: object) -> DatasetDefinition:
    values = {
        "name": "tiny",
        "title": "Tiny",
        "reader": "tests.support.small_split:TinyReader",
        "skeleton": SKELETON,
        "license": {"id": "CC0-1.0"},
        "splits": {"train": {"annotations": "train.json"}, "val": {"annotations": "val.json"}},
        "max_loss": 0.0,
    }
    return DatasetDefinition.model_validate({**values, **changes})


def instance(name: str, **changes: object) -> Instance:
    values = {
        "id": name,
        "bbox_xywh": (4.0, 5.0, 20.0, 30.0),
        "keypoints": np.array([[5, 6, 2], [7, 8, 1], [0, 0, 0]], np.float32),
        "area": 600.0,
        "area_rule": "box",
    }
    return Instance(**{**values, **changes})


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))[1].tobytes()


class TinyReader:
    """Reads the records that :func:`write_annotations` wrote."""

    def read(self, source: Source) -> Iterator[Record]:
        for line in (source.root / source.annotations).read_bytes().splitlines():
            yield record_from_json(line)


def write_annotations(root: AnyPath, source: Iterable[Record], split: str = "train") -> None:
    """Writes records to where the split's reader finds them."""
    (root / f"{split}.json").write_bytes(b"\n".join(map(record_to_json, source)))


def records(root: AnyPath, number: int, split: str = "train") -> list[Record]:
    """Writes ``number`` pictures below ``root`` and their annotations, and returns a record of each.

    Odd ones have a polygon and a crowd.
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    made = []
    for index in range(number):
        name = f"images/{index}.jpg"
        (root / name).write_bytes(picture(index))
        people = [instance(f"{index}-a", subject_id=f"s{index // 2}")]
        if index % 2:
            polygon = [[4.0, 5.0, 24.0, 5.0, 24.0, 35.0, 4.0, 35.0]]
            people[0].segmentation = polygon
            crowd = instance(f"{index}-b", is_crowd=True, keypoints=np.zeros((3, 3), np.float32))
            people.append(crowd)
        made.append(
            Record(
                dataset="tiny",
                split=split,
                source_id=str(index),
                image=name,
                width=WIDTH,
                height=HEIGHT,
                instances=people,
                video_id="v" if index < 2 else None,
            )
        )
    write_annotations(root, made, split)
    return made


def job(root: AnyPath, out: AnyPath, images_per_shard: int = 4, split: str = "train", **changes: object) -> IngestJob:
    settings = IngestSettings(images_per_shard=images_per_shard)
    return ingest_job(definition(**changes), split, root, out, settings)


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
