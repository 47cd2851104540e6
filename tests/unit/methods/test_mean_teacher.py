"""The average against its closed form, labels against where things are, a stopped run against one left alone."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.conventions import Conventions
from posecore.methods.adaptation import Adaptation
from posecore.methods.batch import DeviceBatch, DeviceGroup, normalise, to_device
from posecore.methods.further_view import Views
from posecore.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.uncertainty import Fit, HeadUncertainty
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from tests.support.checkpoints import load_checkpoint, newest
from tests.support.tiny_training import (
    Stopped,
    stop_at,
    tiny_adaptation,
    tiny_batches,
    tiny_model,
    tiny_training,
    with_depth,
)

CPU = torch.device("cpu")
POINTS = Skeleton(
    name="colours",
    keypoints=(
        Keypoint(name="left", union="left", flip="right"),
        Keypoint(name="right", union="right", flip="left"),
        Keypoint(name="middle", union="middle"),
    ),
)
EVERYTHING = {"confidence": -1.0, "mask_share": 0.0}
STILL: dict[str, Any] = {
    "rotation_degrees": 0, "scale": (1, 1), "shift": 0, "mirror_probability": 0, "occlusion_probability": 0
}  # fmt: skip


class ColourModel(PoseModel):
    """Sees red, green and blue: its heatmaps are the crop's channels, shrunk to a quarter."""

    def __init__(self, codec: str = "udp") -> None:
        config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(128, 96))
        conventions = {"dots": Conventions(codec=codec)}  # type: ignore[arg-type]
        super().__init__(ModelCard(architecture=config, skeletons={"dots": POINTS}, conventions=conventions))

    def features(self, images: Tensor, groups: Any, depth: Tensor | None = None) -> Tensor:
        return images - images.amin(dim=(2, 3), keepdim=True)

    def run_head(self, dataset: str, features: Tensor) -> Tensor:
        if self.conventions[dataset].codec == "msra":  # pixel i of the map stands for pixel 4·i of the crop
            return features[:, :, ::4, ::4]
        return nn.functional.interpolate(features, self.config.heatmap_size, mode="bilinear", align_corners=True)


def _dots(count: int) -> tuple[Tensor, Tensor]:
    """(n, 128, 96, 3) uint8 pictures with a red, a green and a blue blob, and (n, 3, 2) x, y of these."""
    points = torch.rand(count, 3, 2, generator=torch.Generator().manual_seed(3)) * 30 + torch.tensor([33.0, 49.0])
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(96.0), indexing="ij")
    away = (columns - points[..., 0, None, None]) ** 2 + (rows - points[..., 1, None, None]) ** 2
    blobs = (255 * torch.exp(-away / (2 * 7.0**2))).round().to(torch.uint8)
    return blobs.permute(0, 2, 3, 1).contiguous(), points


def _batch(images: Tensor, dataset: str = "frames", num_points: int = 3) -> DeviceBatch:
    count = len(images)
    group = DeviceGroup(
        dataset=dataset,
        start=0,
        stop=count,
        keypoints_crop=torch.zeros(count, num_points, 2),
        weights=torch.ones(count, num_points),
        scale=torch.ones(count, 2),
        seeds=torch.arange(count) + 5,
    )
    return DeviceBatch(images=normalise(images), groups=(group,))


@pytest.mark.parametrize("codec", ["udp", "msra"])
def test_a_label_is_where_the_thing_is_in_the_view(codec: str) -> None:
    """The same eyes on the view find what was carried there, so picture and points went the same way."""
    images, points = _dots(24)
    model, view = ColourModel(codec), {"colour": 0.0, "occlusion_probability": 0.0, "scale": (0.8, 1.2)}
    teacher = MeanTeacher(model, MeanTeacherConfig.model_validate(EVERYTHING | {"view": view}), "dots", ["frames"])
    taught = teacher.teach(_batch(images))
    group, seen = taught.groups["frames"], taught.batch.images
    codec_of = model.codec("dots")
    step = 4 if codec == "msra" else torch.tensor([95 / 23, 127 / 31])
    original, _ = codec_of.decode(model.run_head("dots", model.features(normalise(images), [])))
    tolerance = 1.5 if codec == "msra" else 0.5  # half of a quarter of a heatmap pixel either way, and the blob's grid
    assert ((original * step - points).abs() <= tolerance).all()
    places, _ = codec_of.decode(model.run_head("dots", model.features(seen, [])))
    mirrored = group.keypoints_crop[:, [1, 0, 2]]
    errors = [(places * step - labels).norm(dim=-1).amax(dim=1) for labels in (group.keypoints_crop, mirrored)]
    nearest = torch.minimum(*errors)
    assert (nearest < 2 * tolerance).all()
    swapped = errors[1] < errors[0]
    assert 4 < swapped.sum() < 20
    assert (group.weights == 1).all()
    assert not torch.equal(seen, normalise(images))


