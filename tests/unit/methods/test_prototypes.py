"""PoseBH as meant; for each error of the released code a test that the error would fail."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.heatmap import HeatmapCodec
from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch, split_batch, to_device
from posecore.methods.heatmap_loss import heatmap_loss
from posecore.methods.prototype_terms import assign, contrast, distance, labelled_pixels
from posecore.methods.prototypes import STAGES, WEIGHTS, Agreed, PrototypeLearning, PrototypesConfig, Stage
from posecore.methods.self_supervision import AgreementConfig, agreed_points
from posecore.methods.staged import StagedMethod
from posecore.models.architecture import ModelConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import build_model
from posecore.models.prototypes import Prototypes, prototype_heatmaps
from posecore.schema import CropBatch, KeypointState
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from posecore.training.optimizer import OptimizerConfig, parameter_groups
from tests.support.checkpoints import State, load_checkpoint, newest
from tests.support.tiny_training import Stopped, stop_at, tiny_batches, tiny_prototypes, tiny_training

CPU = torch.device("cpu")
SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers")


def _batch(step: int = 1) -> CropBatch:
    return next(tiny_batches(step, rank=0, world_size=1))


def _method(step: int | None = None, **changes: object) -> PrototypeLearning:
    """In training, in the stage of a step of six if one is given, else with everything at work."""
    torch.manual_seed(0)
    method = tiny_prototypes(0.0, **changes).train()
    if step is not None:
        method.begin_step(step, 6)
    return method


class _Embedded(torch.nn.Module):
    """An embedding head that knows the answer: at a labelled point it returns a vector of the point's own.

    The vectors of all points of both datasets are orthogonal; everywhere else the map is orthogonal to all of them.
    """

    def __init__(self, method: PrototypeLearning, batch: DeviceBatch) -> None:
        super().__init__()
        counts = {name: skeleton.num_keypoints for name, skeleton in method.model.skeletons.items()}
        self.vectors = dict(
            zip(counts, torch.eye(16)[: sum(counts.values())].split(list(counts.values())), strict=True)
        )
        self.map = torch.zeros(len(batch), 16, *method.model.config.heatmap_size)
        self.map[:, 15] = 1
        for group in batch.groups:
            targets, _ = method.codecs[group.dataset].encode(group.keypoints_crop, group.weights)
            height, label = targets.max(dim=1)
            vectors = self.vectors[group.dataset][label].permute(0, 3, 1, 2)
            part = self.map[group.start : group.stop]
            self.map[group.start : group.stop] = torch.where((height > 0)[:, None], vectors, part)

    def forward(self, features: Tensor) -> Tensor:
        return self.map + 0 * features.sum()


@pytest.fixture(scope="module")
def learned() -> tuple[PrototypeLearning, _Embedded, Mapping[str, Tensor]]:
    """Prototypes that were half way off and saw many times a batch whose embeddings are perfect, and those before."""
    method = _method(momentum=0.9)
    batch = to_device(_batch(), CPU)
    known = _Embedded(method, batch)
    method.model.embedding_head = known
    for dataset, vectors in known.vectors.items():
        noise = F.normalize(torch.randn(*method.model.prototypes(dataset).shape), dim=-1)
        method.model.prototypes.get_buffer(dataset).copy_(F.normalize(vectors[:, None] + noise, dim=-1))
    before = {name: tensor.clone() for name, tensor in method.model.prototypes.named_buffers()}
    for _ in range(40):
        method(batch)
    return method, known, before


def test_the_prototypes_of_every_dataset_move_and_end_nearest_their_own_keypoint(learned) -> None:
    """As released, the second dataset's pixels are compared by the wrong numbers and its prototypes never move."""
    method, known, before = learned
    everyone = torch.cat(list(known.vectors.values()))
    for start, (dataset, vectors) in zip((0, 5), known.vectors.items(), strict=True):
        after = method.model.prototypes(dataset)
        assert not torch.allclose(after, before[dataset], atol=0.05), dataset
        own = torch.einsum("kmc,kc->km", after, vectors).abs()
        assert (own.amax(dim=1) > 0.95).all(), dataset
        nearest = torch.einsum("kmc,jc->kmj", after, everyone).abs().argmax(dim=2)
        assert torch.equal(nearest, start + torch.arange(len(vectors))[:, None].expand_as(nearest)), dataset


