"""What is distillation worth? A whole-body teacher, a small student, every part of the method alone.

    python -m benchmarks.distillation --out results/distillation --seeds 0 1 2

The teacher is trained once, for three times as many steps as a student, on the same pictures of synthetic adults with
133 points. Arms: ``alone`` learns from labels; ``features``, ``outputs`` and ``both`` add the teacher's; ``label-free``
follows the teacher's outputs and sees no label; ``alone+head`` and ``both+head`` are followed by a second stage of 22 %
of the steps. ``both, no augmentation`` is what a cache of the teacher's answers allows. All are judged on held-out
pictures by COCO-WholeBody's protocol (AP, in percent) and by the share of points within a twentieth of their box's
size, which still tells models apart where AP is near 0.

Both models are transformers with patches of 8 pixels and heatmaps: of all that was tried, they learn most from scratch
in the few minutes a run may take here.

Every run is one line of ``results.jsonl`` and is not repeated when the command is given again; two processes may share
the folder with different ``--seeds``. The tables are printed at the end, or alone with ``--steps 0``.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.repeated import Results, spread, trained
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.keypoint_errors import answered_distances, relative_distances
from posecore.evaluation.protocols import evaluate
from posecore.evaluation.wholebody import PARTS
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import LoadingConfig
from posecore.methods.distillation import DistillationConfig
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.methods.heads import HeadsConfig
from posecore.models.architecture import ModelConfig
from posecore.models.cost import model_cost
from posecore.models.latency import forward_seconds
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model
from posecore.models.sources import ModelFolder
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset
from posecore.training.loop import TrainingConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker

NAME = "coco_wholebody"
NUM_TRAIN, NUM_VAL = 2000, 200
SECOND_STAGE = 60 / 270
NEAR = 0.05
INPUT_SIZE = (64, 64)


def _architecture(width: int, depth: int, num_heads: int) -> dict[str, Any]:
    return {
        "backbone": {
            "kind": "vit",
            "embed_dim": width,
            "depth": depth,
            "num_heads": num_heads,
            "patch_size": 8,
            "patch_padding": 0,
        },
        "head": {"kind": "classic", "channels": 32},
        "input_size": INPUT_SIZE,
        "heatmap_sigma": 1.5,
    }


TEACHER = _architecture(width=192, depth=6, num_heads=6)
STUDENT = _architecture(width=64, depth=2, num_heads=2)
AUGMENT = {"half_body_probability": 0, "scale_factor": 0.15, "rotation_probability": 0.5, "rotation_degrees": 15}
PLAIN = {
    "flip_probability": 0,
    "half_body_probability": 0,
    "scale_factor": 0,
    "rotation_probability": 0,
    "center_jitter": "off",
}
FEATURES = {"feature_reduction": "mean", "feature_weight": 1e-3}
"""Nothing is published for heatmaps; not tuned."""
TERMS: dict[str, dict[str, Any]] = {
    "features": FEATURES | {"output_weight": 0},
    "outputs": {"feature_weight": 0},
    "both": FEATURES,
    "label-free": {"feature_weight": 0, "labels": False},
    "both, no augmentation": FEATURES,
}


def prepare(out: Path) -> dict[str, str]:
    """Renders and ingests the set; split to the location of its shards."""
    root = write_dataset(NAME, out / "data", NUM_TRAIN, NUM_VAL, (256, 256))
    definition = load_dataset(NAME)
    stores = {}
    for split in ("train", "val"):
        job = ingest_job(definition, split, root, out / "shards", IngestSettings())
        ingest(job, read_split(definition, split, root))
        stores[split] = str(job.folder)
    return stores


class Experiment:
    """Trains, judges and remembers.

    Args:
        out: folder of the experiment.
        steps: of a student; the teacher gets three times as many.
        batch: crops per step.
    """

    def __init__(self, out: Path, steps: int, batch: int) -> None:
        self.results = Results(out)
        self.stores = prepare(out)
        self.steps = steps
        self.batch = batch

    def teacher(self) -> None:
        """Trains the teacher, once for all seeds."""
        self._train("teacher", 0, TEACHER, HeadsConfig(), 3 * self.steps)

    def students(self, seed: int) -> None:
        """Trains every arm of one seed."""
        self._train("alone", seed, STUDENT, HeadsConfig(), self.steps)
        teacher = ModelFolder(source=str(self.results.folder("teacher", 0) / "model"))
        for arm, terms in TERMS.items():
            method = DistillationConfig(teacher=teacher, **terms)
            augment = PLAIN if arm.endswith("no augmentation") else AUGMENT
            self._train(arm, seed, STUDENT, method, self.steps, augment)
        for arm in ("alone", "both"):
            first = ModelFolder(source=str(self.results.folder(arm, seed) / "model"))
            steps = round(SECOND_STAGE * self.steps)
            self._train(f"{arm}+head", seed, STUDENT, HeadDistillationConfig(teacher=first), steps)

    def _train(
        self,
        arm: str,
        seed: int,
        model: Mapping[str, Any],
        method: HeadsConfig | DistillationConfig | HeadDistillationConfig,
        steps: int,
        augment: Mapping[str, Any] = AUGMENT,
    ) -> None:
        def run(folder: Path) -> dict[str, Any]:
            worker = MultiDatasetWorker(
                model=parse_config(model, ModelConfig, "model"),
                training=parse_config(self._training(seed, steps, method), TrainingConfig, "training"),
                loading=parse_config(
                    {"mixture": {"entries": [{"name": NAME, "augment": augment}]}, "num_threads": 1},
                    LoadingConfig,
                    "loading",
                ),
                stores={NAME: self.stores["train"]},
                method=method,
            )
            learned, seconds = trained(worker, folder)
            settings = InferenceSettings(num_threads=1)
            return {"metrics": judge(learned, open_store(self.stores["val"]), settings), "seconds": seconds}

        self.results.once(arm, seed, run)

    def _training(self, seed: int, steps: int, method: object) -> dict[str, Any]:
        second_stage = isinstance(method, HeadDistillationConfig)  # published: a constant rate
        return {
            "steps": steps,
            "global_batch": self.batch,
            "seed": seed,
            "optimizer": {"lr": 2e-3, "weight_decay": 0.05, "layer_decay": 1.0},
            "schedule": {"kind": "multistep", "warmup_steps": 20, "milestones": []}
            if second_stage
            else {"kind": "cosine", "warmup_steps": 50},
            "engine": {"kind": "torch", "precision": "bf16"},
            "checkpoint_every": steps,
            "log_every": 50,
        }


def judge(model: PoseModel, store: ShardStore, settings: InferenceSettings) -> dict[str, float]:
    """``<part>/AP``, and ``<part>/near``: the share of points within a twentieth of their box's size, √(w·h)."""
    predictions = predict_store(model, store, settings, head=NAME)
    definition, truth = store.manifest.definition, GroundTruth.from_store(store)
    metrics = evaluate(definition.evaluation, definition.skeleton, truth, predictions)
    distances = relative_distances(truth, answered_distances(truth, predictions))
    for part, groups in PARTS.items():
        of_part = distances[:, list(definition.skeleton.indices_of_group(groups))]
        metrics[f"{part}/near"] = float((of_part[np.isfinite(of_part)] < NEAR).mean())
    return metrics


