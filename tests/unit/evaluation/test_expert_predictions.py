"""Predictions of a model with experts: every head through its own expert, the mirrored crop included."""

import numpy as np
import torch

from posecore.evaluation.crops import predict_crops, predict_heads
from posecore.models.merge import merge_experts
from posecore.models.pose_model import PoseModel
from tests.support.tiny_training import INPUT_SIZE, POINTS, tiny_model

IMAGES = np.random.default_rng(0).integers(0, 256, (2, *INPUT_SIZE, 3), np.uint8)
CENTER, SCALE = np.full((2, 2), 50.0, np.float32), np.full((2, 2), 64.0, np.float32)


def _model() -> PoseModel:
    model = tiny_model(expert_share=0.25).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
    return model


def test_crop_and_mirrored_crop_go_through_the_heads_own_expert() -> None:
    model = _model()
    for head in POINTS:
        dense = merge_experts(model, head)
        ours, theirs = (predict_crops(m, head, IMAGES, CENTER, SCALE, flip_test=True) for m in (model, dense))
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours[0], theirs[0], atol=0.1)  # the refinement magnifies rounding


def test_several_heads_do_not_share_features_that_experts_made() -> None:
    model = _model()
    together = predict_heads(model, list(POINTS), IMAGES, CENTER, SCALE, flip_test=True)
    for head in POINTS:
        alone = predict_crops(model, head, IMAGES, CENTER, SCALE, flip_test=True)
        np.testing.assert_allclose(together[head][1], alone[1], rtol=1e-5, atol=1e-6)
