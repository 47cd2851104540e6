"""Sapiens2 against ``transformers`` and against arrays of the published code; recipes in ``references/README.md``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from posecore.models.architecture import ModelConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config, rotation, rotation_periods
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.weights.huggingface_sapiens2 import HUGGINGFACE_SAPIENS2
from posecore.models.weights.layout import Layout
from posecore.models.weights.sapiens2 import SAPIENS2
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.sapiens_files import filled, head, image, sapiens2_encoder

REFERENCE = Path(__file__).parent / "references" / "sapiens2.npz"
FIVE = Skeleton(name="five", keypoints=tuple(Keypoint(name=str(i), union=str(i)) for i in range(5)))
WIDTHS = (32, 24, 16, 12, 12, 8)


@pytest.fixture(scope="module")
def reference() -> dict[str, NDArray[np.float32]]:
    return dict(np.load(REFERENCE))


def _read(tensors: dict[str, Tensor], layout: Layout, backbone: Sapiens2Config) -> PoseModel:
    translated = layout.read(tensors, ["five"])
    config = ModelConfig.model_validate({"backbone": backbone, "input_size": (80, 48), **translated.architecture})
    model = build_model(config, {"five": FIVE}).eval()
    model.load_state_dict(translated.tensors)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "bf16"), ("float32", "fp32")])
def test_encoder_and_head_are_the_published_ones(
    dtype: str, stored: str, reference: dict[str, NDArray[np.float32]]
) -> None:
    backbone = Sapiens2Config.model_validate({"embed_dim": 32, "depth": 18, "num_heads": 4, "rope_dtype": dtype})
    file = filled(sapiens2_encoder(32, 18, num_heads=4) | head("decode_head.", "conv_pose", WIDTHS, 2, 5))
    model = _read(file, SAPIENS2, backbone)
    features = model.backbone(image(80, 48, 2))
    np.testing.assert_allclose(features, reference[f"features_{stored}"], atol=1e-5)
    np.testing.assert_allclose(model.head("five")(features), reference[f"heatmaps_{stored}"], atol=1e-5)
    # What would pass for the other precision is no test of this one.
    other = {"bf16": "fp32", "fp32": "bf16"}[stored]
    assert np.abs(features.numpy() - reference[f"features_{other}"]).max() > 1e-4


@torch.no_grad()
def test_tokenizer_is_the_published_one(reference: dict[str, NDArray[np.float32]]) -> None:
    backbone = Sapiens2Config(embed_dim=32, depth=2, num_heads=4, tokenizer_depth=2).build((256, 192), ())
    backbone.load_state_dict(filled(sapiens2_encoder(32, 2, num_heads=4, tokenizer=2, prefix="")))
    np.testing.assert_allclose(backbone(image(256, 192)), reference["features_4k"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "head_dim", "grid", "step"),
    [
        ("64", 64, (64, 48), 97),
        ("80", 80, (64, 48), 97),
        ("76", 76, (64, 48), 97),
        ("64_tall", 64, (192, 2), 31),
    ],
)
def test_rotation_is_computed_in_bfloat16_as_published(
    name: str, head_dim: int, grid: tuple[int, int], step: int, reference: dict[str, NDArray[np.float32]]
) -> None:
    sines, cosines = rotation(grid, head_dim, torch.bfloat16)
    assert sines.dtype == torch.bfloat16
    np.testing.assert_array_equal(sines[::step].float(), reference[f"sin_{name}"])
    np.testing.assert_array_equal(cosines[::step].float(), reference[f"cos_{name}"])
    np.testing.assert_array_equal(rotation_periods(head_dim, torch.bfloat16).float(), reference[f"periods_{name}"])
    exact, _ = rotation(grid, head_dim, torch.float32)
    assert 0.01 < (exact - sines).abs().max() < 0.1


def _huggingface() -> transformers.Sapiens2ForPoseEstimation:
    config = transformers.Sapiens2Config(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        num_first_full_attention_layers=1,
        num_last_full_attention_layers=1,
        image_size=[80, 48],
        pos_embed_rescale=None,
        head_config={"upsample_out_channels": [24, 16], "conv_out_channels": [12, 12, 8]},
        num_labels=5,
    )
    model = transformers.Sapiens2ForPoseEstimation(config).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor + name.endswith("norm1.weight") for name, tensor in filled(shapes).items()})
    return model


HF_TWIN = Sapiens2Config(embed_dim=32, depth=4, num_heads=4, num_full_blocks=1, rope_dtype="float32")


@torch.no_grad()
@pytest.mark.parametrize(("layout", "original"), [(SAPIENS2, True), (HUGGINGFACE_SAPIENS2, False)])
@pytest.mark.parametrize("size", [(80, 48), (48, 112)])
def test_heatmaps_are_those_of_transformers(
    layout: Layout, original: bool, size: tuple[int, int], tmp_path: Path
) -> None:
    """Grouped keys, normalised queries, gate order and registers: a wrong one of them shows in the heatmaps."""
    theirs = _huggingface()
    theirs.save_pretrained(tmp_path, save_original_format=original)
    tensors = load_file(tmp_path / "model.safetensors")
    assert layout.recognises(tensors)
    ours = _read(tensors, layout, HF_TWIN)
    pixels = image(*size, 2)
    expected = theirs(pixels).heatmaps
    assert expected.abs().mean() > 0.05
    torch.testing.assert_close(ours.predict(pixels, "five"), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("layout", [SAPIENS2, HUGGINGFACE_SAPIENS2])
def test_transformers_reads_what_we_write(layout: Layout, tmp_path: Path) -> None:
    ours = _read(_huggingface().state_dict(), HUGGINGFACE_SAPIENS2, HF_TWIN)
    config = HUGGINGFACE_SAPIENS2.write(ours).config
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(layout.write(ours).tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs, loading = transformers.Sapiens2ForPoseEstimation.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    assert set(loading["unexpected_keys"]) <= {"backbone.rope_embed.periods", "model.rope_embed.periods"}
    pixels = image(80, 48)
    expected = ours.predict(pixels, "five")
    torch.testing.assert_close(theirs.eval()(pixels).heatmaps, expected, atol=1e-5, rtol=0)
    # In training their default configuration would move the positions; the one we write does not.
    torch.testing.assert_close(theirs.train()(pixels).heatmaps, expected, atol=1e-5, rtol=0)
