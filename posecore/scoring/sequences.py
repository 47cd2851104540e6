"""PoseTrack's submissions: a JSON file per sequence, whose annotations have a confidence for each point."""

from collections.abc import Iterator

import numpy as np
import orjson

from posecore.errors import EvaluationError
from posecore.schema import Json
from posecore.storage import AnyPath

_PROBLEMS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def read_sequences(folder: AnyPath) -> Iterator[list[dict[str, Json]]]:
    """The bodies of each file as entries of COCO's results list: confidences in the place of flags.

    Raises:
        EvaluationError: there is no file, one is no such file, or a body has no confidences (``scores``).
    """
    files = sorted((path for path in folder.iterdir() if path.suffix == ".json"), key=str)
    if not files:
        raise EvaluationError(f"{folder} holds no *.json; name a file of results, or a folder with one per sequence.")
    for path in files:
        try:
            bodies = orjson.loads(path.read_bytes())["annotations"]
            entries = [_entry(body) for body in bodies]
        except (OSError, *_PROBLEMS) as error:
            raise EvaluationError(
                f"{path} is no submission of PoseTrack ({type(error).__name__}: {error}); expected annotations with "
                "image_id, keypoints and scores, a confidence for each point."
            ) from None
        if entries:
            yield entries


def _entry(body: dict[str, Json]) -> dict[str, Json]:
    points = np.array(body["keypoints"], np.float64).reshape(-1, 3)
    points[:, 2] = np.array(body["scores"], np.float64)
    return {
        "image_id": body["image_id"],
        "category_id": body.get("category_id", 1),
        "keypoints": points.ravel().tolist(),
        "score": float(body.get("score", points[:, 2].mean())),
    }