def test_in_a_view_that_is_the_crop_a_label_is_the_decoded_place_in_crop_pixels() -> None:
    """Steps along x and y differ where corner pixels stay corner pixels."""
    images, _ = _dots(8)
    model = ColourModel("udp")
    teacher = MeanTeacher(model, MeanTeacherConfig.model_validate(EVERYTHING | {"view": STILL}), "dots", ["frames"])
    places, _ = model.codec("dots").decode(model.run_head("dots", model.features(normalise(images), [])))
    labels = teacher.teach(_batch(images)).groups["frames"].keypoints_crop
    torch.testing.assert_close(labels, places * torch.tensor([95 / 23, 127 / 31]), rtol=0, atol=1e-3)


def test_a_map_without_a_positive_value_is_no_label() -> None:
    """Its decoded place, (-1, -1), would lie inside a view that is smaller than the crop."""
    view = {"scale": (0.6, 0.6), "occlusion_probability": 0.0}
    config = MeanTeacherConfig.model_validate(EVERYTHING | {"view": view})
    teacher = MeanTeacher(ColourModel(), config, "dots", ["frames"])
    assert not teacher.teach(_batch(torch.zeros(24, 128, 96, 3, dtype=torch.uint8))).groups["frames"].weights.any()


def test_the_target_is_the_codecs_own_around_the_carried_point() -> None:
    """However flat the teacher's map was: heatmap loss of the rectified target, written out."""
    method = _taught(weight=2.0, ramp_up=0.0)
    method.begin_step(0, 10)
    batch = to_device(next(tiny_batches(1, 0, 1)), CPU)
    losses = method.eval()(batch)
    taught = method.mean_teacher.teach(batch)
    group = taught.groups["people"]
    targets, weights = method.model.codec("dogs").encode(group.keypoints_crop, group.weights)
    maps = method.model.predict(taught.batch.images[group.start : group.stop], "dogs")
    error = ((maps - targets).square() * weights[..., None, None]).sum() / (7 * len(batch) * maps[0, 0].numel())
    assert losses["unlabelled/people"].item() == pytest.approx(2 * error.item(), rel=1e-4)
    assert weights.sum() > 5
    peaks = targets.amax(dim=(2, 3))[weights > 0]
    assert peaks.min() > 0.9 * torch.exp(torch.tensor(-0.25 / 4)).item() ** 2


def test_labels_of_labelled_crops_count_as_without_unlabelled_ones() -> None:
    """Every crop of the micro-batch has the same say: the sum is divided by the crops, whoever labelled them."""
    method, alone = _taught(), tiny_adaptation("full", replayed=())
    batch = to_device(next(tiny_batches(1, 0, 1)), CPU)
    dogs = batch.groups[1]
    only = replace(
        batch, images=batch.images[dogs.start :], groups=(replace(dogs, start=0, stop=dogs.stop - dogs.start),)
    )
    ours, theirs = (model.eval()(data)["loss/dogs"] for model, data in ((method, batch), (alone, only)))
    assert ours.item() == pytest.approx(theirs.item() * len(only) / len(batch), rel=1e-5)


def _taught(strategy: Any = "full", **fields: Any) -> Adaptation:
    """Adapts to dogs with labels, and with pictures of "people" of which nobody says where a dog's points are."""
    settings = {**EVERYTHING, **fields}
    return tiny_adaptation(strategy, replayed=(), unlabelled=settings, unlabelled_sets=("people",))


