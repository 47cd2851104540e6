"""The same model in other runtimes, through the predictor: what it answers, and what is refused."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.skeletons.library import load_skeleton

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "rtmpose": {"backbone": CspnextConfig(deepen=0.1, widen=0.0625), "head": RtmccHeadConfig()},
    "experts": {
        "backbone": VitConfig(embed_dim=32, depth=1, num_heads=2, expert_share=0.25),
        "head": SimpleHeadConfig(),
    },
}
PICTURE = cv2.resize(np.random.default_rng(3).integers(0, 256, (15, 20, 3)).astype(np.uint8), (320, 240))
BOXES = [(10 * place, 5 * place, 90, 120) for place in range(11)]
"""More than are run at once, and no multiple of it."""


def _model(name: str, **changes: Any) -> PoseModel:
    torch.manual_seed(0)
    skeletons = {"coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")}
    model = build_model(ModelConfig(**ARCHITECTURES[name] | changes, input_size=(64, 64)), skeletons)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_head_answers_as_in_torch(name: str, backend: Any) -> None:
    model = _model(name)
    flip_test = name == "rtmpose"
    (expected,) = Predictor(model, PredictorSettings(flip_test=flip_test)).predict_heads([PICTURE], [BOXES])
    settings = PredictorSettings(backend=backend, flip_test=flip_test, batch_size=64)
    (found,) = Predictor(model, settings).predict_heads([PICTURE], [BOXES])
    assert found.keys() == {"coco", "mpii"}
    for head, prediction in found.items():
        scores = expected[head].keypoint_scores
        np.testing.assert_allclose(prediction.keypoint_scores, scores, atol=1e-4 * np.abs(scores).max())
        assert np.median(np.abs(prediction.keypoints - expected[head].keypoints)) < 1e-3


def test_what_cannot_be_run_so_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="onnxruntime runs in float32 on processors; for bfloat16, use openvino"):
        Predictor(_model("rtmpose"), PredictorSettings(backend="onnxruntime", precision="bfloat16"))
    with pytest.raises(ValueError, match="use torch for compile"):
        PredictorSettings(backend="openvino", compile=True)
