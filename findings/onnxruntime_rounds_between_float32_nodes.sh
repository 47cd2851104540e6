#!/usr/bin/env bash
# onnxruntime 1.32.0: its float16 converter keeps the nodes of node_block_list in float32, and passes what one of them
# gives another through float16 all the same; with keep_io_types=True so go inputs and outputs of the graph. Where every
# node is in the list, a coordinate of 1000.25 still comes out as 1000 or 1000.5, and 100000 as infinity. One guesses that
# what is computed in float32 from a float32 input to a float32 output is what it was.
#
# Seen: x + 0.125, then + 0.125, of 1000.25 and 100000: 1000.5 and 100000.25 before; 1000 and inf with both nodes in the
# list; the same as before where each cast to float16 and back is joined. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnx==1.23.2' 'onnxruntime==1.32.0'
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

graph = helper.make_graph(
    [helper.make_node("Add", ["x", "c"], ["y"], name="first"), helper.make_node("Add", ["y", "c"], ["z"], name="second")],
    "two",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
    [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
    [helper.make_tensor("c", TensorProto.FLOAT, [1], [0.125])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(of: onnx.ModelProto) -> list[float]:
    session = onnxruntime.InferenceSession(of.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([1000.25, 100000], np.float32)})[0].tolist()


def casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind


before = answer(model)
kept = convert_float_to_float16(model, keep_io_types=True, node_block_list=["first", "second"])
found = answer(kept)
narrowed = {node.output[0]: node.input[0] for node in kept.graph.node if casts_to(node, TensorProto.FLOAT16)}
for node in kept.graph.node:
    if casts_to(node, TensorProto.FLOAT) and node.input[0] in narrowed:
        node.input[0] = narrowed[node.input[0]]
joined = answer(kept)
print(f"before {before}, both nodes kept in float32 {found}, joined {joined}")
sys.exit((before, found, joined) != ([1000.5, 100000.25], [1000.0, float("inf")], [1000.5, 100000.25]))
PYTHON