def test_the_contrast_of_every_dataset_is_with_its_own_prototypes(learned) -> None:
    """As released, the logits of the second dataset begin 5 columns after the first's, not 15."""
    method, known, _ = learned
    batch = to_device(_batch(), CPU)
    for group in batch.groups:
        targets, _ = method.codecs[group.dataset].encode(group.keypoints_crop, group.weights)
        pixels = labelled_pixels(known.map[group.start : group.stop], targets, 0.0)
        assigned = assign(pixels, method.model.prototypes(group.dataset))
        assert assigned.similarities.shape[1:] == (len(known.vectors[group.dataset]), 3)
        own = assigned.similarities[torch.arange(len(pixels.labels)), pixels.labels].amax(dim=1)
        assert own.mean() > 0.9, group.dataset


def test_prototypes_alone_then_find_the_points(learned) -> None:
    method, known, _ = learned
    batch = to_device(_batch(), CPU)
    for group in batch.groups:
        heatmaps = prototype_heatmaps(known.map[group.start : group.stop], method.model.prototypes(group.dataset))
        targets, _ = method.codecs[group.dataset].encode(group.keypoints_crop, group.weights)
        shown = targets.amax(dim=(2, 3)) > 0
        assert (heatmaps.flatten(2).gather(2, targets.flatten(2).argmax(2, keepdim=True))[..., 0] > 0.8)[
            shown
        ].float().mean() > 0.8


def test_terms_are_the_sums_of_their_formulas() -> None:
    method = _method(step=0)
    batch = to_device(_batch(), CPU)
    prototypes = {name: method.model.prototypes(name) for name in method.model.skeletons}
    losses = method(batch)
    features = method.model.features(batch.images, batch.rows)
    embeddings = method.model.embedding_head(features)
    weights = WEIGHTS["balanced"]
    for group in batch.groups:
        name, rows = group.dataset, slice(group.start, group.stop)
        targets, counted = method.codecs[name].encode(group.keypoints_crop, group.weights)
        maps = prototype_heatmaps(embeddings[rows], prototypes[name])
        error = ((maps - targets) ** 2 * counted[:, :, None, None]).mean()
        assert losses[f"prototype_heatmap/{name}"].item() == pytest.approx(weights.heatmap * error.item(), rel=1e-4)
        logits, own = [], []
        for image, row, column in (targets.amax(dim=1) > 0).nonzero().tolist():
            vector = F.normalize(embeddings[rows][image, :, row, column], dim=0)
            logits.append((prototypes[name].flatten(0, 1) @ vector).abs())
            own.append(int(targets[image, :, row, column].argmax()))
        table = torch.stack(logits)
        nearest = assign(labelled_pixels(embeddings[rows], targets, 0.0), prototypes[name]).nearest
        columns = torch.tensor(own) * 3 + nearest
        chosen = table[torch.arange(len(own)), columns]
        expected = weights.contrast * (table.exp().sum(1).log() - chosen).mean()
        expected += weights.distance * ((1 - chosen) ** 2).mean()
        assert losses[f"prototypes/{name}"].item() == pytest.approx(expected.item(), rel=1e-4)
        assert losses[f"self_supervision/{name}"].item() == 0.0


