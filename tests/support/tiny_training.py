"""A run of seconds on made-up crops: two datasets, one of them often absent. Started by tests, alone or per rank."""

import gc
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn

from posecore.errors import DivergenceError, PreflightError
from posecore.evaluation.inference import InferenceSettings
from posecore.methods.adaptation import Adaptation, AdaptationConfig, AdaptationTerms
from posecore.methods.batch import DeviceBatch, to_device
from posecore.methods.depth_task import DepthTaskConfig
from posecore.methods.distillation import DistillationConfig
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.methods.knowledge_token import KnowledgeTokenConfig
from posecore.methods.prototypes import PrototypeLearning, PrototypesConfig, StagesConfig
from posecore.methods.self_supervision import AgreementConfig
from posecore.methods.strategies import Roles
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.head import Head
from posecore.models.heads.associative import AssociativeHeadConfig
from posecore.models.heads.classic import ClassicHeadConfig, SimpleHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.heads.queries import QueryHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.sources import ModelFolder
from posecore.models.warm_start import warm_start
from posecore.schema import BadSample, CropBatch, CropGroup, KeypointState
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.storage import AnyPath
from posecore.training import deepspeed_engine
from posecore.training.best import BestConfig
from posecore.training.checkpoint_store import CheckpointStore
from posecore.training.context import LocalContext, TrainContext
from posecore.training.deepspeed_engine import deepspeed_settings
from posecore.training.ema import AverageConfig
from posecore.training.engine import EngineConfig
from posecore.training.loop import Evaluate, TrainingConfig, TrainResult, train
from posecore.training.optimizer import OptimizerConfig
from posecore.training.schedule import CosineSchedule
from posecore.training.start import MethodMakers
from posecore.workflows.periodic_evaluation import LabelRecording, PeriodicEvaluation

INPUT_SIZE = (64, 48)
POINTS = {"people": 5, "dogs": 7}
LOG_FILE = "log.jsonl"
"""What rank 0 of a launched run logged, in its folder."""


def tiny_model(drop_path: float = 0.2, **vit: object) -> PoseModel:
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path": drop_path}
    backbone = VitConfig.model_validate(shape | vit)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=INPUT_SIZE)
    return build_model(config, {name: tiny_skeleton(name, count) for name, count in POINTS.items()})


def tiny_prototypes(drop_path: float = 0.2, **changes: object) -> PrototypeLearning:
    """Three stages within six steps: from step 3 heads learn, prototypes rest and agreed points count; from 5 all."""
    settings: dict[str, object] = {
        "embedding": EmbeddingConfig(dim=16, channels=8),
        "stages": StagesConfig(heads_from=0.5, backbone_from=0.8, prototypes_until=0.5, self_supervision_from=0.5),
        "weights": "balanced",
        "momentum": 0.9,
        "agreement": AgreementConfig(confidence=0.01, distance_px=9.0),
    }
    config = PrototypesConfig.model_validate(settings | changes)
    card = tiny_model(drop_path).card
    return config.build(build_model(config.architecture(card.architecture), card.skeletons))


def tiny_depth() -> SupervisedHeads:
    """Heads on a backbone with depth as input, and depth as a second task."""
    config = SupervisedConfig(depth=DepthTaskConfig(weight=0.1, channels=8))
    return SupervisedHeads(tiny_model(drop_path=0.0, depth_input=True), config)


SCENE_HEADS = {
    "scenes": AssociativeHeadConfig(channels=8, fine_channels=8, fine_blocks=1),
    "queries": QueryHeadConfig(num_queries=6, channels=8, num_layers=2, num_heads=2, hidden=16),
}
"""Heads of whole pictures, by the word for a method with them."""


def tiny_scenes(head: Head) -> SupervisedHeads:
    """Heads that find bodies in whole pictures, with experts."""
    card = tiny_model(drop_path=0.0, expert_share=0.25).card
    architecture = card.architecture.model_copy(update={"head": head})
    return SupervisedHeads(PoseModel(card.model_copy(update={"architecture": architecture})))


