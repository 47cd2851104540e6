"""What makes pixels of files: other versions show a model other pixels, so it keeps which it was taught by.

OpenCV 4.x rounds the source positions of warps to 1/32 pixel and 5.0 does not: 7 to 13 % of a crop's values differ, by
at most 4 of 255 (4.10 to 4.13 against 5.0). JPEG files are decoded by simplejpeg, which brings its own libjpeg-turbo.
"""

from collections.abc import Mapping
from importlib.metadata import version

import cv2

from posecore.schema import Json

KEY = "decoders"
"""In a model's lineage."""


def decoders() -> dict[str, Json]:
    """Versions of what makes pixels here, as a model's lineage records them."""
    return {"opencv": str(cv2.__version__), "jpeg": f"simplejpeg {version('simplejpeg')}"}


def decoder_difference(lineage: Mapping[str, Json]) -> str | None:
    """One sentence where a model was taught by other pixels than it will see here; None if not, or if nothing is known.

    Args:
        lineage: of the model's card.
    """
    taught, here = lineage.get(KEY), decoders()
    if not isinstance(taught, dict):
        return None
    if _major(taught.get("opencv")) != _major(here["opencv"]):
        return (
            f"the model was trained with OpenCV {taught.get('opencv')}, and here is {here['opencv']}: 4.x and 5.0 cut "
            "crops differently, by at most 4 of 255 in 7 to 13 % of values; install the one it was trained with, or "
            "judge it here before you rely on it."
        )
    if str(taught.get("jpeg")).split()[:1] != str(here["jpeg"]).split()[:1]:
        return (
            f"the model was trained on JPEG files decoded by {taught.get('jpeg')}, and here is {here['jpeg']}: pixels "
            "may differ; judge it here before you rely on it."
        )
    return None


def _major(stated: Json) -> str:
    return str(stated).partition(".")[0]
