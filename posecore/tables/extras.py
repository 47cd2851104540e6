"""What is asked for in the extras of images and bodies: their columns in the index, and the rules for them."""

from collections.abc import Mapping

import orjson
import pyarrow as pa

from posecore.schema import Json

Extras = Mapping[str, Json]


def extras_of(table: pa.Table) -> list[Extras]:
    """The extras of each row of one of the tables of annotations; empty where there are none."""
    return [orjson.loads(text) if text is not None else {} for text in table["extras"].to_pylist()]


def crowd_index(image: Extras) -> float | None:
    """CrowdPose's ``crowdIndex``; None where an image has none, or something else under that name."""
    value = image.get("crowdIndex")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def posture(body: Extras, image: Extras, alone: bool) -> str | None:
    """How a body lies or stands, or None.

    Args:
        body: its own extras, whose ``posture`` counts first.
        image: those of its image, whose ``posture``, as SyRIP has it, holds for a body that is alone in it. With
            several, nothing says whose it is.
        alone: whether the image has no other body.
    """
    own = body.get("posture")
    value = image.get("posture") if own is None and alone else own
    return None if value is None or value == "" else str(value)
