"""A model's heads in another runtime than PyTorch, for processors: exported once, checked beside it, and run.

One thread of a Zen 4 processor, RTMPose-m: of PyTorch's time onnxruntime needs 0.73, OpenVINO 0.68, and 0.37 in
bfloat16, where the processor has it (``benchmarks/against_rtmlib.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.errors import ConfigError
from posecore.extras import needed
from posecore.models.export.graphs import HeadsGraph
from posecore.models.export.onnx_file import check_onnx, dense_model, has_experts, write_graph
from posecore.models.onnx_graph import OnnxGraph, open_session
from posecore.models.pose_model import PoseModel

Backend: TypeAlias = Literal["torch", "onnxruntime", "openvino"]
Precision: TypeAlias = Literal["float32", "bfloat16"]

_SIZES = (8, 1)
"""OpenVINO plans for one number of crops: for eight, which are 3 to 8 % faster each, and for one, for what is left."""


class ExportedHeads:
    """(B, 3, H, W) normalised RGB to what the heads' codecs decode, as the model itself does.

    Args:
        model: stays as it is.
        heads: that look at the same crops.
        backend: who runs the graph.
        precision: that of OpenVINO; onnxruntime has float32 only, or what an ONNX file says.

    Raises:
        ConfigError: the model is an ONNX file or takes depth, the backend lacks the precision or its package.
        CheckpointError: onnxruntime computes something else than the model.
    """

    def __init__(self, model: PoseModel, heads: Sequence[str], backend: Backend, precision: Precision) -> None:
        check_backend(model, backend, precision)
        self._graphs: list[tuple[list[str], Callable[[Tensor], Sequence[Tensor]]]] = []
        finished = model.backbone
        if isinstance(finished, OnnxGraph):
            fixed = finished.config.batch
            sizes = _SIZES if fixed is None else (fixed,)
            session = OpenvinoSession(finished.graph.numpy().tobytes(), precision, sizes)
            self._graphs.append((list(heads), lambda images: [finished.answers(images, session)]))
            return
        groups = [[head] for head in heads] if has_experts(model) else [list(heads)]
        with TemporaryDirectory() as folder:
            for group in groups:
                path = Path(folder) / "heads.onnx"
                graph = HeadsGraph(dense_model(model, group), group).eval()
                write_graph(graph, path)
                check_onnx(path, graph)
                data = path.read_bytes()
                session = OpenvinoSession(data, precision, _SIZES) if backend == "openvino" else open_session(data)
                self._graphs.append((group, partial(_outputs, session, graph.outputs)))

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Per head, float32."""
        return {head: output for group, run in self._graphs for head, output in zip(group, run(images), strict=True)}


def check_backend(model: PoseModel, backend: Backend, precision: Precision) -> None:
    """Returns if a model can be run so.

    Raises:
        ConfigError: see :class:`ExportedHeads`.
    """
    if model.config.backbone.finished and backend == "onnxruntime":
        raise ConfigError("backend: an ONNX file is run by onnxruntime as it is; leave backend out, or use openvino.")
    if model.takes_depth:
        raise ConfigError(f"backend: {backend} runs models of pictures alone, and this one takes depth; use torch.")
    if backend == "onnxruntime" and precision != "float32":
        raise ConfigError(f"precision: onnxruntime runs in float32 on processors; for {precision}, use openvino.")


def _outputs(session: Any, names: Sequence[str], images: Tensor) -> list[Tensor]:
    found = session.run(list(names), {"images": images.numpy()})
    return [torch.from_numpy(np.asarray(output, np.float32)) for output in found]


class OpenvinoSession:
    """OpenVINO behind the one call of onnxruntime's sessions that is used here, for a graph of one input.

    Args:
        graph: an ONNX file's bytes.
        precision: what is computed in, where the graph does not say it.
        sizes: numbers of crops to plan for, falling.
    """

    def __init__(self, graph: bytes, precision: Precision, sizes: Sequence[int]) -> None:
        self._openvino = needed("openvino", "backend openvino")
        self._core = self._openvino.Core()
        self._graph = graph
        self._sizes = sizes
        self._how = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: dict[int, Any] = {}

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.floating]]:
        """The outputs of these names for the input."""
        (images,) = given.values()
        parts, start = [], 0
        while start < len(images):
            size = next(size for size in self._sizes if size <= len(images) - start)
            plan = self._plan(size, images.shape[1:])
            answer = plan(images[start : start + size])
            parts.append([np.array(answer[plan.output(name)]) for name in names])
            start += size
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _plan(self, size: int, shape: Sequence[int]) -> Any:
        if size not in self._compiled:
            model = self._core.read_model(self._graph)
            model.reshape([size, *shape])
            self._compiled[size] = self._core.compile_model(model, "CPU", self._how)
        return self._compiled[size]
