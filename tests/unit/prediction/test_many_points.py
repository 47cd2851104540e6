"""Models of 133 and 308 points from end to end: the vocabulary, warm start from 17, prediction and evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from posecore.datasets.discovery import load_dataset
from posecore.evaluation.protocols import evaluate
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.warm_start import warm_start
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.skeletons.library import load_skeleton
from tests.support.random_poses import paired_case

COCO_TO_GOLIATH = [0, 1, 2, 3, 4, 5, 6, 7, 8, 62, 41, 9, 10, 11, 12, 13, 14]
BACKBONES = [
    VitConfig(embed_dim=32, depth=1, num_heads=2, position="plain"),
    Sapiens2Config(embed_dim=32, depth=1, num_heads=2),
]


def _model(backbone: VitConfig | Sapiens2Config, *datasets: str) -> PoseModel:
    head = {"kind": "instance_norm", "deconv_channels": (8, 8), "conv_channels": (8,)}
    config = ModelConfig.model_validate(
        {"backbone": backbone, "head": head, "input_size": (64, 48), "blur_border": "zero"}
    )
    skeletons = {dataset: load_dataset(dataset).skeleton for dataset in datasets}
    model = build_model(config, skeletons)  # Sapiens' own conventions are the defaults, of 133 points too
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_the_308_points_are_grouped_as_published() -> None:
    """Wrists come behind their hands, right before left, apart from the body's other points."""
    goliath, coco = load_skeleton("goliath308"), load_skeleton("coco17")
    sizes = {group: len(goliath.indices_of_group(group)) for group in ("foot", "right_hand", "left_hand", "face")}
    assert sizes == {"foot": 6, "right_hand": 20, "left_hand": 20, "face": 238}
    assert goliath.indices_of_group("foot") == tuple(range(15, 21))
    assert goliath.indices_of_group("right_hand") == tuple(range(21, 41))
    assert goliath.indices_of_group("left_hand") == tuple(range(42, 62))
    assert goliath.indices_of_group("face") == tuple(range(70, 308))
    assert goliath.indices_of_group("body") == (*range(15), 41, 62, *range(63, 70))
    assert [goliath.union_names.index(union) for union in coco.union_names] == COCO_TO_GOLIATH
    assert sum(goliath.flip_indices == np.arange(308)) == 16


def test_the_published_hand_and_foot_points_are_those_of_wholebody() -> None:
    goliath, wholebody = load_skeleton("goliath308"), load_skeleton("coco_wholebody133")
    expected = {index + 17: index + 15 for index in range(6)}
    for tip, first in ((95, 42), (116, 21)):  # of the thumb; joints count down towards the palm, fingers are 4 apart
        for finger in range(5):
            expected |= {tip + 4 * finger - joint: first + 4 * finger + joint for joint in range(3)}
    for here, there in expected.items():
        assert wholebody.union_names[here] == goliath.union_names[there]
    assert set(goliath.union_names[70:]).isdisjoint(wholebody.union_names), "the 68 face points have no counterpart"


def test_the_308_constants_are_the_published_ones() -> None:
    goliath, coco = load_skeleton("goliath308"), load_skeleton("coco17")
    sigmas = goliath.oks_sigmas
    assert sigmas is not None
    assert set(sigmas[70:]) == {0.010}
    assert sigmas[COCO_TO_GOLIATH].tolist() == coco.oks_sigmas.tolist()
    assert sigmas[15:21].tolist() == [0.068, 0.066, 0.066, 0.092, 0.094, 0.094]
    for first in (21, 42):
        assert sigmas[first + 3 : first + 20 : 4].tolist() == [0.022, 0.026, 0.018, 0.017, 0.020]
    assert sigmas[63:70].tolist() == [0.072] * 4 + [0.079] * 3


@pytest.mark.parametrize("backbone", BACKBONES, ids=["sapiens", "sapiens2"])
def test_17_points_start_133_and_308(backbone: VitConfig | Sapiens2Config) -> None:
    parent, child = _model(backbone, "coco"), _model(backbone, "coco_wholebody", "goliath")
    warm_start(child, parent)
    known = parent.heads["coco"].final_layer.weight
    assert torch.equal(child.heads["goliath"].final_layer.weight[COCO_TO_GOLIATH], known)
    assert torch.equal(child.heads["coco_wholebody"].final_layer.weight[:17], known)
    assert torch.equal(child.heads["goliath"].deconv_layers[0].weight, parent.heads["coco"].deconv_layers[0].weight)
    images = torch.randn(1, 3, 64, 48)
    torch.testing.assert_close(
        child.predict(images, "goliath")[:, COCO_TO_GOLIATH], parent.predict(images, "coco"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dataset", ["coco_wholebody", "goliath"])
def test_all_points_are_predicted_and_a_mirrored_image_gives_mirrored_points(dataset: str) -> None:
    """With the flip test a prediction of the mirrored image is the mirror of the image's, sides swapped."""
    model = _model(BACKBONES[1], dataset)
    predictor = Predictor(model, PredictorSettings(flip_test=True))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    middle = [[0.0, 0.0, 47.0, 63.0]]  # its centre is that of the pixels, so the mirrored crop is the crop's mirror
    here, mirrored = predictor.predict([pixels, np.ascontiguousarray(pixels[:, ::-1])], [middle, middle])
    flip = model.skeletons[dataset].flip_indices
    assert here.keypoints.shape == (1, len(flip), 2)
    np.testing.assert_allclose(mirrored.keypoint_scores[:, flip], here.keypoint_scores, atol=1e-4)


@pytest.mark.parametrize("dataset", ["coco_wholebody", "goliath"])
def test_all_parts_are_judged_and_exact_points_score_better(dataset: str) -> None:
    definition = load_dataset(dataset)
    skeleton = definition.skeleton
    truth, predictions = paired_case(1, num_keypoints=skeleton.num_keypoints)
    exact = replace(predictions, keypoints=truth.keypoints[predictions.instance_row])
    metrics = evaluate(definition.evaluation, skeleton, truth, exact)
    noisy = evaluate(definition.evaluation, skeleton, truth, predictions)
    for part in ("body", "foot", "face", "lefthand", "righthand", "wholebody"):
        assert metrics[f"{part}/AP"] > noisy[f"{part}/AP"] >= 0, part