def show(results: Results) -> None:
    """Mean ± standard deviation over the seeds, one row per arm, and what each arm is above ``alone``, seed by seed."""
    parts = [*(part for part in PARTS if part != "wholebody"), "wholebody"]
    by_arm: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in results.rows():
        by_arm[row["arm"]][row["seed"]] = row
    alone = by_arm["alone"]
    for metric, title in (("AP", "AP in percent"), ("near", f"percent of points within {NEAR:g} of the box's size")):
        table = Table(title=f"synthetic whole bodies: {title}")
        for column in ("arm", "seeds", *parts, "whole, above alone", "processor s"):
            table.add_column(column)
        for arm, by_seed in by_arm.items():
            cells = [spread([100 * row["metrics"][f"{part}/{metric}"] for row in by_seed.values()]) for part in parts]
            gains = [
                100 * (row["metrics"][f"wholebody/{metric}"] - alone[seed]["metrics"][f"wholebody/{metric}"])
                for seed, row in by_seed.items()
                if seed in alone and arm not in ("alone", "teacher")
            ]
            seconds = mean(row["seconds"] for row in by_seed.values())
            table.add_row(arm, str(len(by_seed)), *cells, spread(gains), f"{seconds:.0f}")
        Console(width=180).print(table)


def costs(results: Results) -> None:
    """Parameters, arithmetic, size on disk and latency of teacher and student."""
    table = Table(title=f"one crop of {INPUT_SIZE[0]}×{INPUT_SIZE[1]}, one thread, float32")
    for column in ("model", "parameters, M", "GFLOPs", "MB", "ms"):
        table.add_column(column)
    for name, arm in (("teacher", "teacher"), ("student", "alone")):
        folder = results.folder(arm, 0) / "model"
        model = load_model(folder)
        cost = model_cost(model.config, {NAME: model.skeletons[NAME].num_keypoints})
        megabytes = (folder / "model.safetensors").stat().st_size / 1e6
        cells = (cost.parameters / 1e6, cost.flops / 1e9, megabytes, 1e3 * forward_seconds(model, NAME))
        table.add_row(name, *(f"{value:.2f}" for value in cells))
    Console(width=180).print(table)


def main() -> None:
    """Trains what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="of a student; 0 prints what is there")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.steps:
        experiment = Experiment(options.out, options.steps, options.batch)
        experiment.teacher()
        for seed in options.seeds:
            experiment.students(seed)
    show(Results(options.out))
    costs(Results(options.out))


if __name__ == "__main__":
    main()
