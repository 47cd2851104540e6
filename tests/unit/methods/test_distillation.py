"""Each term against its formula spelled out, what is frozen, what survives a resume, and what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch, DeviceGroup, to_device
from posecore.methods.belief import believed
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.feature_alignment import PUBLISHED_WEIGHT, FeatureAlignment
from posecore.methods.head_distillation import HeadDistillation, HeadDistillationConfig
from posecore.methods.losses import output_loss
from posecore.methods.staged import StagedMethod
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig, SimpleHeadConfig
from posecore.models.heads.instance_norm import InstanceNormHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import save_model
from posecore.models.sources import ModelFolder
from posecore.models.weights.read import read_weights
from posecore.schema import CropBatch, CropGroup, KeypointState
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.training.context import LocalContext
from posecore.training.ema import AverageConfig
from posecore.training.loop import TrainingConfig, train
from posecore.training.optimizer import OptimizerConfig
from tests.support.checkpoints import State, load_checkpoint, newest
from tests.support.onnx_files import BINS_SIZE, binned, expected_bins
from tests.support.tiny_training import Stopped, stop_at

CPU = torch.device("cpu")
SIZE = (64, 32)
ANYWHERE = ModelFolder(source="given by the test")
NAMES = {"people": ("nose", "left_hand", "right_hand"), "dogs": ("nose", "tail")}


def _skeletons(**names: tuple[str, ...]) -> dict[str, Skeleton]:
    return {
        dataset: Skeleton(name=dataset, keypoints=tuple(Keypoint(name=name, union=name) for name in points))
        for dataset, points in names.items()
    }


def _rtmpose(seed: int = 0, widen: float = 0.1, size: tuple[int, int] = SIZE, **names: tuple[str, ...]) -> PoseModel:
    torch.manual_seed(seed)
    head = RtmccHeadConfig(token_dim=16, attention_dim=8, kernel=3)
    config = ModelConfig(backbone=CspnextConfig(deepen=0.1, widen=widen), head=head, input_size=size)
    return _bold(build_model(config, _skeletons(**(names or NAMES))))


def _vit(seed: int = 0, size: tuple[int, int] = SIZE, experts: float = 0, **names: tuple[str, ...]) -> PoseModel:
    torch.manual_seed(seed)
    backbone = VitConfig(embed_dim=32, depth=1, num_heads=2, drop_path=0.0, expert_share=experts)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=size)
    return _bold(build_model(config, _skeletons(**(names or NAMES))))


def _simple(seed: int = 0) -> PoseModel:
    """ViTPose's other decoder."""
    torch.manual_seed(seed)
    backbone = VitConfig(embed_dim=32, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=SimpleHeadConfig(), input_size=SIZE)
    return _bold(build_model(config, _skeletons(**NAMES)))


def _sapiens(seed: int = 0) -> PoseModel:
    """Four times as many pixels, another head and another spread, as the published ones have."""
    torch.manual_seed(seed)
    backbone = VitConfig(embed_dim=32, depth=1, num_heads=2, position="plain")
    head = InstanceNormHeadConfig(deconv_channels=(8, 8), conv_channels=(8, 8))
    size = (2 * SIZE[0], 2 * SIZE[1])
    config = ModelConfig(backbone=backbone, head=head, input_size=size, heatmap_sigma=6.0, blur_border="zero")
    return _bold(build_model(config, _skeletons(**NAMES)))


def _sapiens2(seed: int = 0) -> PoseModel:
    torch.manual_seed(seed)
    backbone = Sapiens2Config(embed_dim=32, depth=2, num_heads=2, num_full_blocks=1)
    head = InstanceNormHeadConfig(deconv_channels=(8, 8), conv_channels=(8, 8, 8), initialisation="kaiming")
    config = ModelConfig(backbone=backbone, head=head, input_size=SIZE, heatmap_sigma=3.0)
    return _bold(build_model(config, _skeletons(**NAMES)))


def _bold(model: PoseModel) -> PoseModel:
    """Fresh heads say nearly nothing; a trained one has opinions."""
    for head in model.heads.values():
        nn.init.normal_(head.final_layer.weight, std=0.5)
        if isinstance(model.config.head, RtmccHeadConfig):
            nn.init.normal_(head.cls_x.weight, std=0.3)
            nn.init.normal_(head.cls_y.weight, std=0.3)
    return model


