import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.models.heads.classic import ClassicHeadConfig, SimpleHeadConfig


@pytest.mark.parametrize(
    ("width", "classic", "simple"),
    [(384, 2.63, 0.059), (768, 4.20, 0.118), (1024, 5.25, 0.157), (1280, 6.30, 0.196)],
)
def test_published_sizes(width: int, classic: float, simple: float) -> None:
    counts = [
        sum(parameter.numel() for parameter in config.build(width, 17, (16, 12), (256, 192)).parameters())
        for config in (ClassicHeadConfig(), SimpleHeadConfig())
    ]
    assert counts == [16 * width * 256 + 16 * 256 * 256 + 4 * 256 + 17 * 257, 17 * (9 * width + 1)]
    assert round(counts[0] / 1e6, 2) == classic
    assert round(counts[1] / 1e6, 3) == simple


def _deconvolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Transposed 4×4 convolution, stride 2, padding 1, as a scatter of every input pixel."""
    _, height, width = x.shape
    out = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            stamp = np.einsum("c,cokl->okl", x[:, row, column], weight)
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return out[:, 1:-1, 1:-1]


def test_classic_equals_a_scatter_of_stamps() -> None:
    torch.manual_seed(0)
    head = ClassicHeadConfig(channels=3).build(5, 2, (4, 3), (64, 48)).double().eval()
    with torch.no_grad():
        for tensor in head.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.1)
    features = torch.randn(1, 5, 4, 3, dtype=torch.float64)
    state = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    x = features[0].numpy()
    for conv, norm in ((0, 1), (3, 4)):
        x = _deconvolve(x, state[f"deconv_layers.{conv}.weight"])
        name = f"deconv_layers.{norm}"
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        x = (x - state[f"{name}.running_mean"][:, None, None]) * scale[:, None, None]
        x = np.maximum(x + state[f"{name}.bias"][:, None, None], 0)
    expected = np.einsum("chw,oc->ohw", x, state["final_layer.weight"][:, :, 0, 0])
    expected += state["final_layer.bias"][:, None, None]
    np.testing.assert_allclose(head(features)[0].detach().numpy(), expected, atol=1e-10)


def test_simple_applies_relu_before_upsampling() -> None:
    head = SimpleHeadConfig().build(1, 1, (4, 3), (64, 48))
    with torch.no_grad():
        head.final_layer.weight.zero_()
        head.final_layer.weight[0, 0, 1, 1] = 1.0
    features = torch.tensor([[[[-8.0, 8.0]]]])
    out = head(features)[0, 0, 0]
    # Bilinear ×4 between 0 and 8; of -8 and 8, the middle would be 0 and the left half negative.
    assert out.tolist() == pytest.approx([0, 0, 1, 3, 5, 7, 8, 8])


def test_initial_heatmaps_are_almost_zero() -> None:
    torch.manual_seed(0)
    head = ClassicHeadConfig().build(64, 17, (16, 12), (256, 192))
    weight: Tensor = head.deconv_layers[0].weight
    assert weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert head.final_layer.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not head.final_layer.bias.any()
