"""What sets of bodies are trained with: against loops, permutations, closed forms, and values known beforehand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.queries import QueryCodec
from posecore.errors import ConfigError
from posecore.evaluation.oks import similarity
from posecore.methods.batch import DeviceGroup
from posecore.methods.bodies import excused, labelled_bodies
from posecore.methods.denoising import DenoisingConfig, noised_bodies
from posecore.methods.likelihood import gaussian_nats, laplace_nats
from posecore.methods.matching import focal_loss, generalised_iou, match_bodies
from posecore.methods.set_loss import SetPrediction
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.skeletons.skeleton import Skeleton
from tests.support.tiny_training import tiny_skeleton

CODEC = QueryCodec(input_size=(32, 48))
SKELETON = tiny_skeleton("people", 4)
HEAD = {"kind": "queries", "num_queries": 4, "channels": 8, "num_layers": 2, "num_heads": 2, "hidden": 16}


def _group(seed: int = 0, num_images: int = 3, num_bodies: int = 3) -> DeviceGroup:
    """Pictures of bodies of four points, of which some are not labelled or outside; the last picture has nobody."""
    random = np.random.default_rng(seed)
    keypoints = random.uniform((-4, -4), (52, 36), (num_images, num_bodies, 4, 2)).astype(np.float32)
    labelled = random.random((num_images, num_bodies, 4)) < 0.7
    labelled[-1] = False
    boxes = np.concatenate([keypoints.min(2), keypoints.max(2)], axis=2)
    boxes[-1] = (0, 0, -1, -1)
    return DeviceGroup(
        dataset="people",
        start=0,
        stop=num_images,
        keypoints_crop=torch.from_numpy(keypoints),
        weights=torch.from_numpy(labelled.astype(np.float32)),
        scale=torch.ones(num_images, 2),
        seeds=torch.arange(num_images),
        ignored=torch.zeros(num_images, 16, 24, dtype=torch.uint8),
        bbox_crop=torch.from_numpy(boxes),
        unstated=torch.from_numpy(~labelled),
    )


def _outputs(seed: int = 0, num_images: int = 3, num_layers: int = 2, num_queries: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.rand(num_images, num_layers, num_queries, 5 + 5 * 4, generator=generator)
    outputs[..., 0] = 4 * outputs[..., 0] - 2
    outputs[..., 3:5] = 0.1 + outputs[..., 3:5] / 2
    return outputs


def slow_giou(box, other):
    """Of (left, top, right, bottom)."""
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, other)]
    union = sum(areas) - width * height
    around = (max(box[2], other[2]) - min(box[0], other[0])) * (max(box[3], other[3]) - min(box[1], other[1]))
    return width * height / union - (around - union) / around


def corners(box):
    x, y, w, h = (float(side) for side in box)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def slow_focal(probability, target):
    return (
        -0.25 * (1 - probability) ** 2 * math.log(probability)
        if target
        else (-0.75 * probability**2 * math.log(1 - probability))
    )


def slow_parts(loss, line, box, points, weights, sigmas):
    """What a query costs as a body, and what is to become small: without its score, and with the likelihood."""
    said, cost = line[5:].reshape(-1, 5), 0.0
    cost += loss.box_weight * sum(abs(a - b) for a, b in zip(line[1:5].tolist(), box.tolist(), strict=True))
    cost += loss.overlap_weight * (1 - slow_giou(corners(line[1:5]), corners(box)))
    area_px = 0.53 * float(box[2]) * 48 * float(box[3]) * 32
    labelled = [k for k in range(4) if weights[k] > 0]
    nats = 0.0
    for k in labelled:
        dx, dy = float(said[k, 0] - points[k, 0]), float(said[k, 1] - points[k, 1])
        squared = (48 * dx) ** 2 + (32 * dy) ** 2
        cost += loss.place_weight * (abs(dx) + abs(dy)) / len(labelled)
        cost += loss.similarity_weight * (1 - math.exp(-squared / (2 * area_px * (2 * sigmas[k]) ** 2))) / len(labelled)
        side = math.sqrt(float(line[3]) * 48 * float(line[4]) * 32)
        factor = side * np.array([[math.exp(said[k, 2]), 0], [said[k, 4], math.exp(said[k, 3])]])
        spread = factor @ factor.T
        for error, variance in ((48 * dx, spread[0, 0]), (32 * dy, spread[1, 1])):
            scale = math.sqrt(variance / 2)
            nats += (abs(error) / scale + math.log(2 * scale)) / len(labelled)
    return cost, cost + loss.likelihood_weight * nats


@pytest.mark.parametrize("seed", range(4))
def test_the_whole_loss_spelled_out_by_trying_every_assignment(seed):
    loss = SetPrediction(distribution="laplace")
    group, outputs = _group(seed), _outputs(seed)
    bodies, sigmas, expected = labelled_bodies(CODEC, group), SKELETON.oks_sigmas, 0.0
    group.weights[~bodies.there] = 0  # of bodies that are all outside nothing is known, and nobody is punished there
    for image, layer in itertools.product(range(3), range(2)):
        rows = [row for row in range(3) if bodies.there[image, row]]
        lines = outputs[image, layer]
        chances = lines[:, 0].sigmoid().tolist()
        parts = {
            (query, row): slow_parts(
                loss,
                lines[query],
                bodies.boxes[image, row],
                bodies.points[image, row],
                bodies.weights[image, row],
                sigmas,
            )
            for query in range(5)
            for row in rows
        }

        def cost(queries, parts=parts, rows=rows, chances=chances):
            of_scores = sum(slow_focal(chances[query], True) - slow_focal(chances[query], False) for query in queries)
            return loss.score_weight * of_scores + sum(parts[pair][0] for pair in zip(queries, rows, strict=True))

        best = min(itertools.permutations(range(5), len(rows)), key=cost)
        of_image = sum(loss.score_weight * slow_focal(chances[query], query in best) for query in range(5))
        of_image += sum(parts[pair][1] for pair in zip(best, rows, strict=True))
        expected += of_image / max(1, len(rows)) / 7
    assert loss.scene(CODEC, outputs, group, 7, SKELETON).item() == pytest.approx(expected, rel=1e-4)


def test_more_bodies_than_queries_leave_those_out_that_fit_worst():
    cost = torch.tensor([[[5.0, 1.0, 3.0], [4.5, 2.0, 9.0]]])
    assert match_bodies(cost, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[2, 1]]
    group, outputs = _group(num_bodies=9), _outputs(num_queries=2)
    assert math.isfinite(SetPrediction().scene(CODEC, outputs, group, 3, SKELETON).item())


@pytest.mark.parametrize("seed", range(20))
def test_matching_is_the_best_of_all_permutations(seed):
    generator = torch.Generator().manual_seed(seed)
    cost, there = torch.randn(1, 5, 4, generator=generator), torch.rand(1, 4, generator=generator) < 0.7
    rows = there[0].nonzero()[:, 0].tolist()
    best = min(
        itertools.permutations(range(5), len(rows)),
        key=lambda queries: sum(float(cost[0, query, row]) for query, row in zip(queries, rows, strict=True)),
    )
    expected = [-1] * 5
    for query, row in zip(best, rows, strict=True):
        expected[query] = row
    assert match_bodies(cost, there)[0].tolist() == expected


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        ((0.5, 0.5, 0.2, 0.4), (0.5, 0.5, 0.2, 0.4), 1.0),
        ((0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0), 0.0),  # side by side: nothing in common, nothing left between
        ((0.1, 0.5, 0.2, 1.0), (0.9, 0.5, 0.2, 1.0), -0.6),  # apart by three fifths of what is around both
        ((0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 0.5, 0.5), 0.25),  # one within the other
    ],
)
def test_overlap_known_beforehand(box, other, expected):
    assert generalised_iou(torch.tensor(box), torch.tensor(other)).item() == pytest.approx(expected, abs=1e-6)


def test_overlap_of_many_boxes():
    boxes = torch.rand(50, 2, 4, generator=torch.Generator().manual_seed(0)) + 0.05
    found = generalised_iou(boxes[:, 0], boxes[:, 1])
    expected = [slow_giou(corners(box), corners(other)) for box, other in boxes]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_similarity_is_that_of_evaluation():
    """The part of a match's cost that is OKS, beside what the protocol would say of the same points."""
    loss = SetPrediction(
        score_weight=0, box_weight=0, overlap_weight=0, place_weight=0, likelihood_weight=0, similarity_weight=1
    )
    group, outputs = _group(num_images=2, num_bodies=1), _outputs(num_images=2, num_layers=1, num_queries=1)
    bodies, said = labelled_bodies(CODEC, group), CODEC.split(outputs[:, 0])
    assert bodies.there[0, 0]
    oks = similarity(
        CODEC.pixels(said.points[0]).double().numpy(),
        CODEC.pixels(bodies.points[0]).double().numpy(),
        (bodies.weights[0] > 0).numpy(),
        bodies.areas(CODEC)[0].double().numpy(),
        SKELETON.oks_sigmas,
    )
    assert loss.scene(CODEC, outputs, group, 1, SKELETON).item() == pytest.approx(1 - oks[0], rel=1e-5)


