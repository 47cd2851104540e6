"""Exported files under onnxruntime and in rtmlib beside the predictor, on the same picture and boxes."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from posecore.codecs.simcc import SimccCodec
from posecore.conventions import Conventions
from posecore.errors import CheckpointError, ConfigError
from posecore.geometry import crop_matrix
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.export.graphs import cut_crops
from posecore.models.export.onnx_file import export_onnx
from posecore.models.heads.classic import ClassicHeadConfig, PlacesHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.weights.read import read_weights
from posecore.prediction.predictor import Predictor
from posecore.skeletons.library import load_skeleton

BOXES = np.array(
    [
        [20, 30, 90, 160],
        [-15, 5, 120, 60],
        [200, 120, 150, 100],
        [110, 40, 0, 0],
        [0, 0, 320, 240],
        [60.5, 70.25, 31, 9],
    ]
)
"""Inside, beyond either end, without extent, the whole picture, fractions."""
CODECS = {
    "udp": {"conventions": Conventions(codec="udp"), "settings": {"blur_border": "mirror"}},
    "udp of mmpose": {"conventions": Conventions(codec="udp"), "settings": {"blur_border": "zero", "blur_kernel": 17}},
    "msra": {"conventions": Conventions(codec="msra", padding=1.1), "settings": {}},
    "simcc": {"conventions": Conventions(codec="msra"), "settings": {}},
    "places": {"conventions": Conventions(codec="udp"), "settings": {}},
}


def _picture() -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (15, 20, 3)).astype(np.uint8)
    return cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)


def _model(name: str) -> PoseModel:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "backbone": VitConfig(embed_dim=32, depth=1, num_heads=2),
        "head": ClassicHeadConfig(channels=8),
    }
    if name == "simcc":
        parts = {"backbone": CspnextConfig(deepen=0.1, widen=0.0625), "head": RtmccHeadConfig()}
    if name == "places":
        parts["head"] = PlacesHeadConfig(channels=8)
    config = ModelConfig(**parts, input_size=(128, 96), **CODECS[name]["settings"])
    model = build_model(config, {"coco": load_skeleton("coco17")}, {"coco": CODECS[name]["conventions"]})
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model.eval()


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", CODECS)
def test_a_picture_and_boxes_give_what_the_predictor_says(name: str, tmp_path: Path) -> None:
    model, picture, path = _model(name), _picture(), tmp_path / "model.onnx"
    export_onnx(model, "coco", path, "picture")
    session = _session(path)
    keypoints, scores = session.run(None, {"image": picture, "boxes": BOXES.astype(np.float32)})
    boxes = np.where(
        BOXES[:, 2:] == 0, np.array([1.0, 1.0]), BOXES[:, 2:]
    )  # the predictor refuses those without extent
    (expected,) = Predictor(model).predict([picture], [np.concatenate([BOXES[:, :2], boxes], axis=1)])
    assert keypoints.shape == (6, 17, 2)
    assert keypoints.dtype == scores.dtype == np.float32
    distance = np.linalg.norm(keypoints - expected.keypoints, axis=-1)
    assert np.median(distance) < 0.01
    assert np.quantile(distance, 0.95) < 0.5  # a parabola through a flat map of random weights makes much of rounding
    np.testing.assert_allclose(scores, expected.keypoint_scores, atol=0.01 * np.abs(expected.keypoint_scores).max())


def test_a_file_that_crops_by_itself_is_no_model_to_predict_with(tmp_path: Path) -> None:
    export_onnx(_model("udp"), "coco", tmp_path / "model.onnx", "picture")
    with pytest.raises(CheckpointError, match=r"crops and decodes by itself, .* export it with --layout crops"):
        read_weights(tmp_path / "model.onnx")


def test_outputs_that_would_be_read_as_others_are_refused(tmp_path: Path) -> None:
    export_onnx(_model("places"), "coco", tmp_path / "model.onnx", "crops")
    with pytest.raises(CheckpointError, match="its outputs are read by places, and those of ONNX files as heatmaps or"):
        read_weights(tmp_path / "model.onnx")


@pytest.mark.parametrize("crop", ["udp", "msra"])
def test_crops_are_those_of_opencv(crop: Any) -> None:
    picture = _picture()
    center, scale = np.array([[150.3, 99.8], [10.0, 230.0]]), np.array([[75.0, 100.0], [180.0, 240.0]])
    found = cut_crops(torch.from_numpy(picture), torch.tensor(center), torch.tensor(scale), (128, 96), crop).numpy()
    for row in range(2):
        matrix = crop_matrix(center[row], scale[row], np.zeros(()), (128, 96), crop)
        expected = cv2.warpAffine(picture, matrix, (96, 128), flags=cv2.INTER_LINEAR).transpose(2, 0, 1)
        difference = np.abs(found[row] - expected)
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.99


@pytest.mark.parametrize("name", ["simcc", "udp"])
def test_rtmlib_takes_its_layout_as_it_is(name: str, tmp_path: Path) -> None:
    rtmlib = pytest.importorskip("rtmlib")
    model, picture, path = _model(name), _picture(), tmp_path / "model.onnx"
    export_onnx(model, "coco", path, "rtmlib")
    estimator = {"simcc": rtmlib.RTMPose, "udp": rtmlib.ViTPose}[name](str(path), model_input_size=(96, 128))
    boxes = BOXES[[0, 2, 4]]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    as_read = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    keypoints, scores = estimator(as_read, corners)
    assert keypoints.shape == (3, 17, 2)
    (expected,) = Predictor(model).predict([picture], [boxes])
    if name == "simcc":
        sure = (expected.keypoint_scores > 0) & (scores > 0)
        assert sure.mean() > 0.4
        assert np.quantile(np.linalg.norm(keypoints - expected.keypoints, axis=-1)[sure], 0.9) < 0.01
    # ViTPose's crops lie up to half a pixel beside those of UDP: the same crop gives the same outputs.
    crop, _, _ = estimator.preprocess(as_read, corners[0])
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    rgb = ((crop * std + mean)[..., ::-1] - mean) / std  # rtmlib normalises BGR as if it were RGB
    outputs = model.predict(torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None], "coco").numpy()
    found = np.concatenate(estimator.inference(crop), axis=-1)
    np.testing.assert_allclose(found, outputs, atol=1e-4 * np.abs(outputs).max())
    (again,) = Predictor(read_weights(path)).predict([picture], [boxes])
    np.testing.assert_allclose(again.keypoint_scores, expected.keypoint_scores, atol=1e-4 * np.abs(outputs).max())


def test_rtmlib_is_not_given_what_it_would_read_wrongly(tmp_path: Path) -> None:
    for name, problem in (
        ("msra", "enlarges boxes by 1.25, .* trained at 1.1"),
        ("udp of mmpose", "a blur of 11 pixels"),
        ("places", "reads heatmaps and SimCC, and head coco has places; use the layout picture"),
    ):
        with pytest.raises(ConfigError, match=problem):
            export_onnx(_model(name), "coco", tmp_path / "model.onnx", "rtmlib")
    assert not list(tmp_path.iterdir())
    assert isinstance(_model("simcc").codec("coco"), SimccCodec)