def test_labels_of_unlabelled_pictures_are_not_read() -> None:
    """Nor could they be here: they are of five points, and the head that learns has seven."""
    method = _taught(ramp_up=0.0).eval()
    method.begin_step(0, 10)
    batch = to_device(next(tiny_batches(1, 0, 1)), CPU)
    other = replace(
        batch.groups[0],
        keypoints_crop=torch.full_like(batch.groups[0].keypoints_crop, float("nan")),
        weights=torch.full_like(batch.groups[0].weights, float("nan")),
    )
    ours, theirs = method(batch), method(replace(batch, groups=(other, batch.groups[1])))
    assert ours.keys() == theirs.keys() == {"loss/dogs", "unlabelled/people"}
    assert all(torch.equal(loss, theirs[name]) for name, loss in ours.items())
    assert ours["unlabelled/people"] > 0


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _change(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


def _mean_of(states: list[dict[str, Tensor]], shares: list[float]) -> Mapping[str, Tensor]:
    return {
        name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True)).float()
        for name in states[0]
    }


def test_the_average_has_the_closed_form_in_weights_and_in_buffers() -> None:
    """A plain mean at first, then a geometric one; counts are the last ones."""
    student = tiny_model()
    teacher = MeanTeacher(student, MeanTeacherConfig(ema_decay=0.75), "dogs", ["frames"])
    states = []
    for step in range(7):
        if step:
            _change(student, step)
        states.append(_state(student))
        teacher.begin_step(student, step, 100)
        if step == 2:
            plain = _mean_of(states, [1 / 3] * 3)
            assert not _differing(plain, _state(teacher.model))
    # Students 0 to 3 have equal shares, as 1 - 1/4 is the decay; from then on the last one comes in with a quarter.
    shares = [0.25 * 0.75**3] * 4 + [0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    expected, ours = _mean_of(states, shares), _state(teacher.model)
    assert not _differing(expected, ours)
    assert any("running_var" in name for name in ours)
    counts = [name for name in ours if "num_batches" in name]
    assert counts
    assert all(ours[name] == states[-1][name] for name in counts)


def _differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [
        name
        for name in first
        if "num_batches" not in name and not torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-5)
    ]


def test_it_is_never_trained_optimised_or_in_training_mode() -> None:
    method = _taught("lora").train()
    assert method.model.training
    teacher = method.mean_teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = _state(teacher)
    sum(method(to_device(next(tiny_batches(1, 0, 1)), CPU)).values()).backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert any(isinstance(module, _BatchNorm) for module in teacher.modules())


def test_it_stays_in_float32_beside_a_bfloat16_student() -> None:
    student = tiny_model().to(torch.bfloat16)
    teacher = MeanTeacher(student, MeanTeacherConfig(ema_decay=0.999), "dogs", ["frames"])
    _change(student, 1)
    teacher.begin_step(student, 10_000, 20_000)
    floats = [tensor for tensor in teacher.model.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}


def test_unsure_points_do_not_count() -> None:
    images, _ = _dots(4)
    batch = _batch(images)
    model = ColourModel()
    maxima = model.run_head("dots", model.features(batch.images, [])).amax(dim=(2, 3))

    def counted(**fields: float) -> Tensor:
        config = MeanTeacherConfig.model_validate({**EVERYTHING, **fields, "view": STILL})
        teacher = MeanTeacher(model, config, "dots", ["frames"])
        weights = teacher.teach(batch).groups["frames"].weights
        share, confidence = (total / number for total, number in teacher.observations().values())
        assert share.item() == pytest.approx(weights.mean().item())
        assert confidence.item() == pytest.approx(maxima.mean().item(), rel=1e-5)
        assert teacher.observations() == {}
        for _ in range(2):
            teacher.teach(batch)
        assert [number.item() for _, number in teacher.observations().values()] == [2 * weights.numel()] * 2
        return weights > 0

    assert counted().all()
    bound = maxima.flatten().sort().values[6].item()
    assert torch.equal(counted(confidence=bound), maxima >= bound)
    assert torch.equal(counted(mask_share=0.5), maxima >= bound)
    assert counted(mask_share=0.75).sum() == 3
    assert not counted(confidence=1e6).any()


