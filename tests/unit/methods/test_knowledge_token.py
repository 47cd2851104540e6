"""The loss against its formula on patches and token put together by hand, what changes and what must not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch, to_device
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.head_distillation import HeadDistillation, HeadDistillationConfig
from posecore.methods.knowledge_token import KnowledgeToken, KnowledgeTokenConfig, take_tokens, with_tokens
from posecore.methods.simcc_loss import simcc_loss
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.heads.door import HeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder
from posecore.schema import CropBatch, CropGroup, KeypointState
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig, train
from posecore.training.optimizer import OptimizerConfig
from posecore.training.schedule import MultiStepSchedule
from tests.support.checkpoints import State, load_checkpoint, newest
from tests.support.tiny_training import Stopped, stop_at

CPU = torch.device("cpu")
SIZE = (64, 48)
ANYWHERE = ModelFolder(source="given by the test")
POINTS = {"people": ("nose", "left_hand", "right_hand"), "dogs": ("nose", "tail")}
TEACHER_POINTS = {"humans": ("right_hand", "elbow", "nose", "left_hand"), "dogs": ("nose", "tail")}


def _config(width: int = 32, head: HeadConfig | None = None, **backbone: float) -> ModelConfig:
    vit = VitConfig(embed_dim=width, depth=2, num_heads=2, **backbone)
    return ModelConfig(backbone=vit, head=head or ClassicHeadConfig(channels=8), input_size=SIZE)


def _model(config: ModelConfig, points: dict[str, tuple[str, ...]] = POINTS, seed: int = 0) -> PoseModel:
    """With weights, and statistics of BatchNorm, far from the initial ones: it has opinions."""
    skeletons = {
        dataset: Skeleton(name=dataset, keypoints=tuple(Keypoint(name=name, union=name) for name in names))
        for dataset, names in points.items()
    }
    torch.manual_seed(seed)
    model = build_model(config, skeletons)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.3 * torch.randn(tensor.shape)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model


def _teacher(**changes: float) -> PoseModel:
    return _model(_config(drop_path=0.5, **changes), TEACHER_POINTS, seed=1)


def _crops(step: int = 0) -> CropBatch:
    generator = np.random.default_rng(step)
    groups, first = [], 0
    for dataset, count in (("people", 3), ("dogs", step % 2)):
        state = np.full((count, len(POINTS[dataset])), KeypointState.VISIBLE, np.uint8)
        state[:1, :1] = KeypointState.UNLABELLED
        points = generator.uniform(4, 44, (*state.shape, 2)).astype(np.float32)
        zeros, rows = np.zeros(count, np.float32), np.arange(count)
        groups.append(
            CropGroup(
                dataset=dataset,
                start=first,
                stop=first + count,
                keypoints_crop=points,
                state=state,
                center=np.zeros((count, 2), np.float32),
                scale=np.ones((count, 2), np.float32),
                rotation=zeros,
                flipped=zeros.astype(bool),
                rows=rows,
                seeds=rows,
            )
        )
        first += count
    images = generator.integers(0, 256, (first, *SIZE, 3), np.uint8)
    return CropBatch(images=images, groups=tuple(groups), step=step, epoch=0)


def _batch(step: int = 1) -> DeviceBatch:
    return to_device(_crops(step), CPU)


def _learning(teacher: PoseModel | None = None, number: int = 1) -> KnowledgeToken:
    teacher = teacher or _teacher()
    config = KnowledgeTokenConfig(teacher=ANYWHERE, number=number)
    stand_in = _model(config.architecture(teacher.config))
    torch.manual_seed(2)
    return KnowledgeToken(stand_in, teacher, config).train()


def _outputs(teacher: PoseModel, batch: DeviceBatch, tokens: Tensor, heads: dict[str, str]) -> dict[str, Tensor]:
    """Patches and tokens put together by hand, through the teacher's blocks."""
    teacher = teacher.eval()
    vit = teacher.backbone
    groups = [(heads[dataset], start, stop) for dataset, start, stop in batch.rows]
    patches = vit.add_position(vit.patch_embed(batch.images).flatten(2).transpose(1, 2))
    x = torch.cat([patches, torch.stack([tokens] * len(batch))], dim=1)
    for block in vit.blocks:
        x = block(x, groups)
    x = vit.last_norm(x)[:, : 4 * 3]
    features = x.transpose(1, 2).reshape(len(batch), -1, 4, 3)
    return {dataset: teacher.heads[heads[dataset]](features[start:stop]) for dataset, start, stop in batch.rows}


