"""Sapiens against arrays of the published code; recipes in ``references/README.md``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from posecore.codecs.heatmap import HeatmapCodec
from posecore.methods.heatmap_loss import hardest_points_loss, heatmap_loss
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.backbones.position import resize_position_embedding
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.weights.layout import Translated
from posecore.models.weights.sapiens import SAPIENS
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.sapiens_files import filled, head, image, sapiens_encoder, wave

REFERENCES = Path(__file__).parent / "references"
FIVE = Skeleton(name="five", keypoints=tuple(Keypoint(name=str(i), union=str(i)) for i in range(5)))


@pytest.fixture(scope="module")
def reference() -> dict[str, NDArray[np.float32]]:
    return dict(np.load(REFERENCES / "sapiens.npz"))


def _built(translated: Translated) -> PoseModel:
    """The tiny model a file's tensors belong to, with exactly those tensors."""
    fields = translated.architecture
    backbone = VitConfig(embed_dim=32, depth=2, num_heads=2, **fields.pop("backbone"))
    config = ModelConfig.model_validate({"backbone": backbone, **fields})
    model = build_model(config, dict.fromkeys(translated.heads, FIVE)).eval()
    model.load_state_dict(translated.tensors)
    return model


WIDTHS = (32, 24, 20, 16, 12)
ENCODER = sapiens_encoder(32, 2, positions=12)


@torch.no_grad()
def test_encoder_and_head_are_the_published_ones(reference: dict[str, NDArray[np.float32]]) -> None:
    model = _built(SAPIENS.read(filled(ENCODER | head("head.", "final_layer", WIDTHS, 2, 5)), ["five"]))
    assert model.input_size == (64, 48)
    features = model.backbone(image(64, 48, 2))
    np.testing.assert_allclose(features, reference["features"], atol=1e-5)
    np.testing.assert_allclose(model.head("five")(features), reference["heatmaps"], atol=1e-5)


@torch.no_grad()
def test_depth_pads_no_patches_and_its_decoder_is_left_out(reference: dict[str, NDArray[np.float32]]) -> None:
    translated = SAPIENS.read(filled(ENCODER | head("decode_head.", "conv_seg", WIDTHS, 2, 1)), [])
    assert translated.heads == {}
    assert {name.split(".")[0] for name in translated.dropped} == {"decode_head"}
    features = _built(translated).backbone(image(64, 48, 2))
    np.testing.assert_allclose(features, reference["features_depth"], atol=1e-5)
    assert np.abs(reference["features_depth"] - reference["features"]).max() > 0.1


@torch.no_grad()
def test_pre_training_loses_its_class_slot_and_is_resized(reference: dict[str, NDArray[np.float32]]) -> None:
    shapes = sapiens_encoder(32, 2, positions=17, prefix="") | {"cls_token": (1, 1, 32)}
    translated = SAPIENS.read(filled(shapes), [])
    assert list(translated.dropped) == ["cls_token"]
    assert translated.architecture["input_size"] == (64, 64)
    assert translated.architecture["backbone"]["patch_padding"] == 0
    positions = resize_position_embedding(translated.tensors["backbone.pos_embed"], (4, 3), (4, 4))
    np.testing.assert_allclose(positions, reference["pos_embed_pretrained"], atol=1e-6)
    # Published fine-tuning pads patches by 2 on top of weights that were trained without padding.
    fine_tuned = ModelConfig(
        backbone=VitConfig(embed_dim=32, depth=2, num_heads=2, position="plain"), input_size=(64, 48)
    )
    model = PoseModel(ModelCard(architecture=fine_tuned, skeletons={}, conventions={})).eval()
    model.load_state_dict(translated.tensors | {"backbone.pos_embed": positions})
    np.testing.assert_allclose(model.backbone(image(64, 48, 2)), reference["features_pretrained"], atol=1e-5)


def test_targets_and_decoding_at_sigma_six_are_the_published_ones() -> None:
    reference = np.load(REFERENCES / "sapiens_codec.npz")
    points = [[100.3, 200.7], [383, 510], [0.2, 1023.4], [766.9, 3], [-71, 500], [-40, 1060], [600, 600]]
    config = ModelConfig.model_validate({"backbone": "sapiens-0.3b"})
    codec = HeatmapCodec(
        input_size=config.input_size,
        heatmap_size=config.heatmap_size,
        heatmap_sigma=config.heatmap_sigma,
        blur_kernel=config.blur_kernel,
        blur_border=config.blur_border,
    )
    maps, weights = codec.encode(torch.tensor([points]), torch.tensor([[1.0] * 6 + [0.0]]))
    np.testing.assert_allclose(maps[0], reference["maps"], atol=1e-5)
    np.testing.assert_array_equal(weights, reference["weights"])
    noisy = torch.from_numpy(reference["maps"]) + 0.02 * wave(reference["maps"].shape, 0.2)
    decoded, scores = codec.decode(noisy[None])
    frame = torch.tensor([768 / 191, 1024 / 255])  # the published decoder answers in the crop's frame
    # The last map is noise alone, whose largest values tie.
    np.testing.assert_allclose((decoded * frame)[:, :6], reference["points"][:, :6], atol=0.01)
    np.testing.assert_allclose(scores, reference["scores"], atol=1e-6)


def test_losses_are_the_published_ones(reference: dict[str, NDArray[np.float32]]) -> None:
    shape = (2, 300, 6, 5)
    predicted, target, weights = wave(shape, 0.1), wave(shape, 0.9), (wave(shape[:2], 0.3) > -0.4).float()
    assert heatmap_loss(predicted, target, weights, 2).item() == pytest.approx(float(reference["mse"]), rel=1e-5)
    hardest = hardest_points_loss(predicted, target, weights, 2, hardest_points=128)
    assert hardest.item() == pytest.approx(float(reference["ohkm"]), rel=1e-5)