def _crops(step: int = 0, people: int = 3, dogs: int = 1, state: int = KeypointState.VISIBLE) -> CropBatch:
    generator = np.random.default_rng(step)
    groups, first = [], 0
    for dataset, count in (("people", people), ("dogs", dogs)):
        points = len(NAMES[dataset])
        states = np.full((count, points), state, np.uint8)
        states[:1, :1] = KeypointState.UNLABELLED
        groups.append(
            CropGroup(
                dataset=dataset,
                start=first,
                stop=first + count,
                keypoints_crop=generator.uniform(2, 30, (count, points, 2)).astype(np.float32),
                state=states,
                center=np.zeros((count, 2), np.float32),
                scale=np.ones((count, 2), np.float32),
                rotation=np.zeros(count, np.float32),
                flipped=np.zeros(count, bool),
                rows=np.arange(count),
                seeds=np.arange(count),
            )
        )
        first += count
    images = generator.integers(0, 256, (people + dogs, *SIZE, 3), np.uint8)
    return CropBatch(images=images, groups=tuple(groups), step=step, epoch=0)


def _batch(**changes: int) -> DeviceBatch:
    return to_device(_crops(**changes), CPU)


def _distillation(
    student: PoseModel | None = None, teacher: PoseModel | None = None, **changes: object
) -> Distillation:
    config = DistillationConfig.model_validate({"teacher": ANYWHERE} | changes)
    return Distillation(student or _rtmpose(), teacher or _rtmpose(1, widen=0.2), config).eval()


# -- the terms ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_outputs_spelled_out() -> None:
    codec = _rtmpose().codec("people")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 192, generator=generator) for _ in range(2))
    expected = 0.0
    for ours, theirs in zip(student.double(), teacher.double(), strict=True):
        for k in range(3):
            for bins in (slice(0, 64), slice(64, 192)):
                s = (10 * ours[k, bins]).exp() / (10 * ours[k, bins]).exp().sum()
                t = (10 * theirs[k, bins]).exp() / (10 * theirs[k, bins]).exp().sum()
                expected += (t * (t / s).log()).sum().item()
    loss = output_loss(codec, student, teacher, num_samples=5)
    assert loss.item() == pytest.approx(expected / (3 * 5), rel=1e-4)


def test_an_onnx_file_teaches_by_its_outputs(tmp_path: Path) -> None:
    """The loss is that of a teacher who says the same; nothing of it learns, and no gradient asks for it."""
    names = ("nose", "left_hand", "right_hand", *(f"other{number}" for number in range(13)))
    skeletons = _skeletons(people=names)
    teacher = read_weights(binned(tmp_path / "teacher.onnx"), skeletons=skeletons)
    student = _rtmpose(size=BINS_SIZE, people=NAMES["people"])
    with pytest.raises(ConfigError, match=r"method\.feature_weight: the teacher is an ONNX file"):
        _distillation(student, teacher)
    method = _distillation(student, teacher, feature_weight=0)
    crops = replace(_crops(dogs=0), images=np.random.default_rng(0).integers(0, 256, (3, *BINS_SIZE, 3), np.uint8))
    batch = to_device(replace(crops, groups=crops.groups[:1]), CPU)
    terms = method.losses(batch)
    answers, said = expected_bins(batch.images)[:, :3], student.predict(batch.images, "people")
    codec = student.codec("people")
    expected = 0.1 * output_loss(codec, said, believed(answers, codec, codec), num_samples=3)
    torch.testing.assert_close(terms["outputs/people"], expected, rtol=1e-4, atol=1e-5)
    terms["outputs/people"].backward()
    assert all(parameter.grad is not None for parameter in student.heads["people"].cls_x.parameters())
    assert "graph" not in "".join(method.state_dict()), "checkpoints do not hold the teacher"


def test_the_gradient_of_outputs_is_the_difference_of_the_distributions() -> None:
    codec = _rtmpose().codec("people")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 2, 192, generator=generator) for _ in range(2))
    student.requires_grad_()
    output_loss(codec, student, teacher, num_samples=1).backward()
    s, t = ((10 * codec.split(logits)[0]).softmax(-1) for logits in (student.detach(), teacher))
    assert student.grad is not None
    torch.testing.assert_close(codec.split(student.grad)[0], 10 * (s - t) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("ours_size", "theirs_size"), [((4, 3), (4, 3)), ((8, 3), (4, 6)), ((2, 5), (6, 7))])