def test_points_that_may_be_far_off_do_not_count_where_that_is_asked_for() -> None:
    images, _ = _dots(4)
    images[2:] = nn.functional.avg_pool2d(images[2:].float(), 25, stride=1, padding=12).to(images.dtype)
    batch, model = _batch(images), ColourModel()

    def counted(**fields: float) -> Tensor:
        config = MeanTeacherConfig.model_validate({**EVERYTHING, **fields, "view": STILL})
        return MeanTeacher(model, config, "dots", ["frames"]).teach(batch).groups["frames"].weights > 0

    codec = model.codec("dots")
    outputs = model.run_head("dots", model.features(batch.images, []))
    places, _ = codec.decode(outputs)
    step = torch.tensor([95 / 23, 127 / 31])
    sigmas = (codec.covariances(outputs, places).diagonal(dim1=2, dim2=3) * step**2).mean(dim=-1).sqrt() / 128
    bound = 1.0001 * sigmas.flatten().sort().values[8].item()
    assert counted().all()
    assert torch.equal(counted(most_sigma=bound), sigmas <= bound)
    assert counted(most_sigma=bound).sum() == 9
    model.card = model.card.model_copy(update={"uncertainty": (_calibrated(scale=4.0),)})
    assert torch.equal(counted(most_sigma=2 * bound), sigmas <= bound), "it is twice as far off as its maps say"


def _calibrated(scale: float) -> HeadUncertainty:
    whole = Fit(points=9, units=9, scale=scale, radius=2.0, visible=None)
    return HeadUncertainty(
        head="dots", weights="", flip_test=False, path="regression", level=0.9, unit="image", data="dots", digest="",
        points=("left", "right", "middle"), whole=whole,
    )  # fmt: skip


def test_its_weight_grows() -> None:
    """``exp(-5 (1 - x)²)`` of Laine and Aila (arXiv 1610.02242)."""
    config = MeanTeacherConfig(weight=3.0, ramp_up=0.5)
    assert config.strength(0, 100) == pytest.approx(3 * 0.006738, rel=1e-3)
    assert config.strength(25, 100) == pytest.approx(3 * 0.286505, rel=1e-3)
    assert config.strength(50, 100) == config.strength(99, 100) == 3.0
    assert MeanTeacherConfig(ramp_up=0.0).strength(0, 100) == 1.0


@pytest.mark.parametrize("strategy", ["full", "lora", "expert", "frozen-backbone", "prototypes", "two-stage"])
def test_every_kind_of_strategy_learns_from_it_what_it_may(strategy: str) -> None:
    method = _taught(strategy, ramp_up=0.0).train()
    method.begin_step(5, 10)
    batch = to_device(next(tiny_batches(0, 0, 1)), CPU)  # without a dog: the teacher's labels alone
    assert batch.groups[1].start == batch.groups[1].stop
    losses = method(batch)
    losses["unlabelled/people"].backward()
    head = method.model.heads["dogs"].final_layer.weight
    assert head.grad is not None
    assert head.grad.abs().max() > 0
    touched = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert all(parameter.requires_grad for name, parameter in method.named_parameters() if name in touched)
    assert any("backbone" in name for name in touched) == (strategy not in ("frozen-backbone", "prototypes"))


def test_the_parent_is_asked_about_unlabelled_pictures_too() -> None:
    settings = {"replayed": (), "distillation": 0.5, "old_heads": ("horses",), "drop_path": 0.0}
    method = tiny_adaptation("full", unlabelled={**EVERYTHING}, unlabelled_sets=("people",), **settings).eval()
    with torch.no_grad():
        for parameter in method.model.parameters():
            parameter.mul_(1.05)
    batch = to_device(next(tiny_batches(0, 0, 1)), CPU)
    assert method(batch)["kept/horses"] > 0


def test_a_batch_without_unlabelled_pictures_adds_an_exact_zero() -> None:
    method = tiny_adaptation("full", unlabelled={**EVERYTHING}, unlabelled_sets=("dogs2",))
    batch = to_device(next(tiny_batches(1, 0, 1)), CPU)
    empty = replace(batch.groups[1], dataset="dogs2", start=len(batch), stop=len(batch))
    empty = replace(
        empty,
        **{name: getattr(empty, name)[:0] for name in ("keypoints_crop", "weights", "scale", "seeds")},
    )
    losses = method(replace(batch, groups=(*batch.groups, empty)))
    assert losses["unlabelled/dogs2"] == 0
    assert method.mean_teacher.observations()["unlabelled/used_share"].tolist() == [0, 0]


