"""What a model said of a split, kept as one Parquet file, to be looked at and compared without predicting again."""

import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath, as_path, write_atomically
from posecore.tables.parquet import read_parquet

PREDICTIONS_FILE = "predictions.parquet"
"""In the folder of a judged set."""
_FORMAT = "posecore.predictions"
_COLUMNS = ("image_row", "instance_row", "scores", "category_id", "crop_area")


@dataclass(frozen=True, kw_only=True)
class PredictionOrigin:
    """What predictions are of.

    Attributes:
        store: folder of the split.
        digest: of the split.
        model: folder of the model.
        head: that answered.
    """

    store: str
    digest: str
    model: str
    head: str


def write_predictions(path: AnyPath, predictions: Predictions, origin: PredictionOrigin) -> None:
    """Writes predictions with what they are of; coordinates and confidences as float32."""
    count, points = predictions.keypoints.shape[:2]
    columns: dict[str, pa.Array] = {name: pa.array(getattr(predictions, name)) for name in _COLUMNS}
    for name, values in (("keypoints", predictions.keypoints), ("keypoint_scores", predictions.keypoint_scores)):
        flat = pa.array(values.astype(np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.size // count if count else points)
    told = json.dumps(vars(origin))
    table = pa.table(columns).replace_schema_metadata({_FORMAT: told})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read_predictions(path: AnyPath) -> tuple[Predictions, PredictionOrigin, ShardStore]:
    """Predictions, what they are of, and the split itself.

    Raises:
        EvaluationError: the file is none of :func:`write_predictions`, or the split is another edition by now.
        IntegrityError: the split is not where it was.
    """
    try:
        table = read_parquet(path.read_bytes())
        origin = PredictionOrigin(**json.loads((table.schema.metadata or {})[_FORMAT.encode()]))
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
        scores = _matrix(table, "keypoint_scores")
        keypoints = _matrix(table, "keypoints").reshape(*scores.shape, 2)
    except KeyError:
        raise EvaluationError(
            f"{path}: not the predictions of an evaluation, which alone know a split and its labels; `posecore "
            "predict` draws what it finds itself, in drawn/ beside it."
        ) from None
    except (pa.ArrowInvalid, TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise EvaluationError(
            f"{path}: not the predictions of an evaluation ({why:.120}); evaluate the model again."
        ) from None
    store = open_store(_whereabouts(path, origin.store))
    if store.manifest.digest != origin.digest:
        raise EvaluationError(
            f"{path}: {origin.store} holds another edition by now ({store.manifest.digest[:12]}, then "
            f"{origin.digest[:12]}); evaluate the model again."
        )
    predictions = Predictions(
        image_ids=tuple(store.images["source_id"].to_pylist()), keypoints=keypoints, keypoint_scores=scores, **columns
    )
    rows, bodies = predictions.image_row, predictions.instance_row
    outside = ((rows < 0) | (rows >= store.num_images)).any() or (
        (bodies < -1) | (bodies >= len(store.instances))
    ).any()
    if outside:
        raise EvaluationError(f"{path}: names bodies that {origin.store} does not have; evaluate the model again.")
    check_fit(GroundTruth.from_store(store), predictions)
    return predictions, origin, store


def _whereabouts(path: AnyPath, store: str) -> AnyPath:
    """Where the split is: where it was, or in the copy of the run that the predictions are in."""
    was = as_path(store)
    if (was / MANIFEST_NAME).exists():
        return was
    below = was.parts[-4:]  # shards, entry, dataset and split
    copies = (folder.joinpath(*below) for folder in path.parents)
    return next((copy for copy in copies if (copy / MANIFEST_NAME).exists()), was)


def _matrix(table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table[name].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return values.reshape(len(table), column.type.list_size)