def test_the_mean_of_features_is_over_channels_places_and_crops(
    ours_size: tuple[int, int], theirs_size: tuple[int, int]
) -> None:
    alignment = FeatureAlignment(5, ours_size, 5, theirs_size)
    ours, theirs = torch.full((3, 5, *ours_size), 2.5), torch.full((3, 5, *theirs_size), 0.5)
    assert alignment(ours, theirs, "mean").item() == pytest.approx(4.0)
    places = min(ours_size[0], theirs_size[0]) * min(ours_size[1], theirs_size[1])
    assert alignment(ours, theirs, "sum").item() == pytest.approx(4.0 * 5 * places)


def test_features_as_published_spelled_out() -> None:
    torch.manual_seed(0)
    alignment = FeatureAlignment(4, (2, 1), 6, (2, 1))
    ours, theirs = torch.randn(3, 4, 2, 1), torch.randn(3, 6, 2, 1)
    convolution = alignment.projection
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    projected = torch.einsum("oc,nchw->nohw", convolution.weight[:, :, 0, 0], ours) + convolution.bias[:, None, None]
    total = ((theirs - projected) ** 2).sum().item() / 3
    assert alignment(ours, theirs, "sum").item() == pytest.approx(total, rel=1e-5)
    assert alignment(ours, theirs, "mean").item() == pytest.approx(total / 12, rel=1e-5)


def test_maps_of_another_stride_are_averaged_onto_the_coarser_grid() -> None:
    finer = torch.arange(32.0).view(1, 1, 8, 4)
    blocks = finer.view(4, 2, 2, 2).mean((1, 3))[None, None]
    for ours, theirs, ours_size, theirs_size in ((finer, blocks, (8, 4), (4, 2)), (blocks, finer, (4, 2), (8, 4))):
        alignment = FeatureAlignment(1, ours_size, 1, theirs_size)
        assert list(alignment.parameters()) == []
        assert alignment(ours, theirs, "sum") == 0


def test_the_mean_with_its_equivalent_weight_is_the_sum() -> None:
    batch = _batch()
    terms = [_distillation(feature_reduction=reduction)(batch)["features"] for reduction in ("sum", "mean")]
    torch.testing.assert_close(*terms)
    method = _distillation()
    answer = method.teacher.answer(batch)
    features = method.model.features(batch.images, batch.rows)
    error = ((method.alignment.projection(features) - answer.features) ** 2).sum() / len(batch)
    torch.testing.assert_close(terms[0], PUBLISHED_WEIGHT * error)


def test_labels_and_outputs_weigh_what_they_weighed_on_64_crops_per_gpu_whatever_their_number() -> None:
    student, teacher = _rtmpose(), _rtmpose(1, widen=0.2)
    once, twice = _batch(), _batch()
    doubled = DeviceBatch(
        images=once.images.repeat_interleave(2, 0),
        groups=tuple(
            type(group)(
                dataset=group.dataset,
                start=2 * group.start,
                stop=2 * group.stop,
                keypoints_crop=group.keypoints_crop.repeat_interleave(2, 0),
                weights=group.weights.repeat_interleave(2, 0),
                scale=group.scale.repeat_interleave(2, 0),
                seeds=group.seeds.repeat_interleave(2, 0),
            )
            for group in twice.groups
        ),
    )
    fixed = _distillation(student, teacher)
    for name, term in fixed(once).items():
        torch.testing.assert_close(fixed(doubled)[name], term, atol=1e-5, rtol=1e-4)
    published = _distillation(student, teacher, balance="published")
    ours, theirs = fixed(once), published(once)
    for name in ("loss/people", "loss/dogs"):
        torch.testing.assert_close(ours[name], theirs[name] * 64 / len(once))
        torch.testing.assert_close(published(doubled)[name], 2 * theirs[name], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours["outputs/people"], theirs["outputs/people"])
    plain = SupervisedHeads(student, SupervisedConfig(simcc_reduction="sum")).eval()
    torch.testing.assert_close(theirs["loss/people"], plain(once)["loss/people"])


def test_visibility_concerns_labels_only() -> None:
    """Published on purpose: what the teacher guesses of a point nobody labelled is taught."""
    method = _distillation()
    seen, unlabelled = method(_batch()), method(_batch(state=KeypointState.UNLABELLED))
    assert unlabelled["loss/people"] == 0
    torch.testing.assert_close(unlabelled["outputs/people"], seen["outputs/people"], rtol=0, atol=0)
    assert seen["outputs/people"] > 0