@pytest.mark.parametrize(("precision", "accumulation"), [("fp32", 1), ("bf16", 2)])
def test_a_stopped_run_ends_like_one_left_alone(tmp_path: Path, precision: Any, accumulation: int) -> None:
    """To the last bit, the teacher's own tensors and the losses included; the log shows what is no loss."""
    logged: dict[str, list[tuple[int, dict[str, float]]]] = {"whole": [], "other": []}

    def run(name: str, **more: Any) -> Adaptation:
        def log(metrics: Mapping[str, float], step: int) -> None:
            logged[name].append((step, dict(metrics)))

        method = tiny_adaptation(
            "full", drop_path=0.2, replayed=(), unlabelled=EVERYTHING | {"ramp_up": 0.5}, unlabelled_sets=("people",)
        )
        context, engine = LocalContext(tmp_path / name, log), TorchEngineConfig(precision=precision)
        tiny_training(context, engine, method=method, accumulation=accumulation, **more)
        return method

    whole = run("whole")
    with pytest.raises(Stopped):
        run("other", before_step=stop_at(5))
    logged["other"] = logged["other"][:1]  # the run that goes on begins after step 3 and repeats what came after it
    resumed = run("other")
    theirs = resumed.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in whole.state_dict().items())
    last = {name: dict(records[-1][1]) for name, records in logged.items()}
    kept = [name for name in last["whole"] if "/" in name]
    assert {"loss/dogs", "unlabelled/people", "unlabelled/used_share", "unlabelled/confidence"} <= set(kept)
    assert all(last["whole"][name] == last["other"][name] for name in kept)
    assert last["whole"]["loss"] == pytest.approx(last["whole"]["loss/dogs"] + last["whole"]["unlabelled/people"])
    folder = newest(tmp_path / "other")
    weights = load_checkpoint(folder)[0].weights
    moved = "mean_teacher.model.heads.dogs.final_layer.weight"
    assert not torch.equal(weights[moved], resumed.model.heads["dogs"].final_layer.weight)


def test_simcc_heads_are_taught_as_well() -> None:
    card = ModelConfig.model_validate({"backbone": "rtmpose-t", "input_size": (64, 64)})
    torch.manual_seed(0)
    model = build_model(card, {"dots": POINTS}).eval()
    config = MeanTeacherConfig.model_validate({"confidence": -10.0, "mask_share": 0.5})
    teacher = MeanTeacher(model, config, "dots", ["frames"])
    images, _ = _dots(4)
    group = teacher.teach(_batch(images[:, :64, :64])).groups["frames"]
    targets, weights = model.codec("dots").encode(group.keypoints_crop, group.weights)
    assert targets.shape == (4, 3, 256)
    assert (weights <= 1).all()


def test_depth_goes_along_into_the_view_and_to_the_teacher() -> None:
    torch.manual_seed(1)
    student = tiny_model(depth_input=True).eval()
    with torch.no_grad():
        student.backbone.patch_embed.depth_proj.weight.normal_(std=0.1)
    config = MeanTeacherConfig.model_validate(EVERYTHING | {"view": {"occlusion_probability": 0.0}})
    teacher = MeanTeacher(student, config, "dogs", ["people"])
    batch = to_device(with_depth(next(tiny_batches(2, 0, 1)), rank=0), CPU)
    people = batch.groups[0]
    taught, blind = teacher.teach(batch), teacher.teach(replace(batch, depth=None))
    views = Views.drawn(people.seeds, tuple(batch.images.shape[2:]), config.view)
    expected = views.carry_depth(batch.depth[: people.stop])
    assert torch.equal(taught.batch.depth[: people.stop], expected)
    assert torch.equal(taught.batch.depth[people.stop :], batch.depth[people.stop :])
    assert blind.batch.depth is None
    assert not torch.equal(taught.groups["people"].keypoints_crop, blind.groups["people"].keypoints_crop)


def test_copying_leaves_the_student_as_it_is() -> None:
    student = tiny_model()
    before = copy.deepcopy(student)
    MeanTeacher(student, MeanTeacherConfig(), "dogs", ["frames"])
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in before.named_parameters()]
