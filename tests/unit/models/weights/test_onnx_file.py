"""ONNX files of others as models, as mmdeploy and ViTPose's exporters lay them out; ours: ``test_onnx_export.py``."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from posecore.errors import CheckpointError, ConfigError
from posecore.models.export.onnx_file import export_onnx
from posecore.models.onnx_graph import OnnxGraphConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.models.weights.initial import SourceConfig
from posecore.models.weights.onnx_file import PIPELINE_FILE
from posecore.models.weights.read import guessed_heads, read_weights
from posecore.skeletons.library import load_skeleton
from posecore.storage import sha256_of
from tests.support.onnx_files import BINS_SIZE, binned, expected_bins, one_node, pooled

SKELETON = load_skeleton("mpii16")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binned(tmp_path_factory.mktemp("deployed") / "end2end.onnx")


THREE = load_skeleton("coco17").model_copy(
    update={
        "name": "three",
        "keypoints": tuple(point.model_copy(update={"flip": None}) for point in load_skeleton("coco17").keypoints[:3]),
        "links": (),
    }
)


def test_simcc_outputs_as_mmdeploy_names_them(theirs: Path, tmp_path: Path) -> None:
    model = read_weights(theirs)
    assert guessed_heads(model.card) == {"mpii": 16}, "sixteen points may be anybody's"
    assert model.input_size == BINS_SIZE
    backbone = model.config.backbone
    assert isinstance(backbone, OnnxGraphConfig)
    assert backbone.output_names == ("simcc_x", "simcc_y"), "by their shapes, whatever comes first"
    assert (model.codec("mpii").kind, model.conventions["mpii"].codec) == ("simcc", "msra")
    images = torch.randn(5, 3, *BINS_SIZE)
    found = model.predict(images, "mpii")
    assert torch.allclose(found, expected_bins(images), atol=1e-5)
    assert model.predict(images[:0], "mpii").shape == (0, 16, 320)
    again = load_model(save_model(model, tmp_path / "model"))
    assert torch.equal(again.predict(images, "mpii"), found)
    record = again.card.lineage["weights"]
    assert isinstance(record, dict)
    assert (record["layout"], record["sha256"], record["license"]) == ("onnx", sha256_of(theirs), "not stated")


def test_what_a_file_does_not_say_is_stated(theirs: Path) -> None:
    with pytest.raises(CheckpointError, match="confirm it with --heads mpii"):
        SourceConfig(source=str(theirs)).read()
    stated = SourceConfig(source=str(theirs), heads={"mine": "mpii16"}, license="CC-BY-4.0").read()
    assert (list(stated.skeletons), stated.card.licenses) == (["mine"], {str(theirs): "CC-BY-4.0"})
    assert guessed_heads(stated.card) == {}
    assert list(read_weights(theirs.parent).skeletons) == ["mpii"], "a folder with the one file"
    with pytest.raises(CheckpointError, match=r"finds 16 points, but skeleton coco17 of 'coco' has 17"):
        read_weights(theirs, skeletons={"coco": load_skeleton("coco17")})
    with pytest.raises(CheckpointError, match="an ONNX file: of no preset"):
        read_weights(theirs, expect="rtmpose-m")


def test_colours_and_padding_are_those_of_the_file_beside(tmp_path: Path) -> None:
    """Colours are averaged, so that each output is the mean of what its channel was given."""
    path = pooled(tmp_path / "end2end.onnx", ["batch", 3, 8, 12])
    mean, std = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]
    steps = [
        {"type": "TopDownGetBboxCenterScale", "padding": 1.5},
        {"type": "Normalize", "mean": mean, "std": std, "to_rgb": False},
    ]
    (tmp_path / PIPELINE_FILE).write_text(
        json.dumps({"pipeline": {"tasks": [{"transforms": steps}, {"module": "Net"}]}})
    )
    model = read_weights(path, skeletons={"three": THREE})
    assert model.conventions["three"].padding == 1.5
    rgb = np.array([50.0, 100.0, 200.0])
    ours = (rgb / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    images = torch.tensor(ours, dtype=torch.float32).view(1, 3, 1, 1).expand(2, 3, 8, 12)
    expected = (rgb[::-1] - mean) / std
    assert np.allclose(model.predict(images, "three").mean(dim=(2, 3))[1], expected, atol=1e-4)
    (tmp_path / PIPELINE_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"pipeline\.json lies beside an ONNX file and is not what mmdeploy"):
        read_weights(path, skeletons={"three": THREE})


def test_heatmaps_are_read_as_vitpose_is(tmp_path: Path) -> None:
    """A graph of any size is asked at the published ones; here only one has as many rows as it divides into."""
    path = pooled(tmp_path / "vitpose.onnx", [1, 3, 256, 192], batch=1)
    model = read_weights(path, skeletons={"three": THREE})
    codec = model.codec("three")
    assert (codec.kind, codec.frame_size, model.config.heatmap_sigma, model.config.blur_kernel) == (
        "udp", (64, 48), 2.0, 11,
    )  # fmt: skip
    images = torch.randn(3, 3, 256, 192)
    found = model.predict(images, "three")
    assert torch.allclose(found, torch.nn.functional.avg_pool2d(images, 4), atol=1e-6), "one at a time, as it wants"
    larger = read_weights(pooled(tmp_path / "large.onnx", [1, 3, 384, 288], 1), skeletons={"three": THREE})
    assert (larger.config.heatmap_sigma, larger.config.blur_kernel) == (3.0, 17)
    aic = read_weights(path, skeletons={"aic": THREE})
    assert (aic.conventions["aic"].codec, aic.conventions["aic"].flip_shift) == ("msra", True), (
        "as ViTPose's was trained"
    )


def test_colours_last(tmp_path: Path) -> None:
    node = helper.make_node("Transpose", ["input"], ["heatmaps"], perm=[0, 3, 1, 2])
    path = one_node(tmp_path / "last.onnx", node, ["batch", 32, 16, 3], {"heatmaps": ["batch", 3, 32, 16]})
    images = torch.randn(2, 3, 32, 16)
    found = read_weights(path, skeletons={"three": THREE}).predict(images, "three")
    assert torch.allclose(found, images, atol=1e-6)


def _cut(theirs: Path, path: Path) -> Path:
    path.write_bytes(theirs.read_bytes()[:-100])
    return path


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "another kind of output": (
        lambda _, path: one_node(
            path, helper.make_node("Flatten", ["input"], ["found"]), [1, 3, 8, 8], {"found": [1, 192]}
        ),
        r"gives found \(1, 192\) for a picture of 8×8 \(h×w\); known are crops in",
    ),
    "another kind of input": (
        lambda _, path: one_node(path, helper.make_node("Identity", ["input"], ["found"]), [1, 99], {"found": [1, 99]}),
        r"takes input tensor\(float\) \[1, 99\], not one float32 picture",
    ),
    "grey": (lambda _, path: pooled(path, [1, 1, 64, 48], 1), "pictures of 1 channel,"),
    "any size": (
        lambda _, path: pooled(path, ["n", 3, "h", "w"]),
        r"any size .* export it again with height and width",
    ),
    "cut": (_cut, "is cut or not an ONNX file"),
    "no file": (lambda _, path: path, "is no file or folder here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_none_of_these_is_refused(case: str, theirs: Path, tmp_path: Path) -> None:
    make, sentence = REFUSED[case]
    with pytest.raises(CheckpointError, match=sentence):
        read_weights(make(theirs, tmp_path / "strange.onnx"), skeletons={"three": THREE})


def test_tensors_beside_the_file_are_part_of_it(theirs: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    onnx.save(onnx.load(theirs), path, save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    assert (tmp_path / "large.onnx.data").stat().st_size > 10_000
    model = read_weights(path, skeletons={"mine": SKELETON})
    images = torch.randn(1, 3, *BINS_SIZE)
    assert torch.allclose(model.predict(images, "mine"), expected_bins(images), atol=1e-5)
    record = model.card.lineage["weights"]
    assert isinstance(record, dict)
    assert record["sha256"] != sha256_of(path), "the checksum is of both files"
    (tmp_path / "large.onnx.data").unlink()
    with pytest.raises(CheckpointError, match=r"keeps tensors in 'large\.onnx\.data', which is not beside it"):
        read_weights(path, skeletons={"mine": SKELETON})


def test_it_is_trained_and_exported_by_nobody(theirs: Path, tmp_path: Path) -> None:
    model = read_weights(theirs)
    with pytest.raises(ConfigError, match="an ONNX file cannot be trained"):
        build_model(model.config, model.skeletons)
    with pytest.raises(ConfigError, match="is an ONNX file already"):
        export_onnx(model, "mpii", tmp_path / "again.onnx")