def _with_hands(model: PoseModel) -> PoseModel:
    """The two hands of ``people`` are a group of their own."""
    skeletons = dict(model.skeletons)
    points = [
        point.model_copy(update={"group": "hand" if "hand" in point.name else "body"})
        for point in skeletons["people"].keypoints
    ]
    skeletons["people"] = skeletons["people"].model_copy(update={"keypoints": tuple(points)})
    model.card = model.card.model_copy(update={"skeletons": skeletons})
    return model


@pytest.mark.parametrize("student", [_rtmpose, _vit])
def test_a_group_of_points_counts_less_in_the_loss_of_labels_alone(student: Callable[[], PoseModel]) -> None:
    """The loss is linear in the weight, and with 0 it is that of a batch in which the group is not labelled."""
    model, teacher = _with_hands(student()), _rtmpose(1, widen=0.2)
    batch, handless = _batch(), _batch()
    handless.groups[0].weights[:, 1:] = 0
    terms = {}
    for weight in (0.0, 0.5, 1.0, 3.0):
        torch.manual_seed(0)
        terms[weight] = _distillation(model, teacher, group_weights={"hand": weight}, feature_weight=1e-3)(batch)
    plain = _distillation(model, teacher, feature_weight=1e-3)
    none, one = terms[0.0]["loss/people"], terms[1.0]["loss/people"]
    assert none < one
    torch.testing.assert_close(none, plain(handless)["loss/people"])
    torch.testing.assert_close(one, plain(batch)["loss/people"])
    torch.testing.assert_close(terms[0.5]["loss/people"], (none + one) / 2)
    torch.testing.assert_close(terms[3.0]["loss/people"], none + 3 * (one - none))
    for name in ("loss/dogs", "outputs/people", "outputs/dogs", "features"):
        assert torch.equal(terms[0.5][name], terms[1.0][name])


def test_a_group_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no dataset has points of a group 'hands'; there are body, hand"):
        _distillation(_with_hands(_rtmpose()), group_weights={"hands": 2})


def test_without_labels_nobody_looks_at_them() -> None:
    method = _distillation(labels=False)
    one, other = _batch(), _batch()
    object.__setattr__(other.groups[0], "keypoints_crop", other.groups[0].keypoints_crop + 7)
    assert set(method(one)) == {"features", "outputs/people", "outputs/dogs"}
    for name, term in method(one).items():
        assert torch.equal(term, method(other)[name])


def test_the_teacher_counts_less_and_less_and_never_nothing() -> None:
    smooth, published = _distillation(), _distillation(decay_epochs=3)
    assert isinstance(smooth, StagedMethod)
    assert [smooth.distillation.strength(step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [published.distillation.strength(step, 6) for step in range(6)] == pytest.approx(
        [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]
    )
    batch = _batch()
    before = smooth(batch)
    assert smooth.begin_step(3, 4) == frozenset()
    after = smooth(batch)
    for name in ("features", "outputs/people"):
        torch.testing.assert_close(after[name], before[name] / 4)
    assert torch.equal(after["loss/people"], before["loss/people"])
    assert _distillation(decay="none").distillation.strength(3, 4) == 1


def test_points_are_matched_by_their_names_and_only_common_ones_are_taught() -> None:
    teacher = _rtmpose(1, animals=("tail", "paw", "nose"), humans=("right_hand", "nose", "left_hand"))
    method = _distillation(_rtmpose(), teacher)
    assert [lesson.head for lesson in method.teacher.lessons.values()] == ["humans", "animals"]
    batch = _batch()
    outputs = method.model(batch.images, batch.rows)
    answer = method.teacher.answer(batch).outputs
    expected = output_loss(method.codecs["people"], outputs["people"], answer["people"][:, [1, 2, 0]], len(batch))
    torch.testing.assert_close(method(batch)["outputs/people"], 0.1 * expected)
    chosen = _distillation(_rtmpose(), teacher, teacher_heads={"people": "animals"})
    assert chosen.teacher.lessons["people"].points == (0,)
    assert chosen.teacher.lessons["people"].teacher_points == (2,)


# -- families and sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (_rtmpose, lambda: _vit(1)),
        (_rtmpose, lambda: _vit(1, experts=0.25)),
        (_rtmpose, lambda: _vit(1, size=(128, 64))),
        (_rtmpose, lambda: _simple(1)),
        (_rtmpose, lambda: _sapiens(1)),
        (_rtmpose, lambda: _sapiens2(1)),
        (_vit, lambda: _rtmpose(1)),
        (_vit, lambda: _vit(1, size=(128, 64))),
        (_vit, lambda: _sapiens(1)),
    ],
    ids=[
        *("vit-rtmpose", "experts-rtmpose", "large-vit-rtmpose", "simple-rtmpose", "sapiens-rtmpose"),
        *("sapiens2-rtmpose", "rtmpose-vit", "large-vit-vit", "sapiens-vit"),
    ],
)
def test_any_family_teaches_any(student: Callable[[], PoseModel], teacher: Callable[[], PoseModel]) -> None:
    method = _distillation(student(), teacher(), feature_weight=1e-3).train()
    for batch in (_batch(), _batch(dogs=0)):
        terms = method(batch)
        sum(terms.values()).backward()
        assert all(term.isfinite() for term in terms.values())
        assert terms["features"] > 0
    assert terms["outputs/dogs"].item() == 0
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
    assert all(p.grad is None for p in method.teacher.model.parameters())


