"""One way from a photo to pixels, for the library, the command line and the served model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from posecore.errors import ImageHeaderError, IntegrityError, PredictionError
from posecore.image_header import HEADER_BYTES, MAX_PIXELS, bits_per_sample, exif_orientation, has_end_mark, image_size
from posecore.loading.crop import decode_image
from posecore.stages.pixels import decoded
from posecore.stages.ranges import scaled

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Picture: TypeAlias = "NDArray[np.uint8] | Tensor | Image | bytes | str | os.PathLike[str]"
"""(H, W, 3) uint8 RGB pixels, as an array or a tensor of torch's, an image of Pillow's, the bytes of a JPEG or PNG
file, or the path of one."""

_MAX_BYTES = 1 << 30
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Of Pillow's modes; the others have 16 or 32 bits, and another scale."""


def read_picture(
    picture: Picture, where: str, max_pixels: int = MAX_PIXELS, scale_range: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels as stored; EXIF orientation is ignored, as in training.

    Args:
        picture: pixels, an encoded image, or its path.
        where: what messages call the image, unless it has a path.
        max_pixels: a larger file is refused by its header: a small one can declare an image that fills the memory.
        scale_range: what becomes 0 and 255 of a file of 16 bits per value, as in the stage of that name.

    Raises:
        PredictionError: there is no such file, it is no whole JPEG or PNG, it is too large, or it has 16 bits per value
            and no range is given; or the array is no RGB image.
    """
    if not isinstance(picture, (np.ndarray, bytes, str, os.PathLike)):
        picture = _pixels(picture, where)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise PredictionError(
                f"{where}: an image is an array (height, width, 3) of uint8 RGB, not {picture.shape} {picture.dtype}."
            )
        return picture
    if not isinstance(picture, bytes):
        where = printable(os.fspath(picture))
        picture = _read(Path(picture), where)
    try:
        size = image_size(picture)
        if not has_end_mark(picture, size.format):  # decoders fill what is missing with grey and say nothing
            raise PredictionError(f"{where}: the file ends before its {size.format.upper()} end mark; copy it again.")
        if bits_per_sample(picture) > 8 and size.width * size.height <= max_pixels:
            return _scaled(picture, where, scale_range)
        return decode_image(picture, max_pixels, where)
    except ImageHeaderError as error:
        raise PredictionError(f"{where}: {error}") from None
    except IntegrityError as error:
        raise PredictionError(str(error)) from None


def is_turned(path: Path) -> bool:
    """Whether the EXIF of a file has viewers turn or mirror it."""
    with path.open("rb") as file:
        return exif_orientation(file.read(HEADER_BYTES)) != 1


def _pixels(picture: "Tensor | Image", where: str) -> NDArray[Any]:
    """Those of a tensor or an image of Pillow's; neither library is imported for it."""
    if hasattr(picture, "detach"):
        return np.asarray(picture.detach().cpu())
    if not hasattr(picture, "convert"):
        raise PredictionError(f"{where}: a {type(picture).__name__} is no picture; give pixels, bytes or a path.")
    if picture.mode not in _EIGHT_BITS:
        raise PredictionError(f"{where}: an image of mode {picture.mode} has no 8 bits per value; give RGB.")
    return np.asarray(picture.convert("RGB"))


def _scaled(picture: bytes, where: str, scale_range: tuple[float, float] | None) -> UInt8[np.ndarray, "H W 3"]:
    if scale_range is None:
        raise PredictionError(
            f"{where}: it has 16 bits per value, and models see 8; say what is black and what is white as the stage "
            "scale_range of the model's data does (--scale-range LOW:HIGH, scale_range of PredictorSettings)."
        )
    pixels = decoded(picture)
    if pixels is None:
        raise PredictionError(f"{where}: the file has a valid header but cannot be decoded; copy it again.")
    of_8_bits = scaled(pixels, *scale_range)
    to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    return np.asarray(cv2.cvtColor(of_8_bits, to_rgb[1 if pixels.ndim == 2 else pixels.shape[2]]), np.uint8)


def printable(name: str) -> str:
    """The name with everything escaped that would break a terminal or a JSON file; different names stay different."""
    return "".join(
        letter if letter.isprintable() and letter != "\\" else letter.encode("unicode_escape").decode()
        for letter in name
    )


def _read(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PredictionError(f"{where} cannot be read ({error.strerror}).") from None
    if len(data) > _MAX_BYTES:
        raise PredictionError(f"{where} has more than the {_MAX_BYTES >> 30} GiB a photo may have.")
    return data
