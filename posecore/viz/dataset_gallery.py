"""A look at a dataset as its reader understands it: images with boxes, points, links and masks drawn."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import read_split
from posecore.errors import DatasetError
from posecore.schema import Record
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, as_path
from posecore.viz.gallery import write_gallery
from posecore.viz.overlay import draw_instances


def write_dataset_gallery(
    definition: DatasetDefinition, split: str, root: str | AnyPath, out_dir: str | Path, num_images: int = 24
) -> Path:
    """Writes ``index.html`` and ``contact_sheet.png`` of annotated images, drawn evenly at random with a fixed seed.

    Args:
        definition: the dataset.
        split: a split of it.
        root: folder of the download, local or any fsspec URL.
        out_dir: folder to write into, made if missing.
        num_images: how many images to show at most.

    Returns:
        Path of ``index.html``.

    Raises:
        DatasetError: the split cannot be read or holds no annotated image.
    """
    records = _sample(definition, split, root, num_images)
    if not records:
        raise DatasetError(
            f"{definition.name} {split}: no image with annotations was read; run `posecore datasets check`."
        )
    pictures = ((_draw(record, as_path(root), definition.skeleton)) for record in records)
    return write_gallery(pictures, out_dir, f"{definition.title}: {split}")


def _sample(definition: DatasetDefinition, split: str, root: str | AnyPath, size: int) -> list[Record]:
    """Reservoir sample: one pass, whatever the length of the split, in the order of the file."""
    random = np.random.default_rng(0)
    chosen: list[tuple[int, Record]] = []
    for position, record in enumerate(_annotated(definition, split, root)):
        if len(chosen) < size:
            chosen.append((position, record))
        elif (slot := int(random.integers(position + 1))) < size:
            chosen[slot] = (position, record)
    return [record for _, record in sorted(chosen, key=lambda item: item[0])]


def _annotated(definition: DatasetDefinition, split: str, root: str | AnyPath) -> Iterator[Record]:
    for item in read_split(definition, split, root):
        if isinstance(item, Record) and item.instances:
            yield item


def _draw(record: Record, root: AnyPath, skeleton: Skeleton) -> tuple[NDArray[np.uint8], str]:
    labelled = sum(int((instance.keypoints[:, 2] > 0).any()) for instance in record.instances)
    caption = f"{record.image} · {len(record.instances)} annotated, {labelled} with points"
    image = _read_image(root / record.image)
    if image is None:
        return np.full((240, 320, 3), 128, np.uint8), f"{caption} · the image is missing or does not decode"
    height, width = image.shape[:2]
    if record.width and (record.width, record.height) != (width, height):
        caption += f" · is {width}×{height}, annotated as {record.width}×{record.height}; masks left out"
        masks = [None] * len(record.instances)
        return draw_instances(image, record.instances, skeleton, masks=masks), caption
    return draw_instances(image, record.instances, skeleton), caption


def _read_image(path: AnyPath) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 RGB, EXIF orientation ignored, or None."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data:
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if image is None else np.asarray(image, np.uint8)