def test_two_datasets_that_share_a_head_are_taught_as_one_in_both_stages() -> None:
    """As DWPose concatenates COCO-WholeBody and UBody: the loss is that of one group with all their crops."""
    points = NAMES["people"]
    apart = _rtmpose(people=points, dogs=points)
    shared = apart.config.model_copy(update={"shared_heads": {"dogs": "people"}})
    torch.manual_seed(0)
    student = _lived(_bold(build_model(shared, apart.skeletons)))
    assert list(student.heads) == ["people"]
    batch, teacher = _joint(_batch(people=2, dogs=2)), _rtmpose(1, widen=0.2, humans=points)
    one = DeviceBatch(images=batch.images, groups=(_one_group(batch),))
    stages = (
        Distillation(student, teacher, DistillationConfig(teacher=ANYWHERE)).eval(),
        HeadDistillation(student, _same_but_for_heads(student), HeadDistillationConfig(teacher=ANYWHERE)),
    )
    for method in stages:
        whole, split = method(one), method(batch)
        assert {"outputs/people", "outputs/dogs"} <= split.keys()
        torch.testing.assert_close(sum(split.values()), sum(whole.values()))
        assert whole["outputs/people"] > 0


def _joint(batch: DeviceBatch) -> DeviceBatch:
    """With a third point for the dogs."""
    people, dogs = batch.groups
    points = torch.cat([dogs.keypoints_crop, dogs.keypoints_crop[:, :1] + 3], dim=1)
    weights = torch.ones(points.shape[:2])
    return replace(batch, groups=(people, replace(dogs, keypoints_crop=points, weights=weights)))


def _one_group(batch: DeviceBatch) -> DeviceGroup:
    rows = ("keypoints_crop", "weights", "seeds")
    arrays = {name: torch.cat([getattr(group, name) for group in batch.groups]) for name in rows}
    return replace(batch.groups[0], stop=len(batch), **arrays)


def _same_but_for_heads(model: PoseModel) -> PoseModel:
    other = build_model(model.config, model.skeletons)
    other.backbone.load_state_dict(model.backbone.state_dict())
    return _bold(other)


