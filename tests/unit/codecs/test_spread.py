"""How blurred an output is around its point, against closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.codec import Codec
from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.scene import SceneReading
from posecore.codecs.simcc import SimccCodec
from posecore.codecs.spread import ROUNDED, at_least
from posecore.errors import ConfigError
from posecore.geometry import covariance_to_image, heatmap_to_image
from posecore.skeletons.skeleton import Skeleton

MAP = HeatmapCodec()
DOT = Skeleton.model_validate({"name": "dot", "keypoints": [{"name": "dot", "union": "nose"}]})
STRIDE = torch.tensor([191 / 47, 255 / 63])


def gaussian(center: tuple[float, float], covariance: list[list[float]], height: int = 64, width: int = 48) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = torch.stack([columns - center[0], rows - center[1]], dim=-1).double()
    inverse = torch.linalg.inv(torch.tensor(covariance, dtype=torch.float64))
    return torch.exp(-0.5 * torch.einsum("hwi,ij,hwj->hw", offset, inverse, offset)).float()[None, None]


@pytest.mark.parametrize("kind", ["udp", "msra"])
@pytest.mark.parametrize("place", [(20.0, 30.0), (20.4, 30.7), (1.0, 2.0), (46.5, 62.9)])
def test_what_is_drawn_has_no_spread_but_that_of_rounding(kind: str, place: tuple[float, float]) -> None:
    codec = HeatmapCodec(kind=kind)
    stride = STRIDE if kind == "udp" else torch.tensor([4.0, 4.0])
    point = torch.tensor([[place]])
    maps, _ = codec.encode(point * stride, torch.ones(1, 1))
    drawn_at = point if kind == "udp" else torch.trunc(point + 0.5)
    expected = ROUNDED * torch.eye(2)
    torch.testing.assert_close(codec.covariances(maps, drawn_at)[0, 0], expected, atol=1e-4, rtol=0)


def test_the_spread_of_a_broader_gaussian_is_what_it_has_beyond_the_drawn_one() -> None:
    """A window of four sigmas cuts tails off: a tenth of what is found is lost at 1.5 of the drawn sigma's 2."""
    wanted = [[1.5**2, 0.6], [0.6, 1.0]]
    maps = gaussian((22.3, 31.8), [[wanted[0][0] + 4, 0.6], [0.6, wanted[1][1] + 4]])
    found = MAP.covariances(maps, torch.tensor([[[22.3, 31.8]]]))[0, 0]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0.1, atol=0.02)


def test_two_places_have_the_variance_of_the_places_about_the_answer() -> None:
    points = torch.tensor([[[18.0, 30.0], [22.0, 30.0]]]) * STRIDE
    maps, _ = MAP.encode(points, torch.ones(1, 2))
    mixed = maps.mean(dim=1, keepdim=True)
    found = MAP.covariances(mixed, torch.tensor([[[20.0, 30.0]]]))[0, 0]
    torch.testing.assert_close(found, torch.tensor([[4.0, 0.0], [0.0, ROUNDED]]), atol=0.05, rtol=0)
    told = MAP.covariances(mixed, torch.tensor([[[21.0, 30.0]]]))[0, 0]
    assert told[0, 0] == pytest.approx(5.0, abs=0.1), "one pixel away the mean square is larger by its square"


def test_a_negative_map_and_a_point_that_is_none() -> None:
    maps = torch.full((1, 2, 64, 48), -1.0)
    points, _ = MAP.decode(maps)
    assert MAP.covariances(maps, points).isnan().all()
    assert MAP.covariances(maps, torch.tensor([[[5.0, 5.0], [-1.0, -1.0]]])).isfinite().sum() == 4


