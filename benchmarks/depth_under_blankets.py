#!/usr/bin/env python
"""Does depth help under blankets? Rendered infants of 640x480 with depth, a parent of pictures, equal steps.

    python -m benchmarks.depth_under_blankets --out results/depth --parent results/adaptation/parent/model

Five models start from one parent and learn the same infants under the ``infant`` augmentation, which covers half of
them: from pictures alone, with depth as a second task (``task``), with depth as input (``input``), with both, and with
an input that three crops in ten lack. Each is judged on infants of two other sequences as they are, under a blanket
that hides 20 to 70 % of the body in the picture, and under a thick one, through which the camera sees a smoothed heap.
A model with depth as input is also asked without any.

A thin blanket leaves depth as it is, so that ``input`` can read what no picture shows: this is the best case. Every run
is one line of ``results.jsonl``; tables are printed at the end, or alone with ``--steps 0``.
"""

import argparse
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from benchmarks.repeated import Results, spread, trained
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import AugmentConfig
from posecore.loading.blanket import draw_blanket
from posecore.loading.loader import LoadingConfig
from posecore.methods.sharing import MethodConfig
from posecore.models.architecture import ModelConfig
from posecore.models.saving import load_outline
from posecore.models.weights.initial import WeightsConfig
from posecore.schema import KeypointState, Record
from posecore.shards.store import open_store
from posecore.synth.minirgbd_files import write_minirgbd
from posecore.training.loop import TrainingConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker

NUM_TRAIN, NUM_TEST = 800, 160
COVERED = AugmentConfig(blanket_probability=1.0, blanket_least_cover=0.2, blanket_most_cover=0.7)
HEAP_MM, HEAP_PX = 40, 61
"""A thick blanket lies so much above the bed or the body, and smooths over so many pixels."""
ARMS: Mapping[str, tuple[bool, bool, float]] = {
    "picture": (False, False, 0.0),
    "task": (False, True, 0.0),
    "input": (True, False, 0.0),
    "input+task": (True, True, 0.0),
    "input at times": (True, False, 0.3),
}
"""Whether depth is an input, whether it is a second task, and the share of crops that are shown without theirs."""


def prepare(out: Path) -> dict[str, str]:
    """Locations of ``train`` and of the three test sets."""
    root = out / "data" / "bare"
    if not root.exists():
        write_minirgbd(root, NUM_TRAIN, NUM_TEST)
    definition = load_dataset("minirgbd")
    locations = {}
    for name in ("train", "bare", "covered", "thick", "blind"):
        folder = root if name in ("train", "bare") else out / "data" / name
        if not folder.exists():
            shutil.copytree(root, folder, ignore=lambda _, names: [n for n in names if n in TRAIN_FOLDERS])
            for record in read_split(definition, "test", folder):
                assert isinstance(record, Record)
                cover(folder, record, name)
        split = "train" if name == "train" else "test"
        job = ingest_job(definition, split, folder, out / "shards" / name, IngestSettings())
        ingest(job, read_split(definition, split, folder))
        locations[name] = str(job.folder)
    return locations


TRAIN_FOLDERS = frozenset(f"{number:02d}" for number in range(1, 11))


def cover(root: Path, record: Record, how: str) -> None:
    """Paints a blanket on a frame's picture, in place; a thick one on its depth, too; ``blind`` takes depth away."""
    definition = load_dataset("minirgbd")
    assert record.depth is not None
    picture, depth = root / record.image, root / record.depth.image
    bare = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    painted = bare.copy()
    points = record.instances[0].keypoints
    state = np.full(len(points), KeypointState.VISIBLE, np.uint8)
    random = np.random.default_rng(int.from_bytes(record.source_id.encode()[-6:]))
    draw_blanket(painted, points[:, :2], state, definition.skeleton, COVERED, random)
    cv2.imwrite(str(picture), cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
    if how == "blind":
        depth.unlink()
    if how == "thick":
        hidden = np.any(painted != bare, axis=2)
        measured = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
        heap = cv2.blur(measured.astype(np.float32), (HEAP_PX, HEAP_PX)) - HEAP_MM
        cv2.imwrite(str(depth), np.asarray(np.where(hidden, np.minimum(measured, heap), measured), np.uint16))


def train_and_judge(
    folder: Path, stores: Mapping[str, str], parent: Path, arm: str, seed: int, steps: int, batch: int
) -> dict[str, Any]:
    """Trains one model and judges it on every test set."""
    as_input, as_task, dropout = ARMS[arm]
    architecture = load_outline(parent).config
    model = architecture.model_copy(
        update={"backbone": architecture.backbone.model_copy(update={"depth_input": as_input})}
    )
    augment = {"preset": "infant", "half_body_probability": 0, "depth_dropout": dropout}
    mixture = {"entries": [{"name": "minirgbd", "augment": augment}]}
    training = {
        "steps": steps,
        "global_batch": batch,
        "seed": seed,
        "optimizer": {"lr": 1e-3, "weight_decay": 0.05, "layer_decay": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": min(20, steps // 4)},
        "engine": {"kind": "torch", "precision": "bf16"},
        "checkpoint_every": steps,
    }
    method = {"kind": "heads"} | ({"depth": {"weight": 0.01}} if as_task else {})
    worker = MultiDatasetWorker(
        model=TypeAdapter(ModelConfig).validate_python(model),
        training=parse_config(training, TrainingConfig, "training"),
        loading=parse_config(
            {"mixture": mixture, "num_threads": 1, "depth": as_input or as_task}, LoadingConfig, "loading"
        ),
        stores={"minirgbd": stores["train"]},
        method=TypeAdapter(MethodConfig).validate_python(method),
        weights=WeightsConfig(source=str(parent)),
    )
    model, _ = trained(worker, folder)
    settings = InferenceSettings(num_threads=1, flip_test=False)
    judged = {name: evaluate_store(model, open_store(stores[name]), settings) for name in stores if name != "train"}
    return {"metrics": judged}


def show(results: Results) -> None:
    """Mean ± standard deviation over seeds."""
    table = Table(title="rendered infants: error in torso lengths | share of points within 0.2")
    columns = {"bare": "as they are", "covered": "thin blanket", "thick": "thick blanket", "blind": "thin, no depth"}
    for column in ("depth as", "seeds", *columns.values()):
        table.add_column(column)
    by_arm: dict[str, list[Any]] = defaultdict(list)
    for row in results.rows():
        by_arm[row["arm"]].append(row["metrics"])
    for arm, found in by_arm.items():
        cells = [
            f"{spread([m[name]['torso_error'] for m in found], 3)} | "
            f"{spread([100 * m[name]['PCK_torso_0.2'] for m in found])} %"
            for name in columns
        ]
        table.add_row(arm, str(len(found)), *cells)
    Console(width=160).print(table)


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parent", type=Path, help="folder of a saved model of pictures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of every run; 0 prints what is there")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    results = Results(options.out)
    if options.steps:
        torch.set_num_threads(1)
        stores = prepare(options.out)
        for seed in options.seeds:
            for arm in ARMS:
                results.once(
                    arm,
                    seed,
                    lambda folder, arm=arm, seed=seed: train_and_judge(
                        folder, stores, options.parent, arm, seed, options.steps, options.batch
                    ),
                )
    show(results)


if __name__ == "__main__":
    main()
