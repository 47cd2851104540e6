"""A stage that takes pictures out of files that hold labels and pictures together."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.counting import counted
from posecore.errors import ImageHeaderError
from posecore.formats.hdf5 import MAX_H5_BYTES, member, table, text_attribute
from posecore.formats.sleap import PackedFrame, parse_packed_frame
from posecore.image_header import image_size
from posecore.schema import Record, Reject
from posecore.stages.pixels import decoded, encoded
from posecore.stages.protocol import Picture, SourceStage
from posecore.stages.rejects import reject_image
from posecore.storage import AnyPath, open_regular


class PackedFrames(SourceStage):
    """Takes the pictures out of SLEAP's ``.pkg.slp`` files.

    SLEAP has colour pictures encoded by OpenCV as if their red were blue, and says so (``channel_order: BGR``; files
    before format 1.4 do not say it). These are set right, and so encoded anew as what they were. All others keep their
    bytes.

    Attributes:
        quality: of JPEG files that are encoded anew, from 1 to 100.
    """

    quality: int = Field(default=95, ge=1, le=100)

    def source_file(self, image: str) -> str | None:
        """The file with the labels, where the image is stored in one."""
        packed = parse_packed_frame(image)
        return None if packed is None else packed.file

    def __call__(self, root: AnyPath, records: Sequence[Record], max_pixels: int) -> Iterator[Picture | Reject]:
        """Yields the picture of each record."""
        for name, of_one in groupby(records, key=lambda record: self.source_file(record.image)):
            rows = list(of_one)
            assert name is not None, rows
            done = 0
            try:
                with open_regular(root / name) as stream, h5py.File(stream, "r") as file:
                    for record in rows:
                        yield self._one(file, record, max_pixels)
                        done += 1
            except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
                said = " ".join(str(error).split())
                for record in rows[done:]:
                    yield reject_image(record, "unreadable-image", f"{record.image} cannot be read ({said}).")

    def _one(self, file: h5py.File, record: Record, max_pixels: int) -> Picture | Reject:
        packed = parse_packed_frame(record.image)
        assert packed is not None, record
        data, order = _stored(file, packed)
        try:
            size = image_size(data)
        except ImageHeaderError as error:
            return reject_image(record, "unreadable-image", f"{record.image}: {error}")
        if size.height * size.width > max_pixels:
            detail = f"{record.image} is {size.width}x{size.height} pixels, of which {max_pixels} are allowed."
            return reject_image(record, "too-many-pixels", detail)
        if order == "BGR":
            pixels = decoded(data)
            if pixels is None:
                return reject_image(record, "undecodable-image", f"{record.image} cannot be decoded.")
            if pixels.ndim == 3 and pixels.shape[2] == 3:
                kind: Literal["jpeg", "png"] = size.format
                data = encoded(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), kind, self.quality)
        return Picture(data=data, record=replace(record, width=size.width, height=size.height))


def _stored(file: h5py.File, packed: PackedFrame) -> tuple[bytes, str]:
    """Bytes of a stored picture, and the order of its channels when it was encoded."""
    found = table(file, f"{packed.group}/video")
    if not packed.row < found.shape[0]:
        raise ValueError(f"it has {counted(found.shape[0], 'picture')}")
    if found.nbytes // found.shape[0] > MAX_H5_BYTES:
        raise ValueError("a picture of it is too large")
    row: NDArray[Any] = np.asarray(found[packed.row])
    if row.dtype.kind not in "iu" or row.dtype.itemsize != 1:
        raise ValueError("its pictures are not files")
    if "channel_order" in found.attrs:
        return row.tobytes(), text_attribute(found, "channel_order")
    attributes = member(file, "metadata").attrs
    return row.tobytes(), "BGR" if float(attributes.get("format_id", 1.4)) < 1.4 else "RGB"