def test_likelihoods_are_those_of_the_distributions():
    from scipy import stats

    random = np.random.default_rng(0)
    factor = random.normal(size=(6, 2, 2))
    spread, error = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(2), random.normal(size=(6, 2))
    given = torch.from_numpy(error), torch.from_numpy(spread)
    gaussian = [
        -stats.multivariate_normal(np.zeros(2), each).logpdf(off) for off, each in zip(error, spread, strict=True)
    ]
    np.testing.assert_allclose(gaussian_nats(*given).numpy(), gaussian, rtol=1e-9)
    scales = np.sqrt(np.diagonal(spread, axis1=1, axis2=2) / 2)
    np.testing.assert_allclose(laplace_nats(*given).numpy(), -stats.laplace(0, scales).logpdf(error).sum(1), rtol=1e-9)


def test_the_likelihood_moves_covariances_and_nothing_else():
    loss = SetPrediction(
        score_weight=0, box_weight=0, overlap_weight=0, place_weight=0, similarity_weight=0, distribution="gaussian"
    )
    outputs = _outputs().requires_grad_()
    loss.scene(CODEC, outputs, _group(), 3, SKELETON).backward()
    moved = CODEC.split(outputs.grad)
    assert moved.factors.abs().sum() > 0
    assert not any(each.any() for each in (moved.points, moved.boxes, moved.logits))


