import numpy as np
import pytest
import torch

from posecore.models.backbones.position import resize_position_embedding


def _cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as in PyTorch and OpenCV."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _weights(length: int, source: int) -> np.ndarray:
    """(length, source) matrix that resamples a line bicubically, pixel centres at .5, border repeated."""
    matrix = np.zeros((length, source))
    for i in range(length):
        place = (i + 0.5) * source / length - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[i, min(max(tap, 0), source - 1)] += _cubic(place - tap)
    return matrix


@pytest.mark.parametrize("slots", [0, 1])
@pytest.mark.parametrize(("source", "target"), [((14, 14), (16, 12)), ((16, 12), (24, 18)), ((6, 5), (3, 7))])
def test_equals_the_bicubic_formula(source: tuple[int, int], target: tuple[int, int], slots: int) -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, slots + source[0] * source[1], 3)
    resized = resize_position_embedding(embedding, target, source)
    grid = embedding[0, slots:].reshape(*source, 3).double().numpy()
    expected = np.einsum("ij,kl,jld->ikd", _weights(target[0], source[0]), _weights(target[1], source[1]), grid)
    np.testing.assert_allclose(resized[0, slots:].numpy(), expected.reshape(-1, 3), atol=1e-5)
    assert torch.equal(resized[:, :slots], embedding[:, :slots]), "the class-token slot is no place in the image"


def test_a_source_without_a_grid_is_a_square() -> None:
    embedding = torch.randn(1, 1 + 196, 2)
    assert resize_position_embedding(embedding, (16, 12)).shape == (1, 193, 2)
    assert torch.equal(
        resize_position_embedding(embedding[:, 1:], (16, 12)), resize_position_embedding(embedding, (16, 12))[:, 1:]
    )
    with pytest.raises(ValueError, match="193 rows is not that of a square; say which grid it has"):
        resize_position_embedding(torch.zeros(1, 193, 2), (24, 18))


def test_nothing_changes_on_the_same_grid_and_types_are_kept() -> None:
    embedding = torch.randn(1, 193, 2)
    assert resize_position_embedding(embedding, (16, 12), (16, 12)) is embedding
    assert resize_position_embedding(embedding.bfloat16(), (8, 6), (16, 12)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="195 rows does not belong to 16×12 tokens"):
        resize_position_embedding(torch.zeros(1, 195, 2), (8, 6), (16, 12))
