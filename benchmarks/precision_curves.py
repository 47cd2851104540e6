#!/usr/bin/env python
"""Do models learn alike in float32, in bfloat16 by autocast, and with bfloat16 weights?

Renders bodies as a COCO download and trains a small model on the same crops in the same order under ZeRO-3, once in
each precision and twice in float32 with another first draw, which says what a difference is worth. Prints the loss of
every twentieth of the run, averaged over it.

    python benchmarks/precision_curves.py [--steps 400]
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import model_for
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig, train

NAME, INPUT_SIZE, BATCH, POINTS = "coco", (64, 64), 16, 20
RUNS = {"fp32": ("fp32", 0), "fp32, other draw": ("fp32", 1), "bf16": ("bf16", 0), "bf16-weights": ("bf16-weights", 0)}


def rendered(folder: Path) -> ShardStore:
    """A split of rendered images."""
    definition = load_dataset(NAME)
    root = write_dataset(NAME, folder / "raw", 128, 0, (256, 256))
    job = ingest_job(definition, "train", root, folder / "shards", IngestSettings())
    ingest(job, read_split(definition, "train", root))
    return open_store(job.folder)


def curve(store: ShardStore, folder: Path, precision: str, draw: int, steps: int) -> list[float]:
    """Mean losses of the parts of a run."""
    architecture = {"backbone": {"preset": "vit-micro"}, "head": {"kind": "classic", "channels": 32}}
    config = ModelConfig.model_validate({**architecture, "input_size": INPUT_SIZE})
    torch.manual_seed(draw)
    method = SupervisedHeads(model_for(config, {NAME: store.manifest.definition}))
    losses: list[float] = []

    def log(metrics: Mapping[str, float], step: int) -> None:
        losses.append(metrics["loss"])

    def batches(start: int) -> Iterator[CropBatch]:
        mixture = LoadingConfig.model_validate({"mixture": {"entries": [{"name": NAME}]}})
        return iter(Loader({NAME: store}, mixture, input_size=INPUT_SIZE, seed=0, global_batch=BATCH))

    training = TrainingConfig.model_validate(
        {
            "steps": steps,
            "global_batch": BATCH,
            "optimizer": {"lr": 2e-3, "layer_decay": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": steps // 20},
            "engine": {"kind": "deepspeed", "zero_stage": 3, "precision": precision},
            "log_every": steps // POINTS,
            "checkpoint_every": steps,
            "progress": False,
        }
    )
    train(method, batches, training, LocalContext(folder, log=log))
    return losses


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = rendered(Path(folder))
        curves = {
            name: curve(store, Path(folder) / f"run-{number}", precision, draw, options.steps)
            for number, (name, (precision, draw)) in enumerate(RUNS.items())
        }
    print(f"| steps until | {' | '.join(curves)} |")
    print(f"|--:|{'--:|' * len(curves)}")
    for number, losses in enumerate(zip(*curves.values(), strict=True), start=1):
        print(f"| {number * options.steps // POINTS} | {' | '.join(f'{1e3 * loss:.3f}' for loss in losses)} |")
    exact = np.array(curves["fp32"])
    for name, losses in curves.items():
        print(f"{name}: mean distance from fp32 {np.abs(np.array(losses) / exact - 1)[POINTS // 4 :].mean():.2%}")


if __name__ == "__main__":
    main()
