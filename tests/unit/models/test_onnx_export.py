"""Exported graphs under onnxruntime against PyTorch; the command line's test exports one with experts."""

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from posecore.errors import CheckpointError, ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.export.onnx_file import check_onnx, export_onnx, single_head
from posecore.models.export.reduced_precision import to_float16, to_int8
from posecore.models.heads.instance_norm import InstanceNormHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.weights.read import read_weights
from posecore.skeletons.library import load_skeleton
from tests.support.onnx_files import as_deployed

MPII = load_skeleton("mpii16")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sapiens2": {
        "backbone": Sapiens2Config(embed_dim=32, depth=2, num_heads=2),
        "head": InstanceNormHeadConfig(deconv_channels=(16, 16), conv_channels=(16,)),
    },
    "vit with a token": {
        "backbone": VitConfig(embed_dim=32, depth=1, num_heads=2, knowledge_tokens=1, knowledge_width=8)
    },
    "vit with windows": {"backbone": VitConfig(embed_dim=32, depth=2, num_heads=2, window=2, global_blocks=1)},
    "rtmpose": {"backbone": CspnextConfig(deepen=0.1, widen=0.0625), "head": RtmccHeadConfig()},
}


def _model(name: str) -> PoseModel:
    torch.manual_seed(0)
    skeletons = {"coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")}
    model = build_model(
        ModelConfig(**ARCHITECTURES[name], input_size=(64, 64)), skeletons, licenses={"coco": "CC-BY-4.0"}
    )
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnxruntime_computes_what_the_model_does(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, path = _model(name), tmp_path / "model.onnx"
    graph = export_onnx(model, "mpii", path)
    assert capfd.readouterr() == ("", "")
    assert check_onnx(path, graph) <= 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 64, 64)
    expected = model.predict(images, "mpii")
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert expected.std() > 1e-3
    # Sapiens2 was built with its published bfloat16 rotation; the graph rotates in float32.
    assert torch.allclose(found, expected, atol=2e-2 if name == "sapiens2" else 1e-4)
    stored = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert stored["posecore.keypoints"] == list(load_skeleton("mpii16").names)
    assert stored["posecore.flip_pairs"] == [list(pair) for pair in load_skeleton("mpii16").flip_pairs]
    assert stored["posecore.codec"] == ("simcc" if name == "rtmpose" else "udp")
    assert stored["posecore.input_size"] == [64, 64]
    assert stored["posecore.mean"] == [0.485, 0.456, 0.406]
    assert stored["posecore.licenses"] == {"coco": "CC-BY-4.0"}
    if name == "rtmpose":
        _read_back(path, model)
        for parameter in graph.parameters():
            parameter.data.mul_(1.1)
        with pytest.raises(CheckpointError, match="something else"):
            check_onnx(path, graph)


def test_weights_beyond_one_file_lie_beside_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = export_onnx(_model("vit with a token"), "coco", path, one_file_bytes=0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert check_onnx(path, graph) <= 1e-4
    with pytest.raises(ConfigError, match="int8 is for models that one file of 2 GB holds"):
        to_int8(path, [])
    full = (tmp_path / "model.onnx.data").stat().st_size
    to_float16(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size < 0.51 * full
    assert 1e-5 < check_onnx(path, graph, 1e-2) < 1e-2


def test_ranges_want_pictures(tmp_path: Path) -> None:
    export_onnx(_model("rtmpose"), "coco", tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="measures ranges on pictures, and there are none"):
        to_int8(tmp_path / "model.onnx", [])


def _read_back(path: Path, exported: PoseModel) -> None:
    """The file as a model again, and as somebody else would have exported it."""
    images = torch.randn(3, 3, 64, 64)
    expected = exported.predict(images, "mpii")
    for model in (
        read_weights(path),
        read_weights(as_deployed(path, path.with_name("end2end.onnx"), 128, 128), skeletons={"mpii": MPII}),
    ):
        assert torch.allclose(model.predict(images, "mpii"), expected, atol=1e-5 * float(expected.abs().max()))
        assert dict(model.skeletons) == {"mpii": MPII}
        assert (model.conventions["mpii"].head, model.codec("mpii")) == (
            exported.conventions["mpii"].head,
            exported.codec("mpii"),
        )
    assert read_weights(path).card.licenses == {"coco": "CC-BY-4.0"}, "the export says so"


def test_a_single_head_answers_as_before() -> None:
    model = _model("rtmpose")
    alone = single_head(model, "mpii")
    assert list(alone.skeletons) == ["mpii"]
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(alone.predict(images, "mpii"), model.predict(images, "mpii"))


def test_an_unknown_head_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no head 'ap10k'; it has coco, mpii"):
        export_onnx(_model("rtmpose"), "ap10k", tmp_path / "model.onnx")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"the package onnxscript, .*: pip install 'posecore\[export\]'"):
        export_onnx(_model("rtmpose"), "coco", tmp_path / "model.onnx")
