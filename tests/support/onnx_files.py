"""Small ONNX files laid out as other exporters do."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

BINS_POINTS = 16
BINS_SIZE = (96, 64)


def as_deployed(source: Path, path: Path, width_bins: int, height_bins: int) -> Path:
    """Our export of a SimCC head as mmdeploy lays it out: two outputs, and nothing said of what it is."""
    model = onnx.load(source)
    model.graph.initializer.append(numpy_helper.from_array(np.array([width_bins, height_bins]), "bins"))
    model.graph.node.append(helper.make_node("Split", ["outputs", "bins"], ["simcc_x", "simcc_y"], axis=-1))
    points = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    del model.graph.output[:]
    for name, bins in (("simcc_x", width_bins), ("simcc_y", height_bins)):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", points, bins]))
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


def one_node(path: Path, node: onnx.NodeProto, source: list[object], outputs: dict[str, list[object]]) -> Path:
    """A graph of one operation on ``input``."""
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, source)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    return _saved(path, helper.make_graph([node], "crops", inputs, values))


def halves(path: Path, size: tuple[int, int]) -> Path:
    """Heatmaps of two points from crops of a size: a quarter of red, and of what is not blue."""
    weight = np.zeros((2, 3, 4, 4), np.float32)
    weight[0, 0], weight[1, 2] = 1, -1
    node = helper.make_node("Conv", ["input", "weight"], ["heatmaps"], strides=[4, 4])
    height, width = size
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, height, width])
    output = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", 2, height // 4, width // 4])
    return _saved(
        path, helper.make_graph([node], "crops", [source], [output], [numpy_helper.from_array(weight, "weight")])
    )


def pooled(path: Path, source: list[object], batch: object = "batch") -> Path:
    """Heatmaps of three points: each colour's mean over 4×4 pixels."""
    node = helper.make_node("AveragePool", ["input"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4])
    return one_node(path, node, source, {"heatmaps": [batch, 3, "h", "w"]})


def binned(path: Path) -> Path:
    """SimCC bins of 16 points, those of y first, from the mean colours of crops of 96×64: :func:`expected_bins`."""
    lines = {"simcc_y": 2 * BINS_SIZE[0], "simcc_x": 2 * BINS_SIZE[1]}
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colours"]),
    ]
    tensors = []
    for name, bins in lines.items():
        nodes.append(helper.make_node("MatMul", ["colours", f"{name}_weight"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
        tensors.append(numpy_helper.from_array(_weight(name, bins), f"{name}_weight"))
        tensors.append(numpy_helper.from_array(np.array([-1, BINS_POINTS, bins]), f"{name}_shape"))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *BINS_SIZE])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", BINS_POINTS, bins])
        for name, bins in lines.items()
    ]
    return _saved(path, helper.make_graph(nodes, "crops", [source], outputs, tensors))


def expected_bins(images: Tensor) -> Tensor:
    """(B, 16, 320): what :func:`binned` gives for (B, 3, 96, 64) crops, the bins of x first."""
    colours = images.mean(dim=(2, 3))
    lines = [
        (colours @ torch.from_numpy(_weight(name, bins))).view(-1, BINS_POINTS, bins)
        for name, bins in (("simcc_x", 2 * BINS_SIZE[1]), ("simcc_y", 2 * BINS_SIZE[0]))
    ]
    return torch.cat(lines, dim=-1)


def _weight(name: str, bins: int) -> np.ndarray:
    generator = np.random.default_rng(len(name) + bins)
    return generator.normal(size=(3, BINS_POINTS * bins)).astype(np.float32)


def _saved(path: Path, graph: onnx.GraphProto) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