def test_each_body_of_a_whole_picture_has_the_spread_around_its_own_peak() -> None:
    """Two bodies on one finer map, one as it is drawn and one broader; the coarser maps say where they are."""
    codec = AssociativeCodec(input_size=(512, 384), heatmap_size=(128, 96))
    places, wanted = [(40.3, 60.8), (150.2, 200.4)], [[ROUNDED, 0.0, ROUNDED], [1.5**2, 0.6, 1.0]]
    matrices = [[[4.0, 0.0], [0.0, 4.0]], [[1.5**2 + 4, 0.6], [0.6, 1.0 + 4]]]
    fine = sum(gaussian(place, matrix, 256, 192) for place, matrix in zip(places, matrices, strict=True))
    assert isinstance(fine, Tensor)
    stride = torch.tensor([383 / 191, 511 / 255])
    coarse, _ = codec.draw(torch.tensor(places)[None, :, None] * stride, torch.ones(1, 2, 1))
    tags = 10.0 * (torch.arange(128)[:, None] > 64).expand(128, 96)
    outputs = torch.cat([coarse.flatten(2), tags.flatten()[None, None], fine.flatten(2)], dim=2)
    (bodies,) = codec.bodies(outputs, None, DOT, SceneReading())
    order = np.argsort(bodies.keypoints[:, 0, 1])
    np.testing.assert_allclose(bodies.keypoints[order, 0], places, atol=0.6)
    assert bodies.covariances is not None
    found = bodies.covariances[order, 0].reshape(2, 4)[:, [0, 1, 3]]
    # About a place that is found to a quarter pixel the mean square is larger by the square of what it is off.
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=0.15)
    mirrored = torch.cat([coarse.flip(-1).flatten(2), tags.flip(-1).flatten()[None, None], fine.flip(-1).flatten(2)], 2)
    (twice,) = codec.bodies(outputs, mirrored, DOT, SceneReading())
    np.testing.assert_allclose(twice.covariances, bodies.covariances, rtol=1e-4, atol=1e-4)

    alone = torch.cat([coarse.flatten(2), tags.flatten()[None, None], torch.zeros_like(fine).flatten(2)], dim=2)
    (unsure,) = codec.bodies(alone, None, DOT, SceneReading())
    assert len(unsure.keypoints) == 2
    assert np.isnan(unsure.covariances).all(), "the finer map says nothing"


@pytest.mark.parametrize("place", [(100.0, 200.0), (3.0, 508.0)])
def test_a_bin_as_it_is_drawn_has_no_spread(place: tuple[float, float]) -> None:
    codec = SimccCodec()
    outputs, _ = codec.encode(torch.tensor([[place]]) / 2, torch.ones(1, 1))
    points, _ = codec.decode(outputs)
    expected = ROUNDED * torch.eye(2)
    torch.testing.assert_close(codec.covariances(outputs, points)[0, 0], expected, atol=1e-3, rtol=0)


def test_the_mean_of_two_distributions_of_bins_has_the_variance_of_their_places() -> None:
    """The divergence's best answer to two equally likely places is the mean of their targets' distributions."""
    codec = SimccCodec()
    drawn, _ = codec.encode(torch.tensor([[[49.0, 100.0], [51.0, 100.0]]]), torch.ones(1, 2))
    x, y = (torch.softmax(10 * line, dim=-1).mean(dim=1, keepdim=True).log() / 10 for line in codec.split(drawn))
    found = codec.covariances(torch.cat([x, y], dim=-1), torch.tensor([[[100.0, 200.0]]]))[0, 0]
    torch.testing.assert_close(found, torch.tensor([[4.0, 0.0], [0.0, ROUNDED]]), atol=0.05, rtol=0)


def test_a_codec_that_does_not_say_says_so() -> None:
    class Silent(Codec):
        kind: str = "silent"

    with pytest.raises(ConfigError, match="read by silent does not say how sure it is"):
        Silent(input_size=(8, 8)).covariances(torch.zeros(1, 1, 4), torch.zeros(1, 1, 2))


def test_matrices_are_raised_to_the_least_eigenvalue_and_no_further() -> None:
    random = torch.Generator().manual_seed(0)
    some = torch.randn(50, 2, 2, generator=random)
    some = some + some.transpose(1, 2)
    found = at_least(some, 0.5)
    values, axes = torch.linalg.eigh(some)
    expected = axes @ torch.diag_embed(values.clamp(min=0.5)) @ axes.transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    same = 2 * torch.eye(2)[None]
    torch.testing.assert_close(at_least(same, 0.5), same)


@pytest.mark.parametrize("kind", ["udp", "msra"])
def test_covariances_go_to_the_image_as_offsets_do(kind: str) -> None:
    random = np.random.default_rng(0)
    points, scale = random.normal(size=(200, 1, 2)), np.array([[90.0, 120.0]]).repeat(200, 0)
    center = np.zeros((200, 2))
    image = heatmap_to_image(points, center, scale, (64, 48), kind)[:, 0]
    own = np.cov(points[:, 0].T)[None, None]
    np.testing.assert_allclose(covariance_to_image(own, scale[:1], (64, 48), kind)[0, 0], np.cov(image.T), rtol=1e-9)
