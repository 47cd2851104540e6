"""Does masked-autoencoder pre-training on unlabelled images help where labels are few?

Renders people once as a large set whose labels nobody reads and once as a small labelled set of other subjects. For
every seed a backbone is pre-trained on the former, then the same model is trained on the latter with the same steps,
order and augmentation, from random weights and from the pre-trained ones; once whole, and once with the backbone
frozen, which shows what its features are worth by themselves. Everything is judged on the same held-out people by OKS
AP and AP50, in percent.

    python benchmarks/pretraining.py --folder /tmp/pretraining
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.methods.masked_autoencoder import MaskedAutoencoderConfig
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.mae_decoder import MaeDecoderConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.warm_start import warm_start
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig, train
from posecore.training.optimizer import OptimizerConfig
from posecore.training.schedule import CosineSchedule
from posecore.workflows.pretraining.judge import ReconstructionJudge
from posecore.workflows.pretraining.worker import PretrainingWorker

NAME = "coco"
AUGMENT = AugmentConfig(
    half_body_probability=0, scale_factor=0.15, rotation_probability=0.5, rotation_degrees=15, center_jitter="off"
)
DECODER = MaeDecoderConfig(depth=2, width=64, num_heads=4)


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment."""

    folder: Path
    unlabelled: int
    labelled: int
    pretraining_steps: int
    steps: int
    pretraining_lr: float
    lr: float


def split(scale: Scale, role: str) -> ShardStore:
    """``unlabelled``, ``labelled`` or ``held_out``: rendered and ingested once."""
    numbers = {"unlabelled": (scale.unlabelled, 0), "labelled": (scale.labelled, 200)}
    of, name = ("labelled", "val") if role == "held_out" else (role, "train")
    num_train, num_val = numbers[of]
    root = scale.folder / "data" / f"{of}_{num_train}"
    if not root.exists():
        write_dataset(NAME, root, num_train, max(1, num_val), (256, 256), seed=list(numbers).index(of) + 1)
    definition = load_dataset(NAME)
    out = scale.folder / "shards" / root.name
    ingest(ingest_job(definition, name, root, out, IngestSettings()), read_split(definition, name, root))
    return open_store(out / NAME / name)


def model_config() -> ModelConfig:
    head = {"kind": "classic", "channels": 64}
    return ModelConfig.model_validate({"backbone": "vit-micro", "head": head, "input_size": (128, 96)})


def training(seed: int, steps: int, global_batch: int, lr: float, **optimizer: object) -> TrainingConfig:
    return TrainingConfig(
        steps=steps,
        global_batch=global_batch,
        seed=seed,
        optimizer=OptimizerConfig.model_validate({"lr": lr, "layer_decay": 1.0, **optimizer}),
        schedule=CosineSchedule(warmup_steps=steps // 20),
        checkpoint_every=steps,
        progress=False,
    )


def pretrain(scale: Scale, seed: int) -> tuple[PoseModel, float]:
    """The encoder, and its masked error on the held-out people."""
    unlabelled = UnlabelledConfig(unit="bodies", least_area=0.4)
    worker = PretrainingWorker(
        model=model_config(),
        method=MaskedAutoencoderConfig(decoder=DECODER),
        training=training(
            seed, scale.pretraining_steps, 64, scale.pretraining_lr, betas=(0.9, 0.95), weight_decay=0.05
        ),
        loading=LoadingConfig(
            mixture=MixtureConfig(entries=(MixtureEntry(name=NAME),)), unlabelled=unlabelled, num_threads=1
        ),
        stores={NAME: str(split(scale, "unlabelled").location)},
    )
    context = LocalContext(scale.folder / f"pretraining_{seed}_{scale.pretraining_steps}_{scale.pretraining_lr}")
    worker(context)
    checkpoint = context.store.newest()
    assert checkpoint is not None
    method = worker.trained_method(checkpoint)
    judge = ReconstructionJudge(
        stores={NAME: str(split(scale, "held_out").location)}, unlabelled=unlabelled, num_threads=1
    )
    return method.model, judge.error(method, NAME)


def fine_tune(scale: Scale, seed: int, parent: PoseModel | None, frozen: bool) -> Mapping[str, float]:
    """Trains on the labelled people and judges on the held-out ones."""
    store = split(scale, "labelled")
    torch.manual_seed(seed)
    model = build_model(model_config(), {NAME: store.manifest.definition.skeleton})
    if parent is not None:
        warm_start(model, parent)
    model.backbone.requires_grad_(not frozen)
    loading = LoadingConfig(mixture=MixtureConfig(entries=(MixtureEntry(name=NAME),)), augment=AUGMENT, num_threads=1)
    config = training(seed, scale.steps, 16, scale.lr)
    run_dir = scale.folder / f"runs/{time.time_ns()}"

    def batches(start: int) -> Loader:
        return Loader({NAME: store}, loading, input_size=(128, 96), seed=seed, global_batch=16, start_step=start)

    train(SupervisedHeads(model), batches, config, LocalContext(run_dir))
    return evaluate_store(model.eval(), split(scale, "held_out"), InferenceSettings(num_threads=1), head=NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="data, shards and checkpoints; may be used again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--unlabelled", type=int, default=1000, help="images without labels")
    parser.add_argument("--labelled", type=int, default=60, help="images with labels")
    parser.add_argument("--pretraining-steps", type=int, default=1000, help="of 64 crops")
    parser.add_argument("--steps", type=int, default=1000, help="of 16 crops")
    parser.add_argument("--pretraining-lr", type=float, default=1e-3)
    parser.add_argument("--lr", type=float, default=5e-4)
    options = vars(parser.parse_args())
    seeds = options.pop("seeds")
    scale = Scale(**options)
    torch.set_num_threads(1)
    results: dict[str, list[Mapping[str, float]]] = {}
    for seed in seeds:
        began = time.perf_counter()
        encoder, masked_error = pretrain(scale, seed)
        print(f"seed {seed}: masked error {masked_error:.3f} after {time.perf_counter() - began:.0f} s", flush=True)
        for name, parent, frozen in (
            ("random", None, False),
            ("pre-trained", encoder, False),
            ("random, frozen", None, True),
            ("pre-trained, frozen", encoder, True),
        ):
            began = time.perf_counter()
            metrics = fine_tune(scale, seed, parent, frozen)
            results.setdefault(name, []).append(metrics)
            shown = " ".join(f"{metric} {100 * metrics[metric]:.2f}" for metric in ("AP", "AP50"))
            print(f"seed {seed}: {name:<20} {shown}  ({time.perf_counter() - began:.0f} s)", flush=True)
    print(f"\n| start | AP | AP50 |   {len(seeds)} seeds, mean ± sd\n|---|---|---|")
    for name, runs in results.items():
        cells = []
        for metric in ("AP", "AP50"):
            values = [100 * metrics[metric] for metrics in runs]
            cells.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