@pytest.mark.parametrize("state", [KeypointState.UNKNOWN, KeypointState.UNLABELLED, KeypointState.ABSENT])
def test_points_that_are_not_labelled_leave_no_trace(state: KeypointState) -> None:
    """Neither their own terms nor, as background, anybody else's: another place of theirs changes nothing."""

    def run(where: float) -> tuple[dict[str, float], Tensor]:
        batch = _batch()
        batch.groups[0].state[:, 2] = state
        batch.groups[0].keypoints_crop[:, 2] = where
        method = _method(step=0)
        before = method.model.prototypes.people.clone()
        losses = method(to_device(batch, CPU))
        assert torch.equal(method.model.prototypes.people[2], before[2])
        return {name: loss.item() for name, loss in losses.items()}, method.model.prototypes("people")

    (losses, prototypes), (others, other_prototypes) = run(10.0), run(math.nan)
    assert losses == others
    assert torch.equal(prototypes, other_prototypes)


def test_a_dataset_without_samples_takes_part_with_zeros() -> None:
    for step in (0, 3, 5):
        method = _method(step)
        before = method.model.prototypes("dogs")
        losses = method(to_device(_batch(step=0), CPU))
        assert {name for name, loss in losses.items() if loss.item() == 0.0} >= {
            f"{term}/dogs" for term in ("loss", "prototypes", "prototype_heatmap")
        }
        sum(losses.values()).backward()
        torch.testing.assert_close(method.model.prototypes("dogs"), before)
        missing = [name for name, parameter in method.named_parameters() if parameter.grad is None]
        frozen = {0: ("model.backbone.", "model.heads."), 3: ("model.backbone.",), 5: ()}[step]
        assert all(name.startswith(frozen) for name in missing) if frozen else not missing


def _agreeing(method: PrototypeLearning, x: float, y: float) -> None:
    """Every head and every prototype sees its first point, and nothing else, at one place of every image."""
    height, width = method.model.config.heatmap_size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blob = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    directions = torch.zeros(16, height, width)
    directions[0], directions[15] = blob, (1 - blob**2).sqrt()

    class Painted(torch.nn.Module):
        def __init__(self, maps: Tensor) -> None:
            super().__init__()
            self.maps = torch.nn.Parameter(maps)

        def forward(self, features: Tensor) -> Tensor:
            return self.maps.expand(len(features), *self.maps.shape)

    method.model.embedding_head = Painted(directions)
    for dataset in method.model.heads:
        maps = torch.zeros(method.model.skeletons[dataset].num_keypoints, height, width)
        maps[0] = 0.9 * blob
        method.model.heads[dataset] = Painted(maps)
        buffer = method.model.prototypes.get_buffer(dataset)
        buffer.copy_(torch.eye(16)[8])
        buffer[0] = torch.eye(16)[0]


@pytest.mark.parametrize(("x", "y"), [(3.0, 12.0), (8.0, 4.0)])
def test_agreed_points_teach_the_other_datasets_heads_wherever_they_lie(x: float, y: float) -> None:
    """On two dogs' images head and prototypes agree on the people's first point: both are pulled towards it."""
    method = _method(agreement={"confidence": 0.25, "distance_px": 2.1})
    _agreeing(method, x, y)
    batch = to_device(_batch(), CPU)
    losses = method(batch)
    head, embedding = method.model.heads["people"], method.model.embedding_head
    losses["self_supervision/people"].backward()
    gradient = head.maps.grad
    assert gradient[0].any(), "a label of height 1 pulls at a map of height 0.9"
    assert not gradient[1:].any(), "no label, no penalty"
    assert gradient[0, int(y), int(x)] < 0
    assert embedding.maps.grad.any()


