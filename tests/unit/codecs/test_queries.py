"""Sets of bodies: places and pixels, what is answered of the last layer, covariances, points, and other sizes."""

import math

import numpy as np
import pytest
import torch

from posecore.codecs.queries import QueryCodec
from posecore.codecs.scene import SceneReading, SelectionConfig
from posecore.methods.belief import believed
from tests.support.tiny_training import tiny_skeleton

CODEC = QueryCodec(input_size=(32, 48))


def _outputs(num_queries: int = 6, num_points: int = 3) -> torch.Tensor:
    outputs = torch.rand(2, 3, num_queries, 5 + 5 * num_points, generator=torch.Generator().manual_seed(0))
    outputs[..., 0] = 6 * outputs[..., 0] - 3
    return outputs


def test_shares_and_pixels_are_each_others_inverse_and_mirror_each_other():
    points = torch.tensor([[0.0, 0.0], [47.0, 31.0], [23.5, 15.5]])
    shares = CODEC.shares(points)
    torch.testing.assert_close(CODEC.pixels(shares), points)
    torch.testing.assert_close(shares[2], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(shares[0] + shares[1], torch.ones(2))


def test_the_surest_of_the_last_layer_are_answered_in_falling_order():
    outputs, reading = _outputs(), SceneReading(selection=SelectionConfig(max_bodies=4, least_score=0.3))
    for image, bodies in enumerate(CODEC.bodies(outputs, None, tiny_skeleton("people", 3), reading)):
        chances = outputs[image, -1, :, 0].sigmoid()
        order = [query for query in chances.argsort(descending=True).tolist()[:4] if chances[query] >= 0.3]
        assert len(order) < 6
        np.testing.assert_allclose(bodies.scores, chances[order], rtol=1e-6)
        for row, query in enumerate(order):
            line = outputs[image, -1, query]
            x, y, w, h = (line[1:5] * torch.tensor([48, 32, 48, 32])).tolist()
            expected = [x - w / 2 - 0.5, y - h / 2 - 0.5, x + w / 2 - 0.5, y + h / 2 - 0.5]
            np.testing.assert_allclose(bodies.bbox_xyxy[row], expected, atol=1e-4)
            for point in range(3):
                u, v, a, b, c = line[5 + 5 * point : 10 + 5 * point].tolist()
                np.testing.assert_allclose(bodies.keypoints[row, point], [48 * u - 0.5, 32 * v - 0.5], atol=1e-4)
                factor = math.sqrt(w * h) * np.array([[math.exp(a), 0], [c, math.exp(b)]])
                covariance = factor @ factor.T
                np.testing.assert_allclose(bodies.covariances[row, point], covariance, rtol=1e-4)
                variance = max(1.0, 0.01 * w * h)
                likely = variance / math.sqrt(np.linalg.det(covariance + variance * np.eye(2)))
                assert bodies.keypoint_scores[row, point] == pytest.approx(chances[query].item() * likely, rel=1e-4)


def test_fewer_queries_than_are_asked_for_are_all_there_is():
    scores, boxes, points, point_scores, covariances = CODEC.answers(_outputs(num_queries=2), 50)
    assert (scores.shape, boxes.shape, points.shape) == ((2, 2), (2, 2, 4), (2, 2, 3, 2))
    assert (point_scores.shape, covariances.shape) == ((2, 2, 3), (2, 2, 3, 2, 2))
    assert torch.linalg.eigvalsh(covariances).min() > 0


def test_some_points_of_bodies():
    outputs = _outputs()
    said, some = CODEC.split(outputs), CODEC.split(CODEC.of_points(outputs, (2, 0)))
    assert torch.equal(some.boxes, said.boxes)
    assert torch.equal(some.points, said.points[..., [2, 0], :])
    assert torch.equal(some.factors, said.factors[..., [2, 0], :])


def test_a_larger_teacher_says_the_same_of_the_picture():
    """It is shown the picture enlarged so that the centres of the outermost pixels stay where they are."""
    teacher, outputs = QueryCodec(input_size=(64, 96)), _outputs()
    said, theirs = CODEC.split(believed(outputs, teacher, CODEC)), teacher.split(outputs)
    factor = torch.tensor([47 / 95, 31 / 63])
    torch.testing.assert_close(CODEC.pixels(said.points), teacher.pixels(theirs.points) * factor)
    sizes = said.boxes[..., 2:] * torch.tensor([48, 32])
    torch.testing.assert_close(sizes, theirs.boxes[..., 2:] * torch.tensor([96, 64]) * factor)
    assert torch.equal(said.logits, theirs.logits)
    assert torch.equal(believed(outputs, teacher, teacher), outputs)
