"""One head of a model as an ONNX file of any precision, checked, and judged on a split if there is one."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posecore.asides import aside_folder
from posecore.errors import CheckpointError
from posecore.models.export.graphs import Graph, GraphLayout
from posecore.models.export.onnx_file import (
    METADATA_PREFIX,
    TOLERANCE,
    add_metadata,
    check_onnx,
    export_onnx,
    move_files,
)
from posecore.models.export.reduced_precision import ExportPrecision, Inputs, to_float16, to_int8
from posecore.models.pose_model import PoseModel
from posecore.schema import Json

if TYPE_CHECKING:
    # Judging and reading splits takes half a second of imports, which an export without a split does not wait for.
    from posecore.evaluation.exported import ExportLoss
    from posecore.evaluation.inference import PredictionTask
    from posecore.shards.store import ShardStore

CALIBRATION_BODIES = 256
"""Bodies on which ranges are measured for int8."""
_FLOAT16_TOLERANCE = 0.05


@dataclass(frozen=True)
class ExportedFile:
    """What was written.

    Attributes:
        difference: largest of the float32 file's outputs from PyTorch's, relative to the largest output or to 1.
        loss: how it answers on the split that it was judged on; None if on none.
    """

    difference: float
    loss: "ExportLoss | None"


def export_file(
    model: PoseModel,
    head: str,
    out: Path,
    *,
    layout: GraphLayout = "picture",
    precision: ExportPrecision = "float32",
    calibration: "ShardStore | None" = None,
    judged: "ShardStore | None" = None,
    max_loss: float,
) -> ExportedFile:
    """Writes one head of a model as ONNX, if it holds.

    Args:
        model: in evaluation mode, on the CPU.
        head: dataset whose points are wanted.
        out: file to write.
        layout: what it takes and answers.
        precision: of backbone and head; all else in the file is float32.
        calibration: split on whose pictures the ranges of int8 are measured; for int8 alone, which needs one.
        judged: split on which the file is judged beside the float model, both without flip test.
        max_loss: share of the float model's figure that the file may lose there.

    Raises:
        ConfigError: see :func:`~posecore.models.export.onnx_file.export_onnx`.
        CheckpointError: the file computes something else, or loses more than it may; nothing is written then.
        EvaluationError: the head lacks points of a split.
    """
    if precision != "float32" or judged is not None:
        model.refuse_scenes(f"precision {precision} and judging of exported files")
    out.parent.mkdir(parents=True, exist_ok=True)
    with aside_folder(out.parent) as folder:
        path = folder / out.name
        graph = export_onnx(model, head, path, layout)
        difference, metadata = check_onnx(path, graph, TOLERANCE), {"precision": json.dumps(precision)}
        if precision == "float16":
            to_float16(path)
            check_onnx(path, graph, _FLOAT16_TOLERANCE)
        if precision == "int8":
            assert calibration is not None
            to_int8(path, _pictures(model, graph, _task(calibration, head)))
            metadata["calibration"] = json.dumps(_named(calibration))
        loss = None if judged is None else _judged(model, graph, path, _task(judged, head))
        if loss is not None:
            if not loss.share <= max_loss:
                raise CheckpointError(
                    f"{out} was not written: {precision} loses {100 * loss.share:.1f} % of {loss.metric} ({loss}), and "
                    f"--max-loss allows {100 * max_loss:g} %; "
                    + (
                        "choose float16, calibrate on more pictures like these, or allow more."
                        if precision == "int8"
                        else "choose float32, or allow more."
                    )
                )
            metadata["judged"] = json.dumps(asdict(loss))
        add_metadata(path, {METADATA_PREFIX + key: value for key, value in metadata.items()})
        move_files(folder, out.parent)
    return ExportedFile(difference, loss)


def _task(store: "ShardStore", head: str) -> "PredictionTask":
    from posecore.evaluation.inference import InferenceSettings, PredictionTask

    return PredictionTask(store=store, head=head, settings=InferenceSettings(flip_test=False))


def _judged(model: PoseModel, graph: Graph, path: Path, task: "PredictionTask") -> "ExportLoss":
    from posecore.evaluation.exported import export_loss

    return export_loss(model, graph, path, task)


def _pictures(model: PoseModel, graph: Graph, task: "PredictionTask") -> Iterator[Inputs]:
    from posecore.evaluation.exported import as_inputs, boxed_pictures

    for image, boxes in boxed_pictures(model, task, CALIBRATION_BODIES):
        yield as_inputs(graph, graph.given(image, boxes))


def _named(store: "ShardStore") -> dict[str, Json]:
    return {"split": f"{store.manifest.dataset} {store.manifest.split}", "digest": store.manifest.digest}