# -- the teacher learns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "experts"), [(1, 0.0), (2, 0.25)])
def test_the_loss_is_the_squared_error_of_the_labels_with_the_token_among_the_patches(
    number: int, experts: float
) -> None:
    teacher, batch = _teacher(expert_share=experts), _batch()
    method = _learning(teacher, number)
    assert method.token.shape == (number, 32)
    outputs = _outputs(teacher, batch, method.token, {"people": "humans", "dogs": "dogs"})
    of_people = outputs["people"][:, [2, 3, 0]]  # by name; nobody labels an elbow here
    terms = method(batch)
    for group, maps in zip(batch.groups, (of_people, outputs["dogs"]), strict=True):
        targets, _ = teacher.codec("dogs").encode(group.keypoints_crop, group.weights)
        squared = (maps - targets).square().mean((2, 3)) * group.weights
        expected = squared.sum() / (len(batch) * maps.shape[1])
        torch.testing.assert_close(terms[f"loss/{group.dataset}"], expected)
    without = _learning(teacher, number)
    with torch.no_grad():
        without.token.mul_(3)
    assert not torch.allclose(without(batch)["loss/people"], terms["loss/people"])


def test_a_teacher_with_simcc_learns_by_the_loss_of_simcc() -> None:
    teacher = _model(_config(head=RtmccHeadConfig(token_dim=16, attention_dim=8, kernel=3)), seed=1)
    method, batch = _learning(teacher), _batch()
    outputs = _outputs(teacher, batch, method.token, {"people": "people", "dogs": "dogs"})["people"]
    group, codec = batch.groups[0], teacher.codec("people")
    expected = simcc_loss(codec, outputs, *codec.encode(group.keypoints_crop, group.weights), len(batch))
    torch.testing.assert_close(method(batch)["loss/people"], expected)