def as_scenes(batch: CropBatch) -> CropBatch:
    """The crops as pictures of two bodies each, the second of which has half of its points; a corner is ignored."""
    groups = []
    for group in batch.groups:
        other = group.keypoints_crop[:, ::-1] * np.float32(0.9)
        keypoints = np.stack([group.keypoints_crop, other], axis=1)
        state = np.stack([group.state, group.state], axis=1)
        state[:, 1, ::2] = KeypointState.UNLABELLED
        ignored = np.zeros((len(keypoints), INPUT_SIZE[0] // 2, INPUT_SIZE[1] // 2), np.uint8)
        ignored[:, :5, :7] = 1
        boxes = np.concatenate([keypoints.min(axis=2), keypoints.max(axis=2)], axis=2)
        groups.append(replace(group, keypoints_crop=keypoints, state=state, ignored=ignored, bbox_crop=boxes))
    return replace(batch, groups=tuple(groups))


@dataclass(frozen=True)
class Fault:
    """What a method does wrong in some 0-based steps on one rank.

    ``loss`` makes a term NaN that has a finite gradient all the same; ``gradient`` leaves the term as it is and makes
    its gradient NaN.
    """

    kind: str
    steps: tuple[int, ...]
    rank: int = 0
    dataset: str = "dogs"


class FaultyHeads(SupervisedHeads):
    """Heads of which some steps go wrong."""

    parts = ()

    def __init__(self, model: PoseModel, fault: Fault) -> None:
        super().__init__(model)
        self.fault = fault
        self._due = False

    def begin_step(self, step: int, total_steps: int) -> frozenset[str]:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self._due = step in self.fault.steps and rank == self.fault.rank
        return frozenset()

    def losses(self, batch: DeviceBatch) -> dict[str, torch.Tensor]:
        terms = super().losses(batch)
        name = f"loss/{self.fault.dataset}"
        if self._due and self.fault.kind == "loss":
            terms[name] = terms[name] + float("nan")
        if self._due and self.fault.kind == "gradient":
            terms[name] = terms[name] + (0 * terms[name]).sqrt()  # 0, and its slope is infinite
        return terms


def with_depth(batch: CropBatch, rank: int) -> CropBatch:
    """In every other step no rank has depth; in the others rank 0 alone, and not for its first crop."""
    if batch.step % 2 or rank:
        return batch
    depth = np.random.default_rng(batch.step).uniform(0.5, 1.5, (len(batch.images), *INPUT_SIZE)).astype(np.float32)
    depth[0] = 0
    return replace(batch, depth=depth)


def tiny_adaptation(
    strategy: object,
    expert_share: float = 0.0,
    drop_path: float = 0.0,
    embedding: EmbeddingConfig | None = None,
    **fields: Any,
) -> Adaptation:
    """A model that knows people and horses, adapted to dogs; people are replayed unless ``replayed`` says otherwise."""
    replayed, new_depth = fields.pop("replayed", ("people",)), fields.pop("new_depth", False)
    told = {name: fields.pop(name) for name in ("old_heads", "unlabelled_sets") if name in fields}
    source = fields.pop("parent", {"source": "nowhere"})
    config = AdaptationConfig(
        terms=AdaptationTerms.model_validate({"strategy": strategy, **fields}),
        roles=Roles("dogs", tuple(replayed), embedding is not None, new_depth),
        parent=ModelFolder.model_validate(source),
        **told,
    )
    parent = tiny_parent(expert_share, drop_path, embedding)
    torch.manual_seed(2)
    skeletons = {**parent.skeletons, "dogs": tiny_skeleton("dogs", POINTS["dogs"])}
    architecture = config.architecture(parent.config)
    child = build_model(architecture.with_depth() if new_depth else architecture, skeletons)
    warm_start(child, parent)
    return Adaptation(child, config, parent if config.terms.distillation else None)


def tiny_parent(
    expert_share: float = 0.0, drop_path: float = 0.0, embedding: EmbeddingConfig | None = None
) -> PoseModel:
    """The parent of :func:`tiny_adaptation`, whose heads say something and whose statistics are no fresh model's."""
    torch.manual_seed(1)
    backbone = VitConfig(embed_dim=32, depth=2, num_heads=2, drop_path=drop_path, expert_share=expert_share)
    head = ClassicHeadConfig(channels=8)
    config = ModelConfig(backbone=backbone, head=head, input_size=INPUT_SIZE, embedding=embedding)
    model = build_model(config, {name: tiny_skeleton(name, count) for name, count in (("people", 5), ("horses", 6))})
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.1)
            elif name.startswith("heads.") and name.endswith("weight") and tensor.ndim > 1:
                tensor.mul_(100)
    return model


def tiny_skeleton(name: str, count: int) -> Skeleton:
    """Of points that nobody else knows."""
    points = tuple(Keypoint(name=f"{name}{i}", union=f"{name}{i}", oks_sigma=0.5) for i in range(count))
    return Skeleton(name=name, keypoints=points)


def tiny_batches(
    start: int,
    rank: int,
    world_size: int,
    global_batch: int = 8,
    record: Path | None = None,
    datasets: Sequence[str] = tuple(POINTS),
) -> Iterator[CropBatch]:
    """Endless; of four steps one has no dog and one a single dog, which one of two ranks does not see.

    A crop is a function of the step and its place in the global batch. With one dataset alone, all crops are of it.
    """
    step = start
    while True:
        num_dogs = (0, 2, 1, 2)[step % 4]
        names = ["people"] * (global_batch - num_dogs) + ["dogs"] * num_dogs
        names = names if len(datasets) > 1 else [*datasets] * global_batch
        mine = range(rank, global_batch, world_size)
        images = np.stack([_generator(step, place).integers(0, 256, (*INPUT_SIZE, 3), np.uint8) for place in mine])
        groups, first = [], 0
        for name in datasets:
            places = [place for place in mine if names[place] == name]
            groups.append(_group(name, first, step, places))
            first += len(places)
        if record is not None:
            with record.open("a") as file:
                file.write(json.dumps({"step": step, "places": list(mine), "names": names}) + "\n")
        yield CropBatch(images=images, groups=tuple(groups), step=step, epoch=0)
        step += 1


def _group(name: str, first: int, step: int, places: list[int]) -> CropGroup:
    count = len(places)
    shape = (POINTS[name], 2)
    points = [_generator(step, place).uniform(4, 44, shape) for place in places]
    return CropGroup(
        dataset=name,
        start=first,
        stop=first + count,
        keypoints_crop=np.array(points, np.float32).reshape(count, *shape),
        state=np.full((count, POINTS[name]), 3, np.uint8),
        center=np.zeros((count, 2), np.float32),
        scale=np.ones((count, 2), np.float32),
        rotation=np.zeros(count, np.float32),
        flipped=np.zeros(count, bool),
        rows=np.array(places, np.int64),
        seeds=np.array([1000 * step + place for place in places], np.int64),
    )


def _generator(step: int, place: int) -> np.random.Generator:
    return np.random.default_rng([step, place])


def tiny_training(
    context: TrainContext,
    engine: EngineConfig,
    steps: int = 8,
    checkpoint_every: int = 3,
    accumulation: int = 1,
    before_step: Callable[[int], None] | None = None,
    record: Path | None = None,
    drop_path: float = 0.2,
    method: nn.Module | MethodMakers | None = None,
    datasets: Sequence[str] = tuple(POINTS),
    training: Mapping[str, Any] | None = None,
    bad: Callable[[int, int], Sequence[BadSample]] | None = None,
    judge: Evaluate | None = None,
    **changes: Any,
) -> TrainResult:
    """Trains heads, or a given method; ``before_step`` is called with the step due, and may end the run.

    ``training`` changes the configuration, further keywords the settings of the optimiser. ``bad`` says what a step's
    batch came without on a rank. ``judge`` evaluates, instead of the losses of a batch.
    """
    torch.set_num_threads(1)
    if method is None:
        torch.manual_seed(1)
        method = SupervisedHeads(tiny_model(drop_path))
    config = TrainingConfig(
        steps=steps,
        global_batch=8,
        accumulation=accumulation,
        seed=3,
        optimizer=OptimizerConfig(**{"lr": 1e-3, **changes}),
        schedule=CosineSchedule(warmup_steps=2),
        engine=engine,
        checkpoint_every=checkpoint_every,
        log_every=2,
        progress=False,
    ).model_copy(update=training or {})

    def batches(start: int) -> Iterator[CropBatch]:
        for batch in tiny_batches(start, context.rank, context.world_size, record=record, datasets=datasets):
            if before_step is not None:
                before_step(batch.step)
            if bad is not None:
                batch.bad = tuple(bad(batch.step, context.rank))
            if isinstance(method, nn.Module) and method.model.config.whole_scenes:
                batch = as_scenes(batch)
            takes_depth = isinstance(method, nn.Module) and method.model.takes_depth
            yield with_depth(batch, context.rank) if takes_depth else batch

    def evaluate(method: nn.Module, step: int) -> dict[str, float]:
        first = next(tiny_batches(0, context.rank, context.world_size))
        first = as_scenes(first) if method.model.config.whole_scenes else first
        batch = to_device(first, context.device)
        return {f"eval/{name}": loss.item() for name, loss in method(batch).items()}

    return train(method, batches, config, context, judge or evaluate)


def _sharding_all(*arguments: Any) -> dict[str, Any]:
    """Stage 3 leaves small tensors whole on every rank, which are all of a tiny model's: here it shards them, too."""
    settings = deepspeed_settings(*arguments)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


class Stopped(Exception):
    """Raised by a run that a test wanted to end early."""


def stop_at(step: int | None) -> Callable[[int], None]:
    """A ``before_step`` that gives up when a step's batch is due."""

    def check(due: int) -> None:
        if due == step:
            raise Stopped

    return check


def described_method(
    name: str | None, adaptation: dict[str, Any] | None = None, teacher: str | None = None
) -> nn.Module:
    """The method of a launched run: an adaptation, or one by name; heads with BatchNorm and experts for None.

    ``teacher`` is the folder of a model like :func:`tiny_model`, for methods that ask one.
    """
    torch.manual_seed(1)
    if teacher is not None:
        student, folder = tiny_model(drop_path=0.0), ModelFolder(source=teacher)
        if name == "knowledge-token":
            return KnowledgeTokenConfig(teacher=folder, number=2).build(student)
        if name == "head-distillation":
            return HeadDistillationConfig(teacher=folder).build(student)
        return DistillationConfig(teacher=folder, feature_weight=1e-3).build(student)
    if adaptation is not None:
        return tiny_adaptation(**adaptation)
    if name == "prototypes":
        return tiny_prototypes(drop_path=0.0)
    if name == "depth":
        return tiny_depth()
    if name in SCENE_HEADS:
        return tiny_scenes(SCENE_HEADS[name])
    if name == "recomputing":
        return SupervisedHeads(tiny_model(drop_path=0.0, expert_share=0.25, activation_checkpointing=True))
    if name == "plain":  # without BatchNorm, so that a crop does not depend on its neighbours
        card = tiny_model(drop_path=0.0).card
        architecture = card.architecture.model_copy(update={"head": SimpleHeadConfig()})
        return SupervisedHeads(PoseModel(card.model_copy(update={"architecture": architecture})))
    return SupervisedHeads(tiny_model(drop_path=0.0, expert_share=0.25))


def outlined(run: Mapping[str, Any]) -> MethodMakers:
    """The method of a launched run as jobs give theirs: its model's weights have no memory on any rank but one."""

    def build() -> nn.Module:
        assert torch.distributed.get_rank() == 0
        return described_method(run.get("method"), run.get("adaptation"), run.get("teacher"))

    def outline() -> nn.Module:
        with torch.device("meta"):
            return described_method(run.get("method"), run.get("adaptation"), run.get("teacher"))

    return MethodMakers(build, outline)


def told_scores(scores: Sequence[float]) -> Evaluate:
    """An evaluation that finds what it is told of step 1, 2, …"""
    return lambda method, step: {"people/score": scores[step - 1]}


def _logged_to(path: Path) -> Callable[[Mapping[str, float], int], None]:
    def log(metrics: Mapping[str, float], step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    return log


def one_bad_sample(step: int, rank: int) -> list[BadSample]:
    """Every rank meets one of its own in the steps that can be divided by three, of row 100 · rank + step."""
    reason = f"sample {step} is not what was written."
    return [] if step % 3 else [BadSample(dataset="people", row=100 * rank + step, reason=reason, allowed=6)]


JUDGING = InferenceSettings(batch_size=2, num_threads=1)


def judge_of_people(store: str, run_dir: Path) -> LabelRecording:
    """Judges the model on a store of people, and records the losses of its labels in the run's folder."""
    stores, folder = {"people": store}, str(run_dir / "label_losses")
    judge = PeriodicEvaluation(stores=stores, heads={"people": "people"}, settings=JUDGING)
    return LabelRecording(stores=stores, corrections={}, folder=folder, settings=JUDGING, judge=judge)


class OneBlindRank(CheckpointStore):
    """Checkpoints of a run of which one rank finds nothing in the newest."""

    unseen: str | None = None

    def names(self) -> list[str]:
        names = super().names()
        self.unseen = names[0]
        return names

    def path(self, name: str) -> AnyPath:
        return super().path("nothing" if name == self.unseen else name)

    def pass_over(self, name: str) -> None:
        super().pass_over(name)
        self.unseen = None


def tensor_bytes() -> int:
    """Of all tensors that this process has."""
    gc.collect()
    with warnings.catch_warnings(action="ignore"):
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and not thing.is_meta]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def main() -> None:
    """Makes the runs described in a JSON list, one after the other; started once per rank, as torchrun would."""
    for number, run in enumerate(json.loads(sys.argv[1])):
        if number == 1:
            gc.freeze()  # all that was imported: DeepSpeed collects garbage in every run, and would look through it
        deepspeed_engine.deepspeed_settings = _sharding_all if run.get("shard_all") else deepspeed_settings
        run_dir = Path(run["run_dir"])
        log = _logged_to(run_dir / LOG_FILE)
        context = LocalContext(run_dir, log=log)
        if run.get("apart") == context.rank:
            context.store = CheckpointStore(run_dir / "elsewhere")
        if run.get("blind") == context.rank:
            context.store = OneBlindRank(run_dir / "checkpoints")
        if "copy_of" in run and context.rank == 0:
            shutil.copytree(run["copy_of"], run_dir)
        if context.world_size > 1:
            torch.distributed.barrier()
        held = tensor_bytes() if run.get("counted") else 0
        engine: EngineConfig = TypeAdapter(EngineConfig).validate_python(run["engine"])
        if run.get("outlined"):
            method = outlined(run)
        else:
            method = described_method(run.get("method"), run.get("adaptation"), run.get("teacher"))
        if "fault" in run:
            method = FaultyHeads(method.model, Fault(**run["fault"]))
        stop, settings = stop_at(run.get("stop_before")), run.get("optimizer", {})
        steps, every, changes = run.get("steps", 6), run.get("checkpoint_every", 3), dict(run.get("training", {}))
        if "best" in changes:
            changes["best"] = BestConfig.model_validate(changes["best"])
        if "average" in changes:
            changes["average"] = AverageConfig.model_validate(changes["average"])
        try:
            settings |= {"training": changes, "bad": one_bad_sample if run.get("bad_samples") else None}
            settings |= {"judge": judge_of_people(run["judged"], run_dir) if "judged" in run else None}
            if "scores" in run:
                settings["judge"] = told_scores(run["scores"][context.rank])
            tiny_training(context, engine, steps, every, before_step=stop, method=method, **settings)
        except Stopped:
            pass
        except PreflightError as error:
            (run_dir / f"refused_rank{context.rank}").write_text(str(error))
        except DivergenceError as error:
            (run_dir / f"diverged_rank{context.rank}").write_text(str(error))
        if run.get("method") == "prototypes" and isinstance(method, nn.Module):
            save_file(dict(method.model.prototypes.named_buffers()), run_dir / f"prototypes_rank{context.rank}")
        if run.get("counted"):
            del method
            (run_dir / f"left_rank{context.rank}").write_text(str(tensor_bytes() - held))


if __name__ == "__main__":
    main()
