"""A look at a dataset as its reader and its stages leave it: images with boxes, points, links and masks drawn."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import read_split
from posecore.datasets.sample import Sample
from posecore.errors import DatasetError
from posecore.ingest.stage_check import staged_sample
from posecore.schema import Record
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.protocol import Picture
from posecore.storage import AnyPath, as_path
from posecore.tar_members import TarMember, open_picture, picture_at
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
        IngestError: a stage cannot be had or fails.
    """
    records = _sample(definition, split, root, num_images)
    if not records:
        raise DatasetError(
            f"{definition.name} {split}: no image with annotations was read; run `posecore datasets check`."
        )
    left, reasons = staged_sample(definition, split, root, records)
    pictures = (
        _draw(record, as_path(root), definition.skeleton, left.get(record.source_id), reasons.get(record.source_id, []))
        for record in records
    )
    return write_gallery(pictures, out_dir, f"{definition.title}: {split}")


def write_worst(definition: DatasetDefinition, root: str | AnyPath, records: Sequence[Record], out_dir: str) -> AnyPath:
    """Draws the records that a check found to fit worst, as read and before any stage.

    Returns:
        Path of the contact sheet.
    """
    pictures = (_draw(record, as_path(root), definition.skeleton, None, []) for record in records)
    page = write_gallery(pictures, out_dir, f"{definition.title}: the labels that fit worst", columns=len(records))
    return page.parent / "contact_sheet.png"


def _sample(definition: DatasetDefinition, split: str, root: str | AnyPath, size: int) -> list[Record]:
    sample = Sample(size)
    for record in _annotated(definition, split, root):
        sample.offer(record)
    return sample.records


def _annotated(definition: DatasetDefinition, split: str, root: str | AnyPath) -> Iterator[Record]:
    for item in read_split(definition, split, root):
        if isinstance(item, Record) and item.instances:
            yield item


def _draw(
    read: Record, root: AnyPath, skeleton: Skeleton, left: Picture | None, reasons: list[str]
) -> tuple[NDArray[np.uint8], str]:
    """As the stages leave an image; one that they or the check of its file take out, as it was read."""
    labelled = sum(int((instance.keypoints[:, 2] > 0).any()) for instance in read.instances)
    caption = f"{read.image} · {len(read.instances)} annotated, {labelled} with points"
    record = read if left is None else left.record
    image = _decoded(_read(picture_at(root, read.image)) if left is None else left.data)
    if image is None:
        return np.full((240, 320, 3), 128, np.uint8), f"{caption} · the image is missing or does not decode"
    height, width = image.shape[:2]
    if record.width and (record.width, record.height) != (width, height):
        caption += f" · is {width}×{height}, annotated as {record.width}×{record.height}; masks left out"
        masks = [None] * len(record.instances)
        return draw_instances(image, record.instances, skeleton, masks=masks), caption
    if reasons:
        caption += f" · {'the image' if left is None else 'some'} taken out: {', '.join(dict.fromkeys(reasons))}"
    return draw_instances(image, record.instances, skeleton), caption


def _read(path: AnyPath | TarMember) -> bytes:
    """The file's bytes; none where there is no such file."""
    try:
        with open_picture(path) as file:
            return file.read()
    except OSError:
        return b""


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 RGB, EXIF orientation ignored, or None."""
    if not data:
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if image is None else np.asarray(image, np.uint8)