def test_what_agreed_points_teach_is_the_sum_of_its_formulas() -> None:
    """Three images, on the second of which head and prototypes see nothing; labels count the lower of two maxima,
    and errors are multiplied by it before they are squared."""
    method = _method(agreement={"confidence": 0.25, "distance_px": 2.1})
    _agreeing(method, 5.0, 9.0)
    height, width = method.model.config.heatmap_size
    prototypes = method.model.prototypes("people")
    maps = method.model.heads["people"].maps.detach().repeat(3, 1, 1, 1)
    embeddings = method.model.embedding_head.maps.detach().repeat(3, 1, 1, 1)
    maps[1], embeddings[1] = 0, torch.eye(16)[15][:, None, None]
    targets, counted = agreed_points(maps, prototype_heatmaps(embeddings, prototypes), *_codec_and_agreement(method))
    chosen = counted.any(dim=1)
    found = method._self_supervision(
        Agreed(*(rows[chosen] for rows in (maps, embeddings, targets, counted))), prototypes
    )
    assert counted[:, 0].tolist() == pytest.approx([0.9, 0.0, 0.9])
    assert not counted[:, 1:].any()
    errors = [
        ((drawn - targets) * counted[:, :, None, None]).square().sum() / (2 * maps.shape[1] * height * width)
        for drawn in (maps, prototype_heatmaps(embeddings, prototypes))
    ]
    believed = targets.clone()
    believed[:, 0] *= torch.tensor([0.9, 0.0, 0.9])[:, None, None]
    believed[:, 1:] = 0
    assigned = assign(labelled_pixels(embeddings, believed, method.settings.pixel_threshold), prototypes)
    weights = method.settings.weights
    pixels = weights.contrast * contrast(assigned) + weights.distance * distance(assigned)
    expected = weights.self_supervision * (errors[0] + weights.heatmap * errors[1] + pixels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert pixels > 0.01 * expected / weights.self_supervision


def _codec_and_agreement(method: PrototypeLearning) -> tuple[HeatmapCodec, AgreementConfig]:
    return method.codecs["people"], method.settings.agreement


def test_self_supervision_counts_only_from_its_stage_on_and_only_others_images() -> None:
    for step, counts in ((2, False), (3, True)):
        method = _method(step, agreement={"confidence": 0.25, "distance_px": 2.1})
        _agreeing(method, 5.0, 9.0)
        alone = to_device(_batch(step=0), CPU)  # people only
        losses = method(alone)
        assert losses["self_supervision/people"].item() == 0.0
        assert (losses["self_supervision/dogs"].item() > 0.0) is counts


def test_images_of_a_dataset_with_the_same_head_are_not_guessed_at() -> None:
    """Their points are labelled, so that head and prototypes need not agree on any."""
    alone = _batch(step=0)  # people only
    everyone = {name: getattr(alone.groups[0], name) for name in alone.groups[0].__slots__}
    arrays = {name: value for name, value in everyone.items() if isinstance(value, np.ndarray)}
    groups = tuple(
        replace(alone.groups[0], dataset=name, start=start, stop=stop,
                **{array: values[start:stop] for array, values in arrays.items()})
        for name, start, stop in (("people", 0, 6), ("staff", 6, 8))
    )  # fmt: skip
    for shared, guesses in (({"staff": "people"}, False), ({}, True)):
        tiny = _method().model.card
        people = tiny.skeletons["people"]
        config = tiny.architecture.model_copy(update={"shared_heads": shared})
        settings = {"weights": "balanced", "stages": "joint"}
        method = PrototypesConfig.model_validate(settings).build(
            build_model(config, {"people": people, "staff": people})
        )
        method.begin_step(5, 6)
        _agreeing(method, 5.0, 9.0)
        losses = method(to_device(replace(alone, groups=groups), CPU))
        for name in ("people", "staff"):
            assert (losses[f"self_supervision/{name}"].item() > 0) is guesses


def test_stages_are_a_function_of_the_step() -> None:
    published = STAGES["published"]
    assert [published.at(step, 100) for step in (0, 49, 50, 51, 89, 90, 99)] == [
        *[Stage(False, False, True, False)] * 2,
        *[Stage(True, False, False, True)] * 3,
        *[Stage(True, True, False, True)] * 2,
    ]
    assert not any(STAGES["published-base"].at(step, 100).backbone_learns for step in range(100))
    assert STAGES["joint"].at(0, 100) == Stage(True, True, True, False)
    method = _method()
    assert isinstance(method, StagedMethod)
    frozen = [method.begin_step(step, 6) for step in (5, 0, 3)]
    assert frozen == [frozenset(), {"model.heads.", "model.backbone."}, {"model.backbone."}]


def test_frozen_means_statistics_and_drop_path_too_unless_as_released() -> None:
    batch = to_device(_batch(), CPU)
    for frozen, whole in (("whole", True), ("weights", False)):
        torch.manual_seed(0)
        method = tiny_prototypes(0.9, frozen=frozen).train()
        method.begin_step(0, 6)
        statistics = method.model.heads["people"].deconv_layers[1].running_mean.clone()
        torch.manual_seed(1)
        first = method.model.features(batch.images, batch.rows)
        again = method.model.features(batch.images, batch.rows)
        method(batch)
        moved = not torch.equal(method.model.heads["people"].deconv_layers[1].running_mean, statistics)
        assert (torch.equal(first, again), moved) == (whole, not whole)
        method.eval()
        method.train()
        assert method.model.backbone.training is not whole, "also after an evaluation"
        assert method.model.embedding_head.training


def test_other_datasets_images_leave_a_heads_statistics_alone_unless_mixed() -> None:
    for statistics, tracked in (("own", 1), ("mixed", 1)):
        method = _method(step=5, head_statistics=statistics)
        batch = to_device(_batch(), CPU)
        norm = method.model.heads["dogs"].deconv_layers[1]
        method(batch)
        assert norm.num_batches_tracked == tracked
        with torch.no_grad():
            features = method.model.features(batch.images, batch.rows)
            seen = features if statistics == "mixed" else features[6:]
            mean = method.model.heads["dogs"].deconv_layers[0](seen).mean(dim=(0, 2, 3))
        torch.testing.assert_close(norm.running_mean, 0.1 * mean, atol=1e-6, rtol=1e-4)


def test_prototypes_rest_when_frozen_and_in_evaluation() -> None:
    batch = to_device(_batch(), CPU)
    for step, train, moves in ((0, True, True), (3, True, False), (0, False, False)):
        method = _method(step, momentum=0.5)
        method.train(train)
        before = method.model.prototypes("people")
        with torch.set_grad_enabled(train):
            method(batch)
        assert torch.equal(method.model.prototypes("people"), before) is not moves


def test_under_autocast_losses_and_prototypes_stay_in_float32() -> None:
    batch = to_device(_batch(), CPU)
    exact, rounded = _method(step=5), _method(step=5)
    expected = exact(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = rounded(batch)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        if not name.startswith("self_supervision/"):  # a point more or less agrees
            assert loss.item() == pytest.approx(expected[name].item(), rel=0.1), name
    sum(losses.values()).backward()
    assert all(buffer.dtype == torch.float32 for buffer in rounded.model.prototypes.buffers())


def _all_terms(**changes: object) -> dict[str, Tensor]:
    """Of a batch in which no term is zero."""
    method = _method(step=5, agreement={"confidence": 0.25, "distance_px": 2.1}, **changes)
    _agreeing(method, 5.0, 9.0)
    losses = method(to_device(_batch(), CPU))
    assert all(loss.item() > 0 for loss in losses.values())
    return losses


def test_every_term_grows_with_the_factor_before_all() -> None:
    once, tenfold = (_all_terms(loss_weight=factor) for factor in (1.0, 10.0))
    for name, loss in once.items():
        assert tenfold[name].item() == pytest.approx(10 * loss.item(), rel=1e-5), name


def test_a_datasets_own_factor_is_before_all_its_terms_and_no_others() -> None:
    plain, weighted = _all_terms(), _all_terms(loss_weights={"dogs": 3.0})
    for name, loss in plain.items():
        factor = 3.0 if name.endswith("/dogs") else 1.0
        assert weighted[name].item() == pytest.approx(factor * loss.item(), rel=1e-5), name


def test_ranks_add_their_pulls_before_prototypes_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with unlike shares of a batch move prototypes as one rank does with all of it.

    As released, each rank turns its own prototypes and the results are averaged, whatever each has seen. One prototype
    per point, so that no Gumbel noise decides which one is pulled.
    """
    changes = {"embedding": EmbeddingConfig(dim=16, channels=8, prototypes_per_point=1), "momentum": 0.5}

    def update(parts: list[CropBatch], sizes: int) -> dict[str, Tensor]:
        """Prototypes of the last of some ranks, after each has been asked for its pulls."""
        sent: list[Tensor] = []

        def all_reduce(total: Tensor) -> None:
            sent.append(total.clone())
            total.copy_(sum(sent))

        monkeypatch.setattr("posecore.methods.prototypes.dist.is_initialized", lambda: True)
        monkeypatch.setattr("posecore.methods.prototypes.dist.get_world_size", lambda: sizes)
        monkeypatch.setattr("posecore.methods.prototypes.dist.all_reduce", all_reduce)
        for part in parts:
            method = _method(step=0, **changes)
            method.model.embedding_head.eval()  # statistics of a part are not those of the whole
            method(to_device(part, CPU))
        return {name: buffer.clone() for name, buffer in method.model.prototypes.named_buffers()}

    whole = _batch(step=2)  # has one dog, which one of the ranks does not see
    together, apart = update([whole], 1), update(split_batch(whole, 2), 2)
    before = dict(_method(step=0, **changes).model.prototypes.named_buffers())
    for name, expected in together.items():
        assert not torch.allclose(expected, before[name], atol=1e-2)
        torch.testing.assert_close(apart[name], expected, atol=1e-5, rtol=0)


def test_weights_and_stages_go_by_name() -> None:
    config = PrototypesConfig.model_validate({"stages": "joint", "weights": "balanced"})
    assert (config.stages, config.weights) == (STAGES["joint"], WEIGHTS["balanced"])
    default = PrototypesConfig()
    assert (default.stages, default.weights) == (STAGES["published"], WEIGHTS["published"])
    assert default.weights.contrast == pytest.approx(1.25e-5 * 0.01)
    assert default.weights.distance == pytest.approx(1.25e-5 * 0.001)
    assert (default.weights.heatmap, default.weights.self_supervision) == (3.33e-6, 1e-3)
    assert (default.momentum, default.pixel_threshold, default.pixel_weighting) == (0.999, 0.0, "confidence")
    assert (default.agreement.confidence, default.agreement.distance_px) == (0.25, 2.1)
    assert (default.embedding.dim, default.embedding.prototypes_per_point) == (64, 3)
    with pytest.raises(
        ValueError, match="'tiny' is none of published, published-transfer, balanced; name one or give all fields"
    ):
        PrototypesConfig.model_validate({"weights": "tiny"})


@pytest.mark.parametrize(("name", "least", "most"), [("published", 0.98, 1.0), ("balanced", 0.0, 0.03)])
def test_published_weights_starve_an_embedding_head_of_published_size(name: str, least: float, most: float) -> None:
    """AdamW divides by the gradient's size plus 1e-8: far below that, it hardly moves anything."""
    torch.manual_seed(0)
    head, weights, codec = EmbeddingConfig().build(768).train(), WEIGHTS[name], HeatmapCodec()
    prototypes = Prototypes({"coco": 17}, per_point=3, dim=64)("coco")
    targets, counted = codec.encode(torch.rand(2, 17, 2) * 150 + 20, torch.ones(2, 17))
    embeddings = head(torch.randn(2, 768, 16, 12))
    assigned = assign(labelled_pixels(embeddings, targets, 0.0), prototypes)
    heatmaps = prototype_heatmaps(embeddings, prototypes)
    loss = weights.contrast * contrast(assigned) + weights.distance * distance(assigned)
    (loss + weights.heatmap * heatmap_loss(heatmaps, targets, counted, 2)).backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in head.parameters()])
    assert least <= (gradients.abs() < 1e-8).float().mean() <= most