def _of_first(group: DeviceGroup) -> DeviceGroup:
    """Its first picture."""
    names = ("keypoints_crop", "weights", "scale", "seeds", "ignored", "bbox_crop", "unstated")
    return replace(group, stop=1, **{name: getattr(group, name)[:1] for name in names})


def test_covariances_learn_how_far_off_points_are():
    group, outputs = _of_first(_group(8, num_bodies=1)), _outputs(num_images=1, num_layers=1, num_queries=1)
    loss = SetPrediction(distribution="laplace")
    factors = torch.zeros(1, 1, 1, 4, 3, requires_grad=True)
    optimizer = torch.optim.Adam([factors], lr=0.2)
    for _ in range(140):
        points = torch.cat([outputs[..., 5:].unflatten(-1, (4, 5))[..., :2], factors], dim=-1).flatten(3)
        optimizer.zero_grad()
        loss.scene(CODEC, torch.cat([outputs[..., :5], points], dim=-1), group, 1, SKELETON).backward()
        optimizer.step()
    bodies, said = labelled_bodies(CODEC, group), CODEC.split(outputs[:, 0])
    known = bodies.weights[0, 0] > 0
    assert known.sum() > 1
    spread = CODEC.covariance(said.boxes, factors[:, 0])[0, 0, known]
    off = (CODEC.pixels(said.points) - CODEC.pixels(bodies.points))[0, 0, known]
    # Of one draw of Laplace's distribution the likeliest scale is its distance, and the variance is twice its square.
    torch.testing.assert_close(spread.diagonal(dim1=-2, dim2=-1), 2 * off.square(), rtol=0.02, atol=0.05)