def test_a_heatmap_teacher_s_student_learns_where_it_looks() -> None:
    """Descent on the outputs alone brings a SimCC student to the place its ViT teacher names."""
    teacher = _vit(1)
    codec, simcc = teacher.codec("people"), _rtmpose().codec("people")
    point = torch.tensor([[[12.3, 40.6]]])
    heatmaps, _ = codec.encode(point, torch.ones(1, 1))
    belief = believed(heatmaps, codec, simcc)
    logits = torch.zeros_like(belief, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        output_loss(simcc, logits, belief, 1).backward()
        optimizer.step()
    torch.testing.assert_close(simcc.decode(logits)[0], 2 * point, atol=1.0, rtol=0)


def test_a_teacher_of_another_size_is_shown_the_crop_with_its_corners_in_its_corners() -> None:
    method = _distillation(_rtmpose(), _vit(1, size=(128, 64)))
    seen: list[torch.Tensor] = []
    method.teacher.model.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    batch = _batch()
    method.teacher.answer(batch)
    assert seen[0].shape[-2:] == (128, 64)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(seen[0][:, :, *corner], batch.images[:, :, *corner])


# -- the teacher is asked, never trained -------------------------------------------------------------------------------


def test_nobody_trains_or_saves_the_teacher() -> None:
    method = _distillation().train()
    before = {name: tensor.clone() for name, tensor in method.teacher.model.state_dict().items()}
    sum(method(_batch()).values()).backward()
    own = {f"model.{name}" for name in method.model.state_dict()} | {
        "alignment.projection.weight",
        "alignment.projection.bias",
    }
    assert set(method.state_dict()) == own
    assert not any(module.training for module in method.teacher.model.modules())
    for name, tensor in method.teacher.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_released_teacher_normalises_with_the_batch() -> None:
    batch = _batch()
    frozen, published = (
        _distillation(teacher=_rtmpose(1), teacher_statistics=statistics) for statistics in ("frozen", "batch")
    )
    answer = published.teacher.answer(batch).features
    assert not torch.allclose(answer, frozen.teacher.answer(batch).features)
    reference = _rtmpose(1).train()
    torch.testing.assert_close(answer, reference.features(batch.images, batch.rows))
    published.teacher.answer(_batch(dogs=0))
    torch.testing.assert_close(published.teacher.answer(batch).features, answer)


# -- second stage ------------------------------------------------------------------------------------------------------


def _head_distillation(**changes: object) -> HeadDistillation:
    config = HeadDistillationConfig.model_validate({"teacher": ANYWHERE} | changes)
    return HeadDistillation(_rtmpose(seed=5), _lived(_rtmpose(seed=1)), config).train()


def _lived(model: PoseModel) -> PoseModel:
    """With statistics that are not those of a fresh model."""
    model.train()
    with torch.no_grad():
        for step in range(3):
            batch = _batch(step=step)
            model.features(batch.images, batch.rows)
    return model.eval()


def test_a_fresh_head_learns_on_a_backbone_that_stays_bit_for_bit() -> None:
    method = _head_distillation()
    teacher = _lived(_rtmpose(seed=1))
    batch = _batch()
    heads = {name: tensor.clone() for name, tensor in method.model.heads.state_dict().items()}
    learns = [parameter for parameter in method.parameters() if parameter.requires_grad]
    assert {id(p) for p in learns} == {id(p) for p in method.model.heads.parameters()}
    optimizer = torch.optim.AdamW(learns, lr=1e-2, weight_decay=0.1)
    first = sum(method(batch).values()).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = sum(method(batch).values())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first
    for name, tensor in method.model.backbone.state_dict().items():
        assert torch.equal(tensor, teacher.backbone.state_dict()[name]), name
    moved = [not torch.equal(tensor, heads[name]) for name, tensor in method.model.heads.state_dict().items()]
    assert all(moved)
    with torch.no_grad():
        outputs, taught = method.model.eval()(batch.images, batch.rows), teacher(batch.images, batch.rows)
        expected = output_loss(method.codecs["dogs"], outputs["dogs"], taught["dogs"], len(batch))
        torch.testing.assert_close(method(batch)["outputs/dogs"], expected)
    assert not any("teacher" in name for name in method.state_dict())


def test_the_published_drift_moves_statistics_and_nothing_else() -> None:
    method = _head_distillation(backbone_statistics="drift")
    before = {name: tensor.clone() for name, tensor in method.model.backbone.state_dict().items()}
    sum(method(_batch()).values()).backward()
    for name, tensor in method.model.backbone.state_dict().items():
        drifts = "running" in name or "num_batches" in name
        assert torch.equal(tensor, before[name]) != drifts, name
    assert all(p.grad is None for p in method.model.backbone.parameters())
    method.eval()
    after = {name: tensor.clone() for name, tensor in method.model.backbone.state_dict().items()}
    method(_batch())
    assert all(torch.equal(tensor, after[name]) for name, tensor in method.model.backbone.state_dict().items())


# -- the real loop -----------------------------------------------------------------------------------------------------


def _stage_one(folder: Path) -> Distillation:
    teacher = ModelFolder.at(folder / "teacher")
    return DistillationConfig(teacher=teacher).build(_rtmpose())


def _stage_two(folder: Path) -> HeadDistillation:
    teacher = ModelFolder.at(folder / "stage1")
    return HeadDistillationConfig(teacher=teacher, backbone_statistics="drift").build(_rtmpose(seed=7))


def _train(method: nn.Module, run_dir: Path, stop_before: int | None = None, checkpoint_every: int = 2) -> State:
    check = stop_at(stop_before)

    def batches(start: int) -> Iterator[CropBatch]:
        for step in range(start, 6):
            check(step)
            yield _crops(step, dogs=step % 2, people=4 - step % 2)

    config = TrainingConfig(
        steps=6,
        global_batch=4,
        seed=3,
        optimizer=OptimizerConfig(lr=1e-3, layer_decay=1.0),
        checkpoint_every=checkpoint_every,
        average=AverageConfig(momentum=0.7, warmup=0),
        progress=False,
    )
    torch.set_num_threads(1)
    context = LocalContext(run_dir)
    try:
        train(method, batches, config, context)
    except Stopped:
        assert stop_before is not None
    folder = newest(context)
    return load_checkpoint(folder)[0]


@pytest.mark.parametrize("stage", [_stage_one, _stage_two], ids=["first", "second"])
def test_either_stage_resumes_bit_for_bit(stage: Callable[[Path], nn.Module], tmp_path: Path) -> None:
    """With r in the first and drifting statistics in the second; the teacher is read anew and in no checkpoint."""
    save_model(_lived(_rtmpose(1, widen=0.2)), tmp_path / "teacher")
    save_model(_lived(_rtmpose(2)), tmp_path / "stage1")
    alone = _train(stage(tmp_path), tmp_path / "alone")
    for stop_before in (1, 3, 5):
        run_dir = tmp_path / f"stopped{stop_before}"
        _train(stage(tmp_path), run_dir, stop_before, checkpoint_every=stop_before)
        resumed = _train(stage(tmp_path), run_dir)
        for section in ("weights", "exp_avg", "exp_avg_sq", "buffers", "average"):
            ours, theirs = getattr(alone, section), getattr(resumed, section)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours), (section, stop_before)
    assert all(name.startswith(("model.", "alignment.")) for name in alone.weights)
    if stage is _stage_two:
        trained = _lived(_rtmpose(2)).backbone.state_dict()
        kept = {n.removeprefix("model.backbone."): t for n, t in alone.weights.items() if ".backbone." in n}
        assert all(torch.equal(tensor, trained[name]) for name, tensor in kept.items())
        assert not any(".backbone." in name for name in alone.exp_avg)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "changes", "sentence"),
    [
        (_rtmpose, lambda: _rtmpose(hands=("thumb",)), {}, "none of its heads .hands. that could teach people"),
        (_rtmpose, lambda: _rtmpose(), {"teacher_heads": {"people": "cats"}}, "no head 'cats'; it has people, dogs"),
        (_rtmpose, lambda: _rtmpose(), {"teacher_heads": {"cats": "dogs"}}, "'cats' is no dataset of the student"),
        (_rtmpose, lambda: _rtmpose(size=(64, 64)), {}, "crops of 64x64 .* another shape than the student's 64x32"),
        (_vit, lambda: _vit(), {}, "none is published for a student with heatmaps"),
    ],
    ids=["no-common-point", "no-such-head", "no-such-dataset", "another-aspect", "no-weight"],
)
def test_what_does_not_go_together_is_refused(
    student: Callable[[], PoseModel], teacher: Callable[[], PoseModel], changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _distillation(student(), teacher(), **changes)


def test_a_teacher_without_heads_is_refused() -> None:
    encoder = build_model(_vit().config, {})
    with pytest.raises(ConfigError, match="a backbone without any head and knows no points"):
        _distillation(_rtmpose(), encoder)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        DistillationConfig(teacher=ANYWHERE, labels=False, feature_weight=0, output_weight=0)


def test_a_fresh_head_needs_a_teacher_of_its_own_kind() -> None:
    config = HeadDistillationConfig(teacher=ANYWHERE)
    for teacher, sentence in (
        (_rtmpose(widen=0.2), "differs in backbone; distil into the student first"),
        (_rtmpose(people=NAMES["people"]), "no head with the points of dogs; it has people"),
        (_rtmpose(cats=("tail",), **NAMES), "also knows cats, which a fresh head would forget"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            HeadDistillation(_rtmpose(), teacher, config)