def test_balanced_weights_leave_the_lead_to_the_labels_of_a_fresh_model() -> None:
    method = _method(weights="balanced")
    terms = method(to_device(_batch(), CPU))
    pull = {}
    for kind in ("loss", "prototype"):
        method.zero_grad()
        sum(term for name, term in terms.items() if name.startswith(kind)).backward(retain_graph=True)
        pull[kind] = torch.cat([p.grad.flatten() for p in method.model.backbone.parameters() if p.grad is not None])
    assert 0 < pull["prototype"].norm() < 5 * pull["loss"].norm()


def test_the_method_gives_a_model_its_embedding_and_leaves_one_it_has() -> None:
    config = PrototypesConfig()
    plain = ModelConfig.model_validate({"backbone": "vit-nano"})
    given = config.architecture(plain)
    assert given.embedding == config.embedding
    assert given.model_copy(update={"embedding": None}) == plain
    own = ModelConfig.model_validate({"backbone": "vit-nano", "embedding": {"dim": 8}})
    assert config.architecture(own) is own
    rtmpose = ModelConfig.model_validate({"backbone": "rtmpose-t"})
    with pytest.raises(
        ConfigError, match=r"^method: prototypes: embedding needs a head whose heatmaps are 4 times as large"
    ):
        config.architecture(rtmpose)


