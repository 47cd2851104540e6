"""The decoder of Sapiens and Sapiens2."""

import pytest
import torch
from torch import nn

from posecore.models.architecture import ModelConfig
from posecore.models.heads.instance_norm import InstanceNormHead, InstanceNormHeadConfig
from posecore.models.presets import PRESETS

TINY = InstanceNormHeadConfig(deconv_channels=(6, 5), conv_channels=(4, 3, 3))


@pytest.mark.parametrize("num_keypoints", [17, 133, 308])
@pytest.mark.parametrize(("preset", "million_308"), [("0.3b", 23.4), ("0.6b", 26.6), ("1b", 29.7), ("2b", 34.4)])
def test_published_sizes_of_sapiens(preset: str, million_308: float, num_keypoints: int) -> None:
    config = ModelConfig.model_validate({"backbone": f"sapiens-{preset}"})
    assert (config.input_size, config.heatmap_size) == ((1024, 768), (256, 192))
    assert (config.heatmap_sigma, config.blur_kernel, config.blur_border) == (6.0, 11, "zero")
    width = config.backbone.embed_dim
    with torch.device("meta"):
        head = config.head.build(width, num_keypoints, config.feature_size, config.input_size)
        count = sum(parameter.numel() for parameter in head.parameters())
    assert count == 16 * 768 * (width + 768) + 2 * 768 * 769 + num_keypoints * 769
    if num_keypoints == 308:
        assert round(count / 1e6, 1) == pytest.approx(million_308, abs=0.051)


@pytest.mark.parametrize(
    ("preset", "million", "heads", "head_dim"),
    [("0.3b", 306.2, 16, 64), ("0.6b", 634.6, 16, 80), ("1b", 1139.2, 24, 64), ("2b", 2131.9, 32, 60)],
)
def test_published_sizes_of_sapiens_encoders(preset: str, million: float, heads: int, head_dim: int) -> None:
    config = PRESETS[f"sapiens-{preset}"]["backbone"]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in config.build((1024, 768)).parameters())
    width, depth = config.embed_dim, config.depth
    assert count == depth * (12 * width**2 + 13 * width) + 769 * width + 64 * 48 * width + 2 * width
    assert round(count / 1e6, 1) == million
    assert (config.num_heads, width // config.num_heads) == (heads, head_dim)
    assert (config.patch_padding, config.drop_path, config.position) == (2, 0.0, "plain")


@pytest.mark.parametrize(
    ("preset", "deconv", "conv"),
    [
        ("0.4b", (1024, 768), (512, 512, 256)),
        ("0.8b", (1024, 768), (512, 512, 256)),
        ("1b", (1536, 1024), (768, 512, 256)),
        ("5b", (1024, 768), (512, 512, 256)),
    ],
)
def test_published_widths_of_sapiens2(preset: str, deconv: tuple[int, ...], conv: tuple[int, ...]) -> None:
    """The paper's appendix says 768, 768, 512 for 1B; the published configuration and weights do not."""
    config = ModelConfig.model_validate({"backbone": f"sapiens2-{preset}"})
    assert config.head == InstanceNormHeadConfig(deconv_channels=deconv, conv_channels=conv, initialisation="kaiming")
    assert (config.heatmap_size, config.heatmap_sigma) == ((256, 192), 6.0)


def test_norms_leave_no_trace_in_a_checkpoint() -> None:
    head = _head()
    names = {name.rsplit(".", 1)[0] for name in head.state_dict()}
    assert names == {f"deconv_layers.{i}" for i in (0, 3)} | {f"conv_layers.{i}" for i in (0, 3, 6)} | {"final_layer"}
    assert "deconv_layers.0.bias" not in head.state_dict()


@torch.no_grad()
def test_each_crop_is_normalised_by_itself_in_training_as_in_evaluation() -> None:
    head = _head()
    features = torch.randn(3, 8, 4, 3)
    heatmaps = head.train()(features)
    assert heatmaps.shape == (3, 2, 16, 12)
    torch.testing.assert_close(head.eval()(features), heatmaps)
    torch.testing.assert_close(head(features[1:2]), heatmaps[1:2])
    # Constant padding anywhere in the crop changes its statistics and so every heatmap pixel.
    padded = features[:1].clone()
    padded[..., -1] = 0
    assert not torch.allclose(head(padded)[..., :2], heatmaps[:1, :, :, :2], atol=1e-3)


@torch.no_grad()
def test_layers_are_convolution_norm_and_silu_written_out() -> None:
    head = _head()
    x = torch.randn(1, 8, 2, 2)
    expected = x
    for layer in (*head.deconv_layers[::3], *head.conv_layers[::3]):
        expected = layer(expected)
        mean = expected.mean((2, 3), keepdim=True)
        variance = (expected - mean).square().mean((2, 3), keepdim=True)
        expected = (expected - mean) / (variance + 1e-5).sqrt()
        expected = expected * torch.sigmoid(expected)
    torch.testing.assert_close(head(x), head.final_layer(expected))


def test_initial_weights_follow_the_publications() -> None:
    torch.manual_seed(0)
    wide = {"deconv_channels": (64, 64), "conv_channels": (64,)}
    normal = InstanceNormHeadConfig.model_validate(wide).build(64, 17, (4, 3), (64, 48))
    kaiming = InstanceNormHeadConfig.model_validate({**wide, "initialisation": "kaiming"}).build(
        64, 17, (4, 3), (64, 48)
    )
    spreads = [
        [module.weight.std().item() for module in head.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
        for head in (normal, kaiming)
    ]
    assert spreads[0] == pytest.approx([0.001] * 4, rel=0.1)
    # Fan out of a transposed convolution counts its input channels in PyTorch's order of axes.
    assert spreads[1] == pytest.approx([(2 / (64 * 16)) ** 0.5] * 2 + [(2 / 64) ** 0.5, (2 / 17) ** 0.5], rel=0.1)
    assert not any(parameter.any() for name, parameter in normal.named_parameters() if name.endswith("bias"))


def _head() -> InstanceNormHead:
    torch.manual_seed(0)
    head = TINY.build(8, 2, (4, 3), (64, 48)).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    return head
