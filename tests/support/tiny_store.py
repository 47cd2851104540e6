"""Small ingested splits made of drawn images, for tests that read shards."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from posecore.conventions import LabelConventions
from posecore.datasets.definition import DatasetDefinition
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.schema import Instance, Record
from posecore.shards.store import ShardStore, open_store
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Skeleton


def definition(
    name: str, skeleton: str | Skeleton = "coco17", conventions: LabelConventions | None = None
) -> DatasetDefinition:
    """A definition with one split, ``train``, that loses nothing it should not."""
    return DatasetDefinition.model_validate(
        {
            "name": name,
            "title": name,
            "reader": "posecore.formats.coco:CocoReader",
            "skeleton": load_skeleton(skeleton) if isinstance(skeleton, str) else skeleton,
            "license": {"id": "CC0-1.0"},
            "splits": {"train": {"annotations": "none.json"}},
            "conventions": conventions or LabelConventions(),
        }
    )


def instance(name: str, num_keypoints: int, bbox_xywh: Sequence[float], **fields: object) -> Instance:
    """An instance whose points lie on a grid within its box, alternately visible and occluded."""
    x, y, w, h = bbox_xywh
    share = (np.arange(num_keypoints) + 1) / (num_keypoints + 1)
    flags = np.where(np.arange(num_keypoints) % 2, 1, 2)
    keypoints = np.stack([x + w * share, y + h * (share * 7 % 1), flags], axis=1).astype(np.float32)
    values = {"keypoints": keypoints, "area": w * h, "area_rule": "box"} | fields
    return Instance(id=name, bbox_xywh=(x, y, w, h), **values)


def write_store(
    folder: Path,
    name: str,
    instances_per_image: Sequence[int],
    *,
    skeleton: str | Skeleton = "coco17",
    conventions: LabelConventions | None = None,
    records: Sequence[Record] | None = None,
    images_per_shard: int = 7,
) -> ShardStore:
    """Ingests drawn images of 120x160 pixels with the given numbers of instances, or given records of such images."""
    made = definition(name, skeleton, conventions)
    if records is None:
        count = made.skeleton.num_keypoints
        records = [
            record(
                name,
                row,
                [instance(f"{row}-{i}", count, (5.0 + 9 * i, 8.0 + 3 * i, 60.0, 80.0)) for i in range(number)],
            )
            for row, number in enumerate(instances_per_image)
        ]
    root = folder / "raw"
    for row, item in enumerate(records):
        path = root / item.image
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            image = np.random.default_rng(row).integers(0, 256, (item.height, item.width, 3), np.uint8)
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    job = ingest_job(made, "train", root, folder / "shards", IngestSettings(images_per_shard=images_per_shard))
    ingest(job, records)
    return open_store(folder / "shards" / name / "train")


def with_damaged_picture(store: ShardStore, image_row: int) -> ShardStore:
    """Flips one bit of a stored picture; the store that is returned reads the file as it is now."""
    shard = store.location / store.manifest.shards[store.images["shard"][image_row].as_py()].name
    data = bytearray(shard.read_bytes())
    data[store.images["image_offset"][image_row].as_py() + 40] ^= 1
    shard.write_bytes(data)
    return open_store(store.location)


def record(name: str, row: int, instances: list[Instance], width: int = 160, height: int = 120) -> Record:
    """One image."""
    return Record(
        dataset=name,
        split="train",
        source_id=str(row),
        image=f"{name}/{row}.png",
        width=width,
        height=height,
        instances=instances,
    )