def test_parts_have_groups_of_their_own() -> None:
    method = _method()
    groups = parameter_groups(method, OptimizerConfig())
    assert {group["part"] for group in groups} == {"model.heads.", "model.backbone.", ""}
    names = {parameter: name for name, parameter in method.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            expected = next((part for part in method.parts if names[parameter].startswith(part)), "")
            assert group["part"] == expected


def _state(run_dir: Path) -> State:
    folder = newest(run_dir)
    return load_checkpoint(folder)[0]


def _train(run_dir: Path, stop_before: int | None = None) -> None:
    torch.manual_seed(1)
    method = tiny_prototypes()
    try:
        tiny_training(
            LocalContext(run_dir, num_to_keep=9),
            TorchEngineConfig(),
            steps=6,
            checkpoint_every=1,
            before_step=stop_at(stop_before),
            method=method,
        )
    except Stopped:
        assert stop_before is not None


def test_a_run_resumed_in_any_stage_ends_like_one_left_alone(tmp_path: Path) -> None:
    """As released, stages are entered by events, so a run resumed after one forgets what was frozen and switched on."""
    _train(tmp_path / "alone")
    alone = _state(tmp_path / "alone")
    for stop in (2, 3, 5):  # within the first stage, and before the first step of the others
        run = tmp_path / f"stopped{stop}"
        _train(run, stop_before=stop)
        _train(run)
        resumed = _state(run)
        assert (resumed.optimizer_steps, resumed.updates) == (6, {"model.heads.": 3, "model.backbone.": 1})
        for section in SECTIONS:
            ours, theirs = getattr(resumed, section), getattr(alone, section)
            assert set(ours) == set(theirs)
            assert not [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])], (stop, section)


def test_weights_change_in_their_stages_only(tmp_path: Path) -> None:
    _train(tmp_path)
    folders = sorted((tmp_path / "checkpoints").iterdir())
    states = [load_checkpoint(folder)[0] for folder in folders]
    changed = [
        {
            ".".join(name.split(".")[:2])
            for section in ("weights", "buffers")
            for name, tensor in getattr(new, section).items()
            if not torch.equal(tensor, getattr(old, section)[name])
        }
        for old, new in itertools.pairwise(states)
    ]
    embedding, prototypes = {"model.embedding_head"}, {"model.prototypes"}
    heads, backbone = {"model.heads"}, {"model.backbone"}
    assert changed == [
        *[embedding | prototypes] * 2,
        *[embedding | heads] * 2,
        embedding | heads | backbone,
    ]
    assert np.isfinite(sum(float(t.sum()) for t in states[-1].weights.values()))
