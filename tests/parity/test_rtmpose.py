"""RTMPose's network, codec and loss against arrays of the published code; recipe in ``references/README.md``."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posecore.codecs.simcc import SimccCodec
from posecore.methods.simcc_loss import simcc_loss
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig

REFERENCE = np.load(Path(__file__).parent / "references" / "rtmpose.npz")
CODEC = SimccCodec(input_size=(96, 64))
GROUPS = [("people", 0, 3)]


def _wave(index: int, shape: tuple[int, ...], scale: float, shift: float = 0.0) -> Tensor:
    phase = (np.arange(np.prod(shape)) + 1.0 + index) ** 1.5
    return torch.from_numpy((shift + scale * np.sin(phase)).reshape(shape).astype(np.float32))


def _fill(name: str, index: int, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith((".weight", ".g", ".scale"))):
        return _wave(index, shape, 0.5, 1.0)
    if len(shape) == 1:
        return _wave(index, shape, 0.1)
    if name.endswith(("gamma", "beta")):
        return _wave(index, shape, 1.0)
    return _wave(index, shape, ((4 if len(shape) == 4 else 1) / np.prod(shape[1:])) ** 0.5)


def _model() -> nn.ModuleDict:
    backbone = CspnextConfig(deepen=0.34, widen=0.125).build((96, 64), ["people"])
    head = RtmccHeadConfig(token_dim=16, attention_dim=8).build(128, 5, (3, 2), (96, 64))
    model = nn.ModuleDict({"backbone": backbone, "head": head})
    names = sorted(name for name in model.state_dict() if not name.endswith("num_batches_tracked"))
    for index, name in enumerate(names):
        tensor = model.state_dict()[name]
        tensor.copy_(_fill(name, index, tuple(tensor.shape)))
    return model


def _both_axes(name: str) -> np.ndarray:
    return np.concatenate([REFERENCE[f"{name}_x"], REFERENCE[f"{name}_y"]], axis=-1)


@torch.no_grad()
def test_features_and_logits_are_the_published_ones() -> None:
    model, images = _model().eval(), _wave(0, (3, 3, 96, 64), 1.0)
    features = model["backbone"](images, GROUPS)
    scale = REFERENCE["features"].std()
    np.testing.assert_allclose(features.numpy() / scale, REFERENCE["features"] / scale, atol=1e-5)
    np.testing.assert_allclose(model["head"](features).numpy(), _both_axes("logits"), atol=1e-5)


@torch.no_grad()
def test_batchnorm_in_training_is_the_published_one() -> None:
    model = _model().train()
    features = model["backbone"](_wave(0, (3, 3, 96, 64), 1.0), GROUPS)
    np.testing.assert_allclose(features.numpy(), REFERENCE["features_training"], atol=1e-4)
    running = model["backbone"].stage4[2].final_conv.bn.running_var
    np.testing.assert_allclose(running.numpy(), REFERENCE["running_var"], rtol=1e-4)


@torch.no_grad()
def test_the_class_default_of_batchnorm_would_be_seen() -> None:
    model = _model().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3  # the default of the published class, which no published configuration uses
    features = model["backbone"](_wave(0, (3, 3, 96, 64), 1.0), GROUPS).numpy()
    assert np.abs(features - REFERENCE["features"]).max() > 1e-3 * REFERENCE["features"].std()


def test_targets_are_the_published_ones() -> None:
    keypoints, visible = torch.from_numpy(REFERENCE["keypoints"]), torch.from_numpy(REFERENCE["visible"])
    targets, weights = CODEC.encode(keypoints, visible)
    np.testing.assert_allclose(targets.numpy(), _both_axes("targets"), atol=1e-6)
    np.testing.assert_array_equal(weights.numpy(), REFERENCE["weights"])
    assert {0.0, 1.0} == set(REFERENCE["weights"][REFERENCE["visible"] > 0]), "some windows lie outside the crop"


def test_decoded_points_are_the_published_ones() -> None:
    lowered = torch.tensor([0, 0, 0.5, 2.5, 0, 1.999])
    points, scores = CODEC.decode(_wave(7, (2, 6, 320), 2.0) - lowered[:, None])
    np.testing.assert_allclose(points.numpy() / CODEC.split_ratio, REFERENCE["points"])
    np.testing.assert_allclose(scores.numpy(), REFERENCE["scores"], atol=1e-6)
    assert (REFERENCE["scores"] > 1).any()
    assert (REFERENCE["points"] == -0.5).any()


def test_the_flip_test_is_the_published_one() -> None:
    restored = CODEC.flip_back(torch.from_numpy(_both_axes("logits")), torch.tensor([0, 2, 1, 4, 3]), shift=False)
    np.testing.assert_array_equal(restored.numpy(), _both_axes("flipped"))


def test_the_loss_is_the_published_one() -> None:
    logits, targets, weights = (
        torch.from_numpy(a) for a in (_both_axes("logits"), _both_axes("targets"), REFERENCE["weights"])
    )
    published = simcc_loss(CODEC, logits, targets, weights, num_samples=1)
    np.testing.assert_allclose(published.item(), REFERENCE["loss"], rtol=1e-5)
    twice = simcc_loss(CODEC, logits.repeat(2, 1, 1), targets.repeat(2, 1, 1), weights.repeat(2, 1), num_samples=2)
    np.testing.assert_allclose(twice.item(), published.item(), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "num_keypoints", "input_size", "digest", "num_backbone", "num_head"),
    [
        ("t", 17, (256, 192), "06a0c935b031a335", 2_348_700, 988_307),
        ("t", 17, (384, 288), None, 2_348_700, 1_118_355),
        ("t", 133, (256, 192), None, 2_348_700, 3_171_079),
        ("t", 133, (384, 288), "79e3eb8b4ef6c56a", 2_348_700, 3_301_127),
        ("s", 17, (256, 192), "d517a549b40faf73", 4_378_320, 1_094_931),
        ("s", 17, (384, 288), None, 4_378_320, 1_224_979),
        ("s", 133, (256, 192), None, 4_378_320, 4_005_255),
        ("s", 133, (384, 288), "2bfd7f9fa8560d1f", 4_378_320, 4_135_303),
        ("m", 17, (256, 192), "265557701443eeb0", 12_279_432, 1_308_179),
        ("m", 17, (384, 288), None, 12_279_432, 1_438_227),
        ("m", 133, (256, 192), None, 12_279_432, 5_673_607),
        ("m", 133, (384, 288), "ca4bde71a9163898", 12_279_432, 5_803_655),
        ("l", 17, (256, 192), "bf628821c5204418", 26_138_912, 1_521_427),
        ("l", 17, (384, 288), None, 26_138_912, 1_651_475),
        ("l", 133, (256, 192), None, 26_138_912, 7_341_959),
        ("l", 133, (384, 288), "06d99c8abc4ae744", 26_138_912, 7_472_007),
        ("x", 17, (256, 192), "d9e7a9db2a866833", 47_569_560, 1_734_675),
        ("x", 17, (384, 288), None, 47_569_560, 1_864_723),
        ("x", 133, (256, 192), None, 47_569_560, 9_010_311),
        ("x", 133, (384, 288), "c93c5f0e19931c84", 47_569_560, 9_140_359),
    ],
)
def test_names_shapes_and_parameter_counts_are_the_published_ones(
    size: str, num_keypoints: int, input_size: tuple[int, int], digest: str | None, num_backbone: int, num_head: int
) -> None:
    """The digest is of the lines ``name shape`` of the published class's state, sorted; half of the rows have one."""
    config = ModelConfig.model_validate({"backbone": f"rtmpose-{size}", "input_size": input_size})
    with torch.device("meta"):
        backbone = config.backbone.build(input_size, ["people"])
        head = config.head.build(backbone.num_features, num_keypoints, config.feature_size, input_size)
    assert sum(p.numel() for p in backbone.parameters()) == num_backbone
    assert sum(p.numel() for p in head.parameters()) == num_head
    if digest is not None:
        state = nn.ModuleDict({"backbone": backbone, "head": head}).state_dict()
        lines = "\n".join(sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()))
        assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest
