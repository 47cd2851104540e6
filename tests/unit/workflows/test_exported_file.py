"""A small net that has learned a split, in fewer bits: what it answers, what that cost, and what is refused."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import posecore as pc
from posecore.cli import main
from posecore.errors import ConfigError
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.loading.evaluation import EvalCrops
from posecore.methods.batch import to_device
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.shards.store import ShardStore
from tests.support.dot_worlds import HANDS, hands_definition, hands_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return hands_store(tmp_path_factory.mktemp("hands"), hands_definition())


@pytest.fixture(scope="module")
def trained(store: ShardStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose net finds the split's hands."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(96, 64))
    model = build_model(config, {"hands": HANDS})
    method = SupervisedHeads(model.train())
    conventions = model.conventions["hands"].on(store.manifest.definition.conventions)
    (batch,) = EvalCrops(store, "hands", model.input_size, conventions=conventions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = sum(method.losses(to_device(batch, torch.device("cpu"))).values())
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("model")
    save_model(model.eval(), folder)
    return folder


def _export(trained: Path, store: ShardStore, out: Path, *options: str) -> int:
    nowhere = str(out.parent / "nowhere")
    return main(["export", str(trained), "--out", str(out), "--folder", nowhere, *options])


@pytest.mark.parametrize(
    ("precision", "layout"), [("float16", "picture"), ("float16", "rtmlib"), ("int8", "picture"), ("int8", "crops")]
)
def test_what_fewer_bits_cost_is_said_and_stands_in_the_file(
    precision: str, layout: str, trained: Path, store: ShardStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, split = tmp_path / "hands.onnx", str(store.location)
    ranges = ["--calibrate", split] if precision == "int8" else []
    command = ("--precision", precision, *ranges, "--judge", split, "--layout", layout)
    assert _export(trained, store, out, *command) == 0
    assert f"layout {layout}, {precision}; " in (said := capsys.readouterr().out)
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    told = {key: json.loads(value) for key, value in metadata.items() if key.startswith("posecore.")}
    judged = told["posecore.judged"]
    assert told["posecore.precision"] == precision
    assert f"AP {judged['of_file']:.4g} on hands val, {judged['of_model']:.4g} in float32; points shifted by " in said
    assert judged["of_model"] > 0.95
    assert abs(judged["of_file"] - judged["of_model"]) < 0.02
    # Of bits that are missing: float16 has eleven, int8 seven, and pictures are at most 340 pixels wide.
    least, most = (1e-5, 0.05) if precision == "float16" else (0.01, 1.0)
    assert least < judged["shift_px"] < most
    assert judged["digest"] == store.manifest.digest
    assert ("posecore.calibration" in told) == (precision == "int8")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    kinds = {each.type for each in (*session.get_inputs(), *session.get_outputs())}
    assert kinds == ({"tensor(uint8)", "tensor(float)"} if layout == "picture" else {"tensor(float)"})
    assert _share_of_weights(out, precision.upper()) > {"float16": 0.99, "int8": 0.9}[precision]
    if precision == "int8":  # whose last layers would move points
        assert _rooms_in_int8(out) == {"backbone"}


def _rooms_in_int8(path: Path) -> set[str]:
    """First names of the modules whose products take int8."""
    nodes = onnx.load(path).graph.node
    widened = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    products = (node for node in nodes if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    return {node.name.split("/")[1] for node in products if widened.intersection(node.input)}


def _share_of_weights(path: Path, kind: str) -> float:
    """Of the numbers in a file's weights, those of one type."""
    counts = Counter[str]()
    for tensor in onnx.load(path).graph.initializer:
        counts[onnx.TensorProto.DataType.Name(tensor.data_type)] += int(np.prod(tensor.dims))
    return counts[kind] / counts.total()


@pytest.mark.parametrize(("precision", "backend"), [("float16", "torch"), ("int8", "torch"), ("int8", "openvino")])
def test_a_file_in_fewer_bits_answers_through_the_predictor(
    precision: str, backend: str, trained: Path, store: ShardStore, tmp_path: Path
) -> None:
    out = tmp_path / "hands.onnx"
    ranges = ["--calibrate", str(store.location)] if precision == "int8" else []
    assert _export(trained, store, out, "--precision", precision, *ranges, "--layout", "crops") == 0
    picture, box = store.read_image_bytes(0), [(30.3, 40.0, 100.6, 120.0), (200.3, 40.0, 100.6, 120.0)]
    (expected,) = pc.load_model(trained).predict([picture], [box])
    (found,) = pc.load_model(out, backend=backend).predict([picture], [box])
    assert found.points == expected.points
    distance = np.linalg.norm(found.keypoints - expected.keypoints, axis=-1)
    assert distance.max() < (0.1 if precision == "float16" else 1.5)
    np.testing.assert_allclose(found.keypoint_scores, expected.keypoint_scores, atol=0.1)
    with pytest.raises(ConfigError, match="run by onnxruntime as it is; leave backend out, or use openvino"):
        pc.load_model(out, backend="onnxruntime")


@pytest.mark.parametrize(
    ("status", "options", "message"),
    [
        (2, ["--precision", "int8"], "int8 measures ranges on pictures such as the model will see; name a split"),
        (2, ["--calibrate", "{split}"], "float32 measures no ranges; leave --calibrate out"),
        (2, ["--precision", "float16", "--format", "safetensors"], "are for onnx, not for safetensors"),
        (1, ["--judge", "{nowhere}"], "nowhere"),
        (
            1,
            ["--precision", "int8", "--calibrate", "{split}", "--judge", "{split}", "--max-loss", "-0.05"],
            r"was not written: int8 loses -?[01]\.\d % of AP \(AP [01][.\d]* on hands val, [01][.\d]* in float32; ",
        ),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_nothing(
    status: int,
    options: Sequence[str],
    message: str,
    trained: Path,
    store: ShardStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"split": str(store.location), "nowhere": str(tmp_path / "nowhere")}
    assert _export(trained, store, tmp_path / "x.onnx", *(option.format(**places) for option in options)) == status
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_float32_is_judged_as_evaluations_do(trained: Path, store: ShardStore, tmp_path: Path) -> None:
    out = tmp_path / "hands.onnx"
    assert _export(trained, store, out, "--judge", str(store.location)) == 0
    judged = json.loads({entry.key: entry.value for entry in onnx.load(out).metadata_props}["posecore.judged"])
    figures = evaluate_store(load_model(trained), store, InferenceSettings(flip_test=False))
    assert judged["of_file"] == judged["of_model"] == figures["AP"] > 0.95
    assert judged["shift_px"] < 1e-3