def test_a_body_needs_a_point_within_the_input_and_its_box_ends_there():
    group = _group(num_images=1, num_bodies=3)
    group.keypoints_crop[0] = torch.tensor([[10.0, 10.0], [-9.0, 3.0], [12.0, 40.0], [11.0, 9.0]])
    group.keypoints_crop[0, 1] -= 60
    group.weights[0] = 1
    group.weights[0, 2] = 0
    group.bbox_crop[0] = torch.tensor([[-9.5, 2.5, 23.5, 39.5], [-70.0, -60.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    bodies = labelled_bodies(CODEC, group)
    assert bodies.there[0].tolist() == [True, False, False]
    assert bodies.weights[0, 0].tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(bodies.boxes[0, 0], torch.tensor([0.25, (3 + 32) / 64, 0.5, 29 / 32]))
    torch.testing.assert_close(bodies.boxes[0, 2, 2:], torch.tensor([1 / 48, 1 / 32]))  # a pixel at least


def test_a_picture_without_bodies_and_a_group_without_pictures():
    loss, group, outputs = SetPrediction(), _group(num_images=1), _outputs(num_images=1, num_layers=1)
    expected = loss.score_weight * sum(slow_focal(chance, False) for chance in outputs[0, 0, :, 0].sigmoid().tolist())
    assert loss.scene(CODEC, outputs, group, 1, SKELETON).item() == pytest.approx(expected, rel=1e-5)
    assert loss.hints(CODEC, group) is None


def test_queries_in_regions_of_which_nothing_is_known_may_say_what_they_like():
    group, bodies_of = _group(num_images=1), labelled_bodies
    group.ignored[0, :8, :12] = 1  # the upper left quarter
    boxes = torch.tensor(
        [[[0.25, 0.25, 0.4, 0.4], [0.75, 0.75, 0.4, 0.4], [0.5, 0.25, 0.5, 0.3], [0.55, 0.25, 0.5, 0.3]]]
    )
    assert excused(CODEC, group, bodies_of(CODEC, group), boxes)[0].tolist() == [True, False, True, False]
    # Of a body of which no labelled point can be seen, the box.
    group.ignored[0] = 0
    group.weights[0, 0, 0] = 1
    group.keypoints_crop[0, 0, 0] = -5
    group.bbox_crop[0, 0] = torch.tensor([-20.0, -20.0, 23.5, 15.5])
    assert excused(CODEC, group, bodies_of(CODEC, group), boxes)[0].tolist() == [True, False, True, False]
    outputs = _outputs(num_images=1, num_layers=1, num_queries=4)
    outputs[0, 0, :, 1:5] = boxes
    expected = 2.0 * sum(slow_focal(outputs[0, 0, query, 0].sigmoid().item(), False) for query in (1, 3))
    assert SetPrediction().scene(CODEC, outputs, group, 1, SKELETON).item() == pytest.approx(expected, rel=1e-5)


def test_noise_is_of_the_picture_alone_and_within_its_bounds():
    config, group = DenoisingConfig(groups=3, box_noise=0.4, point_noise=0.1), _group(4)
    bodies = labelled_bodies(CODEC, group)
    hints = noised_bodies(bodies, group.seeds, config)
    assert hints.shape == (3, 3, 3, 12)
    one = _group(4)
    rows = {
        name: getattr(one, name)[1:2]
        for name in ("keypoints_crop", "weights", "scale", "seeds", "ignored", "bbox_crop")
    }
    alone = labelled_bodies(CODEC, DeviceGroup(dataset="people", start=0, stop=1, **rows))
    torch.testing.assert_close(noised_bodies(alone, rows["seeds"], config), hints[1:2], equal_nan=True, rtol=0, atol=0)
    there = bodies.there[:, None].expand(-1, 3, -1)
    assert torch.equal(hints[..., 0].isnan(), ~there)
    boxes, sizes = bodies.boxes[:, None], bodies.boxes[:, None, :, 2:]
    assert (((hints[..., :2] - boxes[..., :2]).abs() / sizes)[there] <= 0.2 + 1e-5).all()
    assert (((hints[..., 2:4] / sizes) - 1).abs()[there] <= 0.4 + 1e-5).all()
    off = (hints[..., 4:].unflatten(-1, (4, 2)) - bodies.points[:, None]).abs() / sizes[..., None, :]
    labelled = (bodies.weights[:, None] > 0).expand(-1, 3, -1, -1)
    assert (off[labelled] <= 0.1 + 1e-5).all()
    assert torch.equal(off[..., 0].isnan(), ~labelled)
    assert not torch.equal(hints[:, 0], hints[:, 1])


def test_fuller_sets_get_fewer_groups_and_none_can_be_wanted():
    group = _group(num_bodies=12)
    bodies = labelled_bodies(CODEC, group)
    assert noised_bodies(bodies, group.seeds, DenoisingConfig(groups=5, most=30)).shape[1] == 2
    assert noised_bodies(bodies, group.seeds, DenoisingConfig(groups=5, most=3)).shape[1] == 1
    assert noised_bodies(bodies, group.seeds, DenoisingConfig(groups=0)) is None


def _model(**changes) -> PoseModel:
    torch.manual_seed(0)
    values = {"backbone": "vit-nano", "head": HEAD, "input_size": (32, 48)} | changes
    return build_model(ModelConfig.model_validate(values), {"people": SKELETON})


def _untied(model: PoseModel) -> PoseModel:
    """With layers that say something from the first."""
    with torch.no_grad():
        for parameter in model.heads["people"].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_hints_do_not_leak():
    """Neither to queries that were given none, nor from one group to another."""
    head, features = _untied(_model()).heads["people"], torch.randn(2, 64, 2, 3)
    bodies = labelled_bodies(CODEC, _group(4))
    hints = noised_bodies(bodies, torch.arange(3), DenoisingConfig(groups=2))[:2]
    plain, hinted = head(features), head(features, hints)
    assert hinted.shape[2] == 4 + 2 * 3
    torch.testing.assert_close(hinted[:, :, :4], plain, rtol=1e-4, atol=1e-5)
    other = hints.clone()
    other[:, 1] = 0.5
    changed = head(features, other)
    torch.testing.assert_close(changed[:, :, :7], hinted[:, :, :7], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed[:, 1:, 7:], hinted[:, 1:, 7:], atol=1e-3)
    assert torch.isfinite(changed).all()


def test_what_was_hinted_at_is_learned_besides():
    method = SupervisedHeads(_untied(_model()), SupervisedConfig.model_validate({"loss": {"kind": "set_prediction"}}))
    loss, group = SetPrediction(), _group(4)
    hints = loss.hints(CODEC, group)
    outputs = torch.cat([_outputs(), torch.zeros(3, 2, hints.shape[1] * hints.shape[2], 25)], dim=2)
    bodies = labelled_bodies(CODEC, group)
    right = torch.cat([bodies.points, torch.full((*bodies.weights.shape, 3), -3.0)], dim=-1)
    right[..., 4] = 0
    right = torch.cat([torch.full((3, 3, 1), 9.0), bodies.boxes, right.flatten(2)], dim=-1)
    outputs[:, :, 5:] = right.repeat(1, hints.shape[1], 1)[:, None]
    of_queries = loss.scene(CODEC, outputs[:, :, :5], group, 1, SKELETON).item()
    besides = loss.scene(CODEC, outputs, group, 1, SKELETON, hints=hints).item() - of_queries
    # They have found back, so that their likelihood alone is left, of one layer and two pictures with bodies.
    nats = 0.0
    for image in range(2):
        rows = bodies.there[image].nonzero()[:, 0].tolist()
        for row in rows:
            side = math.sqrt(float(bodies.boxes[image, row, 2] * bodies.boxes[image, row, 3]) * 48 * 32)
            nats += 0.5 * (2 * math.log(side * math.exp(-3)) + math.log(2 * math.pi)) / len(rows)
    assert besides == pytest.approx(nats, abs=2e-2)
    assert method.train()._hints is not None


def test_what_a_teacher_says_is_zero_at_itself_in_any_order():
    loss, outputs = SetPrediction(), _outputs()
    assert loss.belief(CODEC, outputs, outputs[:, :, [3, 1, 4, 0, 2]], 2).item() == pytest.approx(0, abs=1e-6)
    changed = outputs.clone()
    changed[:, -1, :, 5::5] += 0.1  # every point a tenth of the picture to the right
    chance = outputs[:, -1, :, 0].sigmoid().sum().item()
    assert loss.belief(CODEC, changed, outputs, 2).item() == pytest.approx(10 * 0.1 * chance / 2, rel=1e-4)


def test_groups_of_points_weigh_points():
    outputs, group = _outputs(), _group()
    alone = SetPrediction(score_weight=0, box_weight=0, overlap_weight=0)
    plain, halved = (
        alone.scene(CODEC, outputs, group, 1, SKELETON, factors).item() for factors in (None, torch.full((4,), 0.5))
    )
    assert halved == pytest.approx(plain / 2, rel=1e-5)
    weighed = SupervisedHeads(_model(), SupervisedConfig(group_weights={"body": 0.5}))
    assert math.isfinite(weighed.label_loss(outputs, group, 3).item())


def test_a_skeleton_without_constants_is_learned_with_the_usual_one():
    points = tuple(point.model_copy(update={"oks_sigma": None}) for point in SKELETON.keypoints)
    bare = Skeleton(name="bare", keypoints=points)
    assert bare.oks_sigmas is None
    assert math.isfinite(SetPrediction().scene(CODEC, _outputs(), _group(), 1, bare).item())


def test_losses_of_other_outputs_are_refused():
    with pytest.raises(ConfigError, match=r"method.loss, for people: squared_error is of heatmaps"):
        SupervisedHeads(_model(), SupervisedConfig.model_validate({"loss": "squared_error"}))
    with pytest.raises(
        ConfigError, match="associative_embedding is of whole pictures, and its head has queries outputs"
    ):
        SupervisedHeads(_model(), SupervisedConfig.model_validate({"loss": "associative_embedding"}))
    assert "has associative outputs" in (SetPrediction().problem(AssociativeCodec(), SKELETON) or "")


def test_scores_that_are_nearly_right_count_little():
    logits = torch.tensor([-3.0, 0.0, 2.0])
    for target in (0.0, 1.0):
        found = focal_loss(logits, torch.full((3,), target)).tolist()
        assert found == pytest.approx(
            [slow_focal(chance, target > 0) for chance in logits.sigmoid().tolist()], rel=1e-5
        )


def test_one_point_of_a_body_is_learned_and_nothing_is_said_of_the_others():
    group = _of_first(_group(num_bodies=1))
    group.weights[0, 0] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    group.keypoints_crop[0, 0, 2] = torch.tensor([20.0, 10.0])
    group.bbox_crop[0, 0] = torch.tensor([20.0, 10.0, 20.0, 10.0])  # as of a set that has points and no boxes
    outputs = _outputs(num_images=1, num_layers=1, num_queries=1).requires_grad_()
    SetPrediction().scene(CODEC, outputs, group, 1, SKELETON).backward()
    moved = CODEC.split(outputs.grad)
    assert moved.points[0, 0, 0].any(dim=-1).tolist() == [False, False, True, False]
    assert torch.isfinite(outputs.grad).all()


def test_there_are_no_more_queries_than_places():
    head = _model().heads["people"]
    assert head(torch.randn(1, 64, 1, 2)).shape == (1, 3, 2, 25)
