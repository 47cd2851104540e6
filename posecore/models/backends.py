"""A model's heads in another runtime than PyTorch, for processors: exported once, checked beside it, and run.

One thread of a Zen 4 processor, RTMPose-m: of PyTorch's time onnxruntime needs 0.73, OpenVINO 0.68, and 0.37 in
bfloat16, where the processor has it (``benchmarks/against_rtmlib.py``).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.errors import ConfigError
from posecore.extras import needed
from posecore.models.export_graphs import HeadsGraph
from posecore.models.onnx_export import check_onnx, dense_model, has_experts, write_graph
from posecore.models.onnx_graph import open_session
from posecore.models.pose_model import PoseModel

Backend: TypeAlias = Literal["torch", "onnxruntime", "openvino"]
Precision: TypeAlias = Literal["float32", "bfloat16"]

_CROPS_AT_ONCE = 8
"""OpenVINO plans for one number of crops: for these, which are 3 to 8 % faster each, and for one, for what is left."""

_Run: TypeAlias = Callable[[NDArray[np.float32]], list[NDArray[np.floating]]]


class ExportedHeads:
    """(B, 3, H, W) normalised RGB to what the heads' codecs decode, as the model itself does.

    Args:
        model: stays as it is.
        heads: that look at the same crops.
        backend: who runs the graph.
        precision: that of OpenVINO; onnxruntime has float32 only.

    Raises:
        ConfigError: the model is an ONNX file or takes depth, the backend lacks the precision or its package.
        CheckpointError: onnxruntime computes something else than the model.
    """

    def __init__(self, model: PoseModel, heads: Sequence[str], backend: Backend, precision: Precision) -> None:
        check_backend(model, backend, precision)
        groups = [[head] for head in heads] if has_experts(model) else [list(heads)]
        self._graphs: list[tuple[list[str], _Run]] = []
        with TemporaryDirectory() as folder:
            for group in groups:
                path = Path(folder) / "heads.onnx"
                graph = HeadsGraph(dense_model(model, group), group).eval()
                write_graph(graph, path)
                check_onnx(path, graph)
                data = path.read_bytes()
                run = _OpenvinoRun(data, precision) if backend == "openvino" else _OnnxruntimeRun(data)
                self._graphs.append((group, run))

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Per head, float32."""
        given = images.numpy()
        return {
            head: torch.from_numpy(np.asarray(output, np.float32))
            for group, run in self._graphs
            for head, output in zip(group, run(given), strict=True)
        }


def check_backend(model: PoseModel, backend: Backend, precision: Precision) -> None:
    """Returns if a model can be run so.

    Raises:
        ConfigError: see :class:`ExportedHeads`.
    """
    if model.config.backbone.finished:
        raise ConfigError(f"backend: {backend} runs models that are exported, and this one is an ONNX file; use torch.")
    if model.takes_depth:
        raise ConfigError(f"backend: {backend} runs models of pictures alone, and this one takes depth; use torch.")
    if backend == "onnxruntime" and precision != "float32":
        raise ConfigError(f"precision: onnxruntime runs in float32 on processors; for {precision}, use openvino.")


class _OnnxruntimeRun:
    def __init__(self, graph: bytes) -> None:
        self._session = open_session(graph)

    def __call__(self, images: NDArray[np.float32]) -> list[NDArray[np.floating]]:
        return self._session.run(None, {"images": images})


class _OpenvinoRun:
    def __init__(self, graph: bytes, precision: Precision) -> None:
        self._openvino = needed("openvino", "backend openvino")
        self._core = self._openvino.Core()
        self._graph = graph
        self._how = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: dict[int, Any] = {}

    def __call__(self, images: NDArray[np.float32]) -> list[NDArray[np.floating]]:
        parts, start = [], 0
        while start < len(images):
            size = _CROPS_AT_ONCE if len(images) - start >= _CROPS_AT_ONCE else 1
            parts.append([np.array(output) for output in self._plan(size)(images[start : start + size]).values()])
            start += size
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _plan(self, size: int) -> Any:
        if size not in self._compiled:
            model = self._core.read_model(self._graph)
            model.reshape([size, *(axis.get_length() for axis in list(model.input(0).partial_shape)[1:])])
            self._compiled[size] = self._core.compile_model(model, "CPU", self._how)
        return self._compiled[size]