def _train(method: nn.Module, run_dir: Path, steps: int = 6, stop_before: int | None = None) -> State:
    check = stop_at(stop_before)

    def batches(start: int) -> Iterator[CropBatch]:
        for step in range(start, steps):
            check(step)
            crops = _crops(1)  # always the same
            yield CropBatch(images=crops.images, groups=crops.groups, step=step, epoch=0)

    optimizer = OptimizerConfig(lr=1e-2, layer_decay=1.0, weight_decay=0.1)
    config = TrainingConfig(
        steps=steps,
        global_batch=4,
        seed=3,
        optimizer=optimizer,
        schedule=MultiStepSchedule(warmup_steps=1, milestones=()),
        checkpoint_every=max(2, steps // 3),
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


def test_the_learned_token_helps_the_teacher_and_nothing_else_of_it_changes(tmp_path: Path) -> None:
    teacher = _teacher()
    method, batch = _learning(teacher), _batch()
    learning = [name for name, parameter in method.model.named_parameters() if parameter.requires_grad]
    assert learning == ["backbone.knowledge_tokens"]
    with torch.no_grad():
        random = sum(method(batch).values()).item()
        plain = _outputs(teacher, batch, torch.zeros(0, 32), {"people": "humans", "dogs": "dogs"})
        targets = [teacher.codec("dogs").encode(group.keypoints_crop, group.weights)[0] for group in batch.groups]
        maps = (plain["people"][:, [2, 3, 0]], plain["dogs"])
        untold = sum(
            ((ours - wanted).square().mean((2, 3)) * group.weights).sum().item() / (len(batch) * ours.shape[1])
            for ours, wanted, group in zip(maps, targets, batch.groups, strict=True)
        )
    state = _train(method, tmp_path, steps=40)
    assert method.training
    assert not any(module.training for module in method.model.modules())
    learned = sum(method(batch).values()).item()
    assert sum(method(batch).values()).item() == learned, "a dropped block would be another one each time"
    assert learned < 0.85 * min(random, untold)
    assert state.weights.keys() == state.exp_avg.keys() == {"token"}
    assert not state.buffers
    after = method.model.state_dict()
    assert torch.equal(after.pop("backbone.knowledge_tokens"), state.weights["token"])
    assert after.keys() == teacher.state_dict().keys()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(after[name], tensor), name


def test_the_token_resumes_bit_for_bit(tmp_path: Path) -> None:
    alone = _train(_learning(), tmp_path / "alone")
    _train(_learning(), tmp_path / "stopped", stop_before=5)
    resumed = _train(_learning(), tmp_path / "stopped")
    assert not torch.equal(alone.weights["token"], _learning().token)
    for section in ("weights", "exp_avg", "exp_avg_sq"):
        assert torch.equal(getattr(alone, section)["token"], getattr(resumed, section)["token"]), section


# -- the student is told -----------------------------------------------------------------------------------------------


def _told(folder: Path, width: int = 16, **terms: object) -> Distillation:
    """A student of a teacher of width 32, each read from where they were saved."""
    save_model(_teacher(), folder / "teacher")
    save_model(_learning().model, folder / "token")
    config = DistillationConfig.model_validate(
        {
            "teacher": ModelFolder.at(folder / "teacher"),
            "token": ModelFolder.at(folder / "token"),
            "feature_weight": 0,
        }
        | terms
    )
    student = with_tokens(_config(width, drop_path=0.1), _teacher().config, 1)
    return config.build(_model(config.architecture(student), seed=5))


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("output_weight", [0.0, 1.0], ids=["token", "token and outputs"])
def test_the_student_learns_with_a_token_that_stays_and_keeps_it(
    width: int, output_weight: float, tmp_path: Path
) -> None:
    method = _told(tmp_path, width, output_weight=output_weight)
    learned = _learning().token.detach()
    before = {name: tensor.clone() for name, tensor in method.model.state_dict().items()}
    assert torch.equal(before["backbone.knowledge_tokens"], learned)
    adapter = [name for name in before if "knowledge_adapter" in name]
    assert len(adapter) == (2 if width == 16 else 0)
    terms = {"loss/people", "loss/dogs"} | ({"outputs/people", "outputs/dogs"} if output_weight else set())
    assert set(method(_batch())) == terms

    state = _train(method, tmp_path / "run")
    assert torch.equal(state.weights["model.backbone.knowledge_tokens"], learned)
    assert "model.backbone.knowledge_tokens" not in state.exp_avg
    for name in ("backbone.patch_embed.proj.weight", "heads.people.final_layer.weight", *adapter):
        assert not torch.equal(state.weights[f"model.{name}"], before[name]), name

    save_model(method.model, tmp_path / "student")
    student = load_model(tmp_path / "student")
    assert torch.equal(student.backbone.knowledge_tokens, learned)
    images = _batch().images
    predicted = student.predict(images, "people")
    assert torch.equal(predicted, method.model.eval().predict(images, "people"))
    student.backbone.knowledge_tokens.data.zero_()
    assert not torch.allclose(student.predict(images, "people"), predicted), "the token speaks at inference, too"


def test_nobody_asks_the_teacher_for_what_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = _told(tmp_path, output_weight=0.0)
    monkeypatch.setattr(method.teacher, "answer", lambda _: pytest.fail("the teacher was asked"))
    method(_batch())


def test_the_second_stage_takes_the_token_with_the_backbone(tmp_path: Path) -> None:
    first = _told(tmp_path)
    fresh = _model(first.model.config, seed=9)
    second = HeadDistillation(fresh, first.model, HeadDistillationConfig(teacher=ANYWHERE))
    assert torch.equal(second.model.backbone.knowledge_tokens, first.model.backbone.knowledge_tokens)
    second(_batch())


# -- refused -----------------------------------------------------------------------------------------------------------


def test_only_plain_vision_transformers_have_a_place_for_a_token() -> None:
    rtmpose = ModelConfig(backbone=CspnextConfig(deepen=0.1, widen=0.1), head=RtmccHeadConfig(), input_size=(64, 64))
    sapiens2 = ModelConfig(backbone=Sapiens2Config(embed_dim=32, depth=2, num_heads=2), input_size=(64, 64))
    told = with_tokens(_config(), _config(16), 1)
    backbone = VitConfig(embed_dim=32, depth=2, num_heads=2, window=2, global_blocks=1)
    windowed = ModelConfig(backbone=backbone, input_size=(64, 64))
    for student, teacher, sentence in (
        (rtmpose, _config(), "the student is a cspnext; leave token out"),
        (sapiens2, _config(), "the student is a sapiens2"),
        (_config(), rtmpose, "the teacher is a cspnext"),
        (windowed, _config(), "the student's blocks attend within windows of 2 tokens"),
        (told, _config(), "the student has knowledge tokens already"),
        (_config(), told, "the teacher has knowledge tokens already"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            with_tokens(student, teacher, 1)
    with pytest.raises(ConfigError, match="the teacher is a cspnext"):
        KnowledgeToken(_model(rtmpose), _model(rtmpose), KnowledgeTokenConfig(teacher=ANYWHERE))


def test_crops_of_another_size_and_students_without_a_place_are_refused() -> None:
    smaller = _model(_config().model_copy(update={"input_size": (32, 32)}))
    with pytest.raises(ConfigError, match="it looks at crops of 64x48, and these are 32x32"):
        KnowledgeToken(smaller, _teacher(), KnowledgeTokenConfig(teacher=ANYWHERE))
    teacher = _learning().model
    with pytest.raises(ConfigError, match="no place for 1 knowledge token of width 32"):
        take_tokens(_model(_config(16)), teacher)
    with pytest.raises(ConfigError, match="has learned no knowledge tokens"):
        take_tokens(_model(_config(16)), _teacher())
