"""An exported network in fewer bits: float16, or int8 by ranges that were measured on pictures.

Only backbone and head are rewritten. What is before and after them in the file, cropping and decoding, computes in
float32, and inputs and outputs are what they were, so nobody who runs the file need know.
"""

import ast
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.errors import ConfigError
from posecore.extras import needed

ExportPrecision: TypeAlias = Literal["float32", "float16", "int8"]
Inputs: TypeAlias = Mapping[str, NDArray[Any]]
"""By name, what a graph is given at once."""

SPARED: Sequence[str] = ("head",)
"""Modules that int8 leaves in float32."""
_NEEDED_BY = "an export in fewer bits"
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter of programs notes which modules a node is of; the quick one has it in the node's name."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def to_float16(path: Path) -> None:
    """Rewrites the network of a file in float16; numbers beyond its range become the nearest that it has.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
    """
    onnx, _ = needed("onnx", _NEEDED_BY), needed("onnxruntime", _NEEDED_BY)
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model, data = onnx.load(path), path.with_name(f"{path.name}.data")
    with _quiet():
        smaller = convert_float_to_float16(
            model,
            keep_io_types=True,
            node_block_list=[node.name for node in model.graph.node if not _in_network(node)],
        )
    _without_detours(smaller.graph.node)
    outside = data.exists()
    data.unlink(missing_ok=True)
    onnx.save(smaller, path, save_as_external_data=outside, location=data.name)


def to_int8(path: Path, pictures: Iterable[Inputs], spared: Sequence[str] = SPARED) -> None:
    """Rewrites the products of the network of a file in int8; what lies between them stays float32.

    Weights have a scale per channel and seven bits, since processors without VNNI add pairs of products of eight bits
    in sixteen, which overflow; so the figures of one processor are those of another.

    Args:
        path: of the file, of at most 2 GB.
        pictures: from which the ranges of activations are measured.
        spared: modules whose products stay float32, too, such as ``head.final_layer``.

    Raises:
        ConfigError: there are no pictures, the weights lie in a file of their own, or onnx or onnxruntime is not
            installed.
    """
    if path.with_name(f"{path.name}.data").exists():
        raise ConfigError("int8 is for models that one file of 2 GB holds; this one is larger: use float16.")
    onnx, _ = needed("onnx", _NEEDED_BY), needed("onnxruntime", _NEEDED_BY)
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader = _Pictures(pictures)
    if reader.first is None:
        raise ConfigError("int8 measures ranges on pictures, and there are none with a body to crop.")
    nodes = onnx.load(path, load_external_data=False).graph.node
    with _quiet(), TemporaryDirectory() as folder:
        smaller = Path(folder) / path.name
        quantize_static(
            str(path),
            str(smaller),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_quantize=[
                node.name for node in nodes if node.op_type in _PRODUCTS and _in_network(node, but=spared)
            ],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        path.write_bytes(smaller.read_bytes())


def _without_detours(nodes: Sequence[Any]) -> None:
    """Joins nodes that stay float32 directly: the converter passes whatever one gives another through float16.

    So it does with inputs and outputs of the graph, by which boxes and keypoints would be rounded to whole pixels.
    """
    narrowed = {node.output[0]: node.input[0] for node in nodes if _casts_to(node, "FLOAT16")}
    for node in nodes:
        if _casts_to(node, "FLOAT") and node.input[0] in narrowed:
            node.input[0] = narrowed[node.input[0]]


def _casts_to(node: Any, kind: str) -> bool:
    to = needed("onnx", _NEEDED_BY).TensorProto.DataType.Value(kind)
    return node.op_type == "Cast" and any(attribute.name == "to" and attribute.i == to for attribute in node.attribute)


class _Pictures:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, pictures: Iterable[Inputs]) -> None:
        left = iter(pictures)
        self.first = next(left, None)
        self._left = chain([] if self.first is None else [self.first], left)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        found = next(self._left, None)
        return None if found is None else dict(found)


def _in_network(node: Any, but: Sequence[str] = ()) -> bool:
    module = _module(node)
    return _is_in(module, ("backbone", "head")) and not _is_in(module, but)


def _is_in(module: str, names: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in names)


def _module(node: Any) -> str:
    """Dotted name of the innermost module that a node is of."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return ".".join(ast.literal_eval(entry.value)[-2:-1])
    return ".".join(node.name.split("/")[1:-1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice to prepare graphs with its own tools, which an exported one does not need."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
