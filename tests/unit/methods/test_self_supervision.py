import pytest
import torch
from torch import Tensor

from posecore.codecs.heatmap import HeatmapCodec
from posecore.methods.self_supervision import AgreementConfig, agreed_points

HEIGHT, WIDTH = 32, 24
CODEC = HeatmapCodec(kind="msra", input_size=(128, 96), heatmap_size=(HEIGHT, WIDTH))


def _map(x: float, y: float, height: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return height * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)


def _agree(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return agreed_points(first[None, None], second[None, None], CODEC, AgreementConfig())


@pytest.mark.parametrize(
    ("second", "agrees"),
    [
        ((4.0, 25.0, 0.8), True),
        ((6.0, 25.0, 0.8), True),
        ((4.0, 27.0, 0.8), True),
        ((7.0, 25.0, 0.8), False),
        ((4.0, 22.0, 0.8), False),
        ((5.0, 26.0, 0.8), True),
        ((6.0, 27.0, 0.8), False),
        ((4.0, 25.0, 0.24), False),
    ],
)
def test_points_agree_within_a_circle_anywhere_on_the_map(second: tuple[float, float, float], agrees: bool) -> None:
    """(4, 25) is far from the diagonal: the released distance, x − y for the second map, is 21 there."""
    targets, weights = _agree(_map(4.0, 25.0, 0.6), _map(*second))
    assert bool(weights.any()) is agrees
    assert bool(targets.any()) is agrees


def test_a_distant_point_on_the_diagonal_does_not_agree() -> None:
    """The released distance between (10, 20) and (10, 10) is 0, because it looks at the second map alone in y."""
    _, weights = _agree(_map(10.0, 20.0, 0.9), _map(10.0, 10.0, 0.9))
    assert not weights.any()


def test_the_label_is_the_mean_place_weighted_by_confidence() -> None:
    targets, weights = _agree(_map(9.8, 20.3, 0.9), _map(10.9, 19.4, 0.45))
    x, y = 9.8 * 2 / 3 + 10.9 / 3, 20.3 * 2 / 3 + 19.4 / 3
    expected = _map(x, y, 1.0)
    inside = targets[0, 0] > 0
    torch.testing.assert_close(targets[0, 0][inside], expected[inside], atol=0.06, rtol=0)
    peak = int(targets[0, 0].argmax())
    assert (peak % WIDTH, peak // WIDTH) == (round(x), round(y)), "not half the coordinates"
    lower = _map(10.9, 19.4, 0.45).amax().item()
    assert weights.item() == pytest.approx(lower)


def test_only_agreed_points_get_labels_and_gradients_stop_here() -> None:
    regression = torch.zeros(2, 3, HEIGHT, WIDTH)
    regression[0, 1], regression[1, 2] = _map(5, 6, 0.7), _map(12, 20, 0.7)
    prototypes = regression.clone()
    prototypes[1, 2] = _map(3, 28, 0.7)
    regression.requires_grad_()
    targets, weights = agreed_points(regression, prototypes, CODEC, AgreementConfig())
    assert weights.nonzero().tolist() == [[0, 1]]
    assert not targets.requires_grad
    assert targets.flatten(2).any(dim=2).nonzero().tolist() == [[0, 1]]


def test_nothing_agrees_in_an_empty_batch_or_on_empty_maps() -> None:
    for count in (0, 2):
        targets, weights = agreed_points(
            torch.zeros(count, 3, HEIGHT, WIDTH), torch.full((count, 3, HEIGHT, WIDTH), 1e-4), CODEC, AgreementConfig()
        )
        assert targets.shape == (count, 3, HEIGHT, WIDTH)
        assert not weights.any()
