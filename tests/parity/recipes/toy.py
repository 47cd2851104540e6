"""Small models of every published family, the crops they are trained on, and posecore's own run of twenty steps."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.schema import CropBatch, CropGroup
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.training.context import LocalContext
from posecore.training.loop import LoaderFactory, TrainingConfig, train
from tests.support.checkpoints import State, load_checkpoint, newest

STEPS = 20
WARMUP = 5
SEED = 3


def skeleton(points: int) -> Skeleton:
    """So many points that are nobody's else."""
    return Skeleton(
        name=f"points{points}", keypoints=tuple(Keypoint(name=f"p{i}", union=f"p{i}") for i in range(points))
    )


def toy_model(architecture: Mapping[str, Any], points: Mapping[str, int], seed: int = 0) -> PoseModel:
    """A model with random weights whose outputs, statistics and gradients are all far from nothing.

    Args:
        architecture: fields of a :class:`ModelConfig`; conventions are its preset's.
        points: by dataset.
        seed: of the weights.
    """
    return toy_weights(architecture, {name: skeleton(count) for name, count in points.items()}, seed)


def toy_weights(architecture: Mapping[str, Any], skeletons: Mapping[str, Skeleton], seed: int) -> PoseModel:
    """:func:`toy_model` of given skeletons."""
    torch.manual_seed(seed)
    model = build_model(ModelConfig.model_validate(architecture), skeletons)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name.rpartition(".")[0].endswith(("cls_x", "cls_y")):
                parameter.mul_(0.1)  # logits are multiplied by ten, and a saturated softmax has no gradient
    return model


def batches(
    points: Mapping[str, int], input_size: tuple[int, int], batch_size: int, start: int = 0
) -> Iterator[CropBatch]:
    """Endless; how many rows each dataset has changes from step to step, and every third step leaves one out."""
    step = start
    while True:
        random = np.random.default_rng([7, step])
        names = list(points)
        present = [n for i, n in enumerate(names) if len(names) == 1 or (step + i) % 3]
        owners = sorted(random.integers(0, len(present), batch_size).tolist())
        images = random.integers(0, 256, (batch_size, *input_size, 3), np.uint8)
        groups, first = [], 0
        for name in names:
            count = owners.count(present.index(name)) if name in present else 0
            groups.append(_group(name, first, count, points[name], input_size, random))
            first += count
        yield CropBatch(images=images, groups=tuple(groups), step=step, epoch=0)
        step += 1


def _group(
    name: str, first: int, count: int, points: int, input_size: tuple[int, int], random: np.random.Generator
) -> CropGroup:
    height, width = input_size
    places = random.uniform((-0.3 * width, -0.3 * height), (1.3 * width, 1.3 * height), (count, points, 2))
    return CropGroup(
        dataset=name,
        start=first,
        stop=first + count,
        keypoints_crop=places.astype(np.float32),
        state=random.choice(np.array([0, 1, 2, 3, 3, 3], np.uint8), (count, points)),
        center=np.zeros((count, 2), np.float32),
        scale=np.ones((count, 2), np.float32),
        rotation=np.zeros(count, np.float32),
        flipped=np.zeros(count, bool),
        rows=np.arange(first, first + count),
        seeds=random.integers(0, 2**62, count),
    )


def labels(group: CropGroup) -> tuple[np.ndarray, np.ndarray]:
    """(N, K, 2) points and (N, K) which of them are labelled."""
    return group.keypoints_crop, group.state >= 2


def pixels(batch: CropBatch) -> Tensor:
    """(B, 3, H, W) with the mean and the spread of ImageNet taken out."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(((batch.images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


def rows(batch: CropBatch) -> list[tuple[str, int, int]]:
    """Which rows are whose."""
    return [(group.dataset, group.start, group.stop) for group in batch.groups]


def begin_step(step: int) -> None:
    """Gives drop path the numbers that the loop gives it."""
    torch.manual_seed(int(np.random.SeedSequence([SEED, step, 0]).generate_state(1, np.uint64)[0]))


def training_of(fields: Mapping[str, Any], batch_size: int, warmup: int = WARMUP) -> TrainingConfig:
    """A recipe's settings of the loop for twenty steps in float32."""
    schedule = {**fields["schedule"], "warmup_steps": warmup}
    changes = {"steps": STEPS, "seed": SEED, "global_batch": batch_size, "progress": False, "log_every": STEPS}
    return TrainingConfig.model_validate({**fields, **changes, "schedule": schedule, "engine": {"kind": "torch"}})


def posecore_run(folder: Path, method: nn.Module, training: TrainingConfig, points: Mapping[str, int]) -> State:
    """The real loop on one process, on made-up crops."""
    size, batch_size = method.model.input_size, training.global_batch  # type: ignore[union-attr]
    return posecore_run_on(folder, method, training, lambda start: batches(points, size, batch_size, start))


def posecore_run_on(folder: Path, method: nn.Module, training: TrainingConfig, crops: LoaderFactory) -> State:
    """The real loop on one process."""
    torch.set_num_threads(1)
    context = LocalContext(folder)
    train(method, crops, training, context)
    checkpoint = newest(context)
    return load_checkpoint(checkpoint)[0]


def compare(ours: Tensor, theirs: Tensor, start: Tensor) -> tuple[float, float]:
    """How far two tensors are apart, relative to the norm of one and to how far training has moved it."""
    error = float((ours.double() - theirs.double()).norm())
    norm, path = float(theirs.double().norm()), float((theirs.double() - start.double()).norm())
    return error / (norm or 1.0), error / (path or 1.0)
