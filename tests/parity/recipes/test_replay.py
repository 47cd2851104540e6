"""Replay against a sampler and a training written down a second time: which crops come when, and what each counts.

The real job says the shares, the real loader reads real shards, the real loop trains. A share of the crops comes from
the parent's own datasets, in equal parts; their labels count as the target's do; old heads are held to what the parent
says on all crops (learning without forgetting), and inherited weights to where they began (L2-SP).
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posecore.config import parse_config
from posecore.loading.loader import Loader
from posecore.methods.adaptation import Adaptation
from posecore.models.pose_model import PoseModel
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore
from posecore.workflows.adaptation.job import AdaptationJob
from tests.parity.recipes.comparison import SHORT, Loss, check, make_steps, short_training, without_key_biases
from tests.parity.recipes.restated import Published, Trainer, heatmap_targets, joints_mse
from tests.parity.recipes.toy import labels, pixels, posecore_run_on, rows
from tests.support.checkpoints import State
from tests.support.tiny_store import write_store
from tests.support.tiny_training import INPUT_SIZE, tiny_adaptation, tiny_parent

BODIES = {"dogs": [1, 3, 2, 4, 1, 5], "people": [2, 1, 1], "horses": [1, 1, 3, 1, 1]}
"""Per dataset, how many bodies each image shows; dogs are the target."""
REPLAY, CROPS, SEED, WINDOW = 0.4, 8, 3, 2
SHARES = {"dogs": 0.6, "people": 0.2, "horses": 0.2}
KEPT, PULL = 0.5, 0.3


def job() -> AdaptationJob:
    """All that has to do with replay is said; the rest is what a run file must have."""
    sets = [{"name": name, "definition": "coco", "root": name, "train": "train", "evaluate": "val"} for name in BODIES]
    fields: dict[str, Any] = {
        "name": "replay",
        "run_folder": "nowhere",
        "data_folder": "nowhere",
        "parent": "nowhere",
        "target": "dogs",
        "method": {"strategy": "full"},
        "replay": REPLAY,
        "datasets": sets,
        "loading": {"shuffle_window": WINDOW, "num_threads": 1, "augment": {"flip_probability": 0}},
        "training": {"steps": SHORT, "global_batch": CROPS},
    }
    return parse_config(fields, AdaptationJob, "test")


# -- which crops -------------------------------------------------------------------------------------------------------


def random_for(purpose: int, name: str, number: int) -> np.random.Generator:
    """Philox, keyed by the run's seed and what is drawn, counting epochs or passes (``docs/determinism.md``)."""
    word = int.from_bytes(hashlib.blake2b(f"{purpose}/{name}".encode(), digest_size=8).digest(), "little")
    key, counter = np.array([SEED, word], np.uint64), np.array([0, 0, number, 0], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def bodies_of(name: str, number: int) -> list[tuple[int, int]]:
    """(image, row) of one pass: images in random order, and the bodies of each likewise."""
    images = [image for image, count in enumerate(BODIES[name]) for _ in range(count)]
    random = random_for(0, name, number)
    place, tie = random.permutation(len(BODIES[name])), random.random(len(images))
    return [(images[row], row) for row in sorted(range(len(images)), key=lambda row: (place[images[row]], tie[row]))]


def given(shares: Mapping[str, float], samples: int) -> dict[str, int]:
    """Crops per epoch, by the largest remainders."""
    counts = {name: int(share * samples + 1e-9) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * samples)
    for name in by_remainder[: samples - sum(counts.values())]:
        counts[name] += 1
    return counts


def restated_epoch(epoch: int, shares: Mapping[str, float]) -> list[list[tuple[str, int]]]:
    """Per step, the (dataset, row) of its crops."""
    steps = -(-sum(map(sum, BODIES.values())) // CROPS)
    units: list[list[tuple[str, int]]] = []  # the bodies of one image, which stay together
    for name, count in given(shares, steps * CROPS).items():
        size = sum(BODIES[name])
        passes = range(epoch * count // size, -(-(epoch + 1) * count // size))
        endless = [body for number in passes for body in bodies_of(name, number)]
        first = epoch * count - passes.start * size
        last_image = None
        for image, row in endless[first : first + count]:
            if image != last_image:
                units.append([])
            units[-1].append((name, row))
            last_image = image
    random = random_for(1, "", epoch)
    order = random.permutation(len(units))
    shuffled = [body for unit in sorted(range(len(units)), key=lambda unit: order[unit]) for body in units[unit]]
    slots = [shuffled[slot * steps : (slot + 1) * steps] for slot in range(CROPS)]
    for slot, place in zip(slots, random.random((CROPS, steps)), strict=True):
        slot[:] = [slot[step] for step in sorted(range(steps), key=lambda step: step // WINDOW + place[step])]
    return [[slot[step] for slot in slots] for step in range(steps)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStore]:
    """One for each dataset, with the points of the tiny models' heads."""
    folder, model = tmp_path_factory.mktemp("stores"), tiny_adaptation("full").model
    return {
        name: write_store(folder / name, name, counts, skeleton=model.skeletons[name])
        for name, counts in BODIES.items()
    }


def drawn(stores: Mapping[str, ShardStore], start: int = 0) -> Iterator[CropBatch]:
    config = job().mixture(takes_depth=False)
    sizes = {"input_size": INPUT_SIZE, "seed": SEED, "global_batch": CROPS, "start_step": start}
    return iter(Loader(stores, config, **sizes))


EPOCHS = 5


def seen(stores: Mapping[str, ShardStore], count: int) -> list[list[tuple[str, int]]]:
    """Per step, the (dataset, row) of the crops, sorted."""
    crops = drawn(stores)
    found = [
        sorted((group.dataset, int(row)) for group in batch.groups for row in group.rows)
        for batch in islice(crops, count)
    ]
    crops.close()  # type: ignore[attr-defined]
    return found


def test_the_crops_of_every_step_are_those_of_the_restated_sampler(stores: Mapping[str, ShardStore]) -> None:
    wanted = [sorted(step) for epoch in range(EPOCHS) for step in restated_epoch(epoch, SHARES)]
    assert len(wanted) == EPOCHS * 4
    assert seen(stores, len(wanted)) == wanted


def test_shares_are_those_of_the_closed_form(stores: Mapping[str, ShardStore]) -> None:
    """32 crops in an epoch: 19.2, 6.4 and 6.4, of which the largest remainders get the last."""
    mixture = job().mixture(takes_depth=False).mixture
    assert {entry.name: entry.weight for entry in mixture.entries} == pytest.approx(SHARES)
    assert given(SHARES, 32) == {"dogs": 19, "people": 7, "horses": 6}
    found = [crop for step in seen(stores, EPOCHS * 4) for crop in step]
    for name, in_epoch in given(SHARES, 32).items():
        times = [found.count((name, row)) for row in range(sum(BODIES[name]))]
        whole, more = divmod(EPOCHS * in_epoch, len(times))
        assert sorted(times) == [whole] * (len(times) - more) + [whole + 1] * more


@pytest.mark.parametrize("wrong", [{"dogs": 0.5, "people": 0.25, "horses": 0.25}, {**SHARES, "people": 0.25}])
def test_a_wrong_share_would_be_noticed(wrong: dict[str, float], stores: Mapping[str, ShardStore]) -> None:
    shares = {name: share / sum(wrong.values()) for name, share in wrong.items()}
    assert seen(stores, 4) != [sorted(step) for step in restated_epoch(0, shares)]


# -- what they count ---------------------------------------------------------------------------------------------------


class HeldTrainer(Trainer):
    """What is inherited decays to where it began, by the rate times the pull, and not to zero."""

    def __init__(self, network: nn.Module, published: Published, pull: float) -> None:
        super().__init__(network, published, SHORT)
        self.pull, self.anchors = pull, {name: weight.clone() for name, weight in self.weights.items()}

    def inherited(self, name: str) -> bool:
        return ".heads.dogs." not in name

    def decays(self, name: str) -> bool:
        return not self.inherited(name) and super().decays(name)

    def _adamw(self, name: str, gradient: Tensor, rate: float) -> None:
        if self.inherited(name):
            self.weights[name] += rate * self.pull * (self.anchors[name] - self.weights[name])
        super()._adamw(name, gradient, rate)


def restated_loss(parent: PoseModel, old: tuple[str, ...], kept: float) -> Loss:
    def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
        model, crops = network.method.model, len(batch.images)
        features = model.backbone(pixels(batch), rows(batch))
        total = torch.zeros((), dtype=torch.float64)
        for group in batch.groups:
            head, own = model.heads[group.dataset], features[group.start : group.stop]
            total = total + sum(0 * parameter.double().sum() for parameter in head.parameters())
            if len(own):
                maps = head.train()(own)
                targets, weights = heatmap_targets(*labels(group), "udp", INPUT_SIZE, (16, 12), 2.0)
                total = total + joints_mse(maps, targets, weights, crops)
        with torch.no_grad():
            known = parent.backbone(pixels(batch), [])
            said = {name: parent.heads[name](known).double() for name in old}
        for name in old:
            total = total + kept * (model.heads[name].eval()(features).double() - said[name]).square().mean()
        return total

    return loss


OLD = ("people", "horses")
Run: TypeAlias = tuple[State, Adaptation, dict[str, Tensor]]


@pytest.fixture(scope="module")
def run(stores: Mapping[str, ShardStore], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the real run ends with, and the method and the weights that it began with."""
    method = tiny_adaptation("full", drop_path=0.2, distillation=KEPT, old_heads=OLD, replayed=OLD)
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    training, _ = short_training(CROPS)
    held = training.optimizer.model_copy(update={"anchor_decay": PULL})
    training = training.model_copy(update={"optimizer": held})
    crops = partial(drawn, stores)
    return posecore_run_on(tmp_path_factory.mktemp("run"), method, training, crops), network, start


def restated(run: Run, stores: Mapping[str, ShardStore], kept: float = KEPT, pull: float = PULL) -> Trainer:
    _, published = short_training(CROPS)
    network, crops = copy.deepcopy(run[1]), drawn(stores)
    trainer = HeldTrainer(network, published, pull)
    make_steps(trainer, network, restated_loss(tiny_parent().eval(), OLD, kept), crops)
    crops.close()  # type: ignore[attr-defined]
    return trainer


def test_eight_steps(run: Run, stores: Mapping[str, ShardStore]) -> None:
    trainer = restated(run, stores)
    check(run[0], trainer, run[2], without_key_biases)
    assert {name.split(".heads.")[1].split(".")[0] for name in trainer.weights if ".heads." in name} == set(BODIES)


@pytest.mark.parametrize("wrong", [{"kept": 0.505}, {"pull": 0.0}])
def test_a_wrong_number_would_be_noticed(wrong: dict[str, float], run: Run, stores: Mapping[str, ShardStore]) -> None:
    trainer = restated(run, stores, **wrong)
    with pytest.raises(AssertionError):
        check(run[0], trainer, run[2], without_key_biases)
