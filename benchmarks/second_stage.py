#!/usr/bin/env python
"""Is distillation's second stage worth its steps? A fresh head on what is trained, or as many steps more of the same.

    python -m benchmarks.second_stage --out results/second_stage --net larger --batch 16 --seeds 0 1 2

``alone`` is the parent of :mod:`benchmarks.adaptation`, which learned from labels. ``both`` is the same net from fresh
weights, taught by it besides, by outputs and features, for ``--student`` steps. Then come 22 % as many steps more, the
published share: ``+head`` has a fresh head taught by the former one on the frozen backbone, at a constant rate as
published; ``+head, cosine`` the same with a rate that falls to 0; ``+more`` goes on as in the first stage, with a rate
that rises and falls once more. All are judged on held-out pictures of other people.

Every run is one line of ``results.jsonl`` and is not repeated when the command is given again. The table is printed at
the end, or alone with ``--seeds`` and no number.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.adaptation import LEARNED, World
from benchmarks.rendered import NETS, STANDING
from benchmarks.repeated import Results, spread, trained
from posecore.config import parse_config
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.keypoint_errors import answered_distances, relative_distances
from posecore.evaluation.protocols import evaluate
from posecore.methods.distillation import DistillationConfig
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.methods.heads import HeadsConfig
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model
from posecore.models.sources import ModelFolder
from posecore.models.weights.initial import WeightsConfig
from posecore.shards.store import open_store
from posecore.training.schedule import MultiStepSchedule
from posecore.workflows.multidataset_worker import Method, MultiDatasetWorker

SECOND_STAGE = 60 / 270
WARM = 20
JUDGED = "coco"


@dataclass(frozen=True)
class Arm:
    """A training.

    Attributes:
        method: by what it learns.
        steps: how long.
        start: folder of the model that it goes on from; None for fresh weights.
        constant: whether the rate stays as it is after its warm-up.
    """

    method: Method
    steps: int
    start: Path | None = None
    constant: bool = False


def arms(world: World, results: Results, seed: int, student: int) -> Iterator[tuple[str, Arm]]:
    """Name and training of every run of one seed, first stages before second ones."""
    labels = HeadsConfig()
    taught = DistillationConfig(
        teacher=ModelFolder(source=str(world.parent)), feature_reduction="mean", feature_weight=1e-3
    )
    yield from second_stage("alone", world.parent, labels, world.learned.steps)
    yield "both", Arm(taught, student)
    yield from second_stage("both", results.folder("both", seed) / "model", taught, student)


def second_stage(arm: str, first: Path, method: Method, steps: int) -> Iterator[tuple[str, Arm]]:
    """What may follow a first stage of so many steps."""
    steps = round(SECOND_STAGE * steps)
    head = HeadDistillationConfig(teacher=ModelFolder(source=str(first)))
    yield f"{arm}+head", Arm(head, steps, constant=True)
    yield f"{arm}+head, cosine", Arm(head, steps)
    yield f"{arm}+more", Arm(method, steps, start=first)


def run(world: World, folder: Path, arm: Arm, seed: int) -> dict[str, Any]:
    """Trains and judges."""
    training = world.training(arm.steps, world.net.rate, seed, warm=WARM)
    if arm.constant:
        training = training.model_copy(update={"schedule": MultiStepSchedule(warmup_steps=WARM, milestones=())})
    worker = MultiDatasetWorker(
        model=parse_config(world.net.model, ModelConfig, "model"),
        training=training,
        loading=world.loading(dict.fromkeys(world.known, STANDING)),
        stores=world.known,
        method=arm.method,
        weights=None if arm.start is None else WeightsConfig(source=str(arm.start)),
    )
    model, seconds = trained(worker, folder)
    return {"metrics": judge(world, model), "steps": arm.steps, "seconds": seconds}


def judge(world: World, model: PoseModel) -> dict[str, float]:
    """AP and AP50 in percent, and the mean error of a labelled point in percent of its box's size, √(w·h)."""
    store = open_store(world.split(JUDGED, "val", 300))
    said = predict_store(model, store, InferenceSettings(num_threads=1, flip_test=False), head=JUDGED)
    definition, truth = store.manifest.definition, GroundTruth.from_store(store)
    found = evaluate(definition.evaluation, definition.skeleton, truth, said)
    distances = relative_distances(truth, answered_distances(truth, said))
    return {"AP": 100 * found["AP"], "AP50": 100 * found["AP50"], "error": 100 * float(np.nanmean(distances))}


def show(results: Results) -> None:
    """Mean ± standard deviation over the seeds, and what each arm is above its first stage, seed by seed."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in results.rows():
        by_arm[row["arm"]][row["seed"]] = row
    table = Table(title=f"{JUDGED}; AP in percent, errors in percent of the box")
    for column in ("arm", "seeds", "steps", "AP", "AP50", "error", "AP above its first stage", "error", "processor s"):
        table.add_column(column)
    for arm, rows in by_arm.items():
        first = by_arm[arm.partition("+")[0]]
        changes = []
        for metric in ("AP", "error"):
            before = {seed: first.get(seed, first.get(0)) for seed in rows}
            told = [row["metrics"][metric] - before[seed]["metrics"][metric] for seed, row in rows.items()]
            changes.append(spread(told) if "+" in arm else "–")
        values = [spread([row["metrics"][metric] for row in rows.values()]) for metric in ("AP", "AP50", "error")]
        steps, seconds = next(iter(rows.values()))["steps"], mean(row["seconds"] for row in rows.values())
        table.add_row(arm, str(len(rows)), f"{steps:,}", *values, *changes, f"{seconds:.0f}")
    Console(width=140).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--student", type=int, default=800, help="steps of `both`")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--net", choices=[*NETS], default="micro")
    parser.add_argument("--arms", nargs="*", help="default: all")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    world = World(options.out, options.batch, NETS[options.net], LEARNED[options.net])
    results = Results(options.out)
    told = {"steps": world.learned.steps, "seconds": 0.0}
    results.once("alone", 0, lambda _: told | {"metrics": judge(world, load_model(world.parent))})
    for seed in options.seeds:
        for name, arm in arms(world, results, seed, options.student):
            if options.arms is None or name in options.arms:
                results.once(name, seed, lambda folder, arm=arm, seed=seed: run(world, folder, arm, seed))
    show(results)


if __name__ == "__main__":
    main()
