#!/usr/bin/env python
"""What a training step makes of a GPU: its arithmetic, its memory, the crops it is fed, and the same numbers.

::

    bash benchmarks/gpu.sh          # all of it, at most nine minutes
    python benchmarks/gpu.py step --preset vitpose-huge --precision bf16
    python benchmarks/gpu.py feed
    python benchmarks/gpu.py parity --preset vitpose-base

``step`` trains a preset on made-up crops, as many at a time as the planner finds room for, and prints crops per second,
the model's arithmetic as a share of the GPU's dense peak (MFU), and the peak of tensors beside the planned one.
``feed`` drains a loader with a thread for every core. ``parity`` compares one forward pass with the CPU's in float32.
No Ray, one process; on a CPU the same at the size that is asked for, where the peak is a measured matrix product.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plan import NUM_POINTS, living_bytes, made_up_crops, peak_of_step
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.shards.store import open_store
from posecore.skeletons.library import load_skeleton
from posecore.synth.writers import write_dataset
from posecore.training.context import default_device
from posecore.training.engine import (
    DeepSpeedEngineConfig,
    EngineConfig,
    EngineSettings,
    TorchEngineConfig,
    build_engine,
)
from posecore.training.gpus import find_gpu, present_gpu
from posecore.training.optimizer import OptimizerConfig
from posecore.training.planner import Plan, PlannedRun, plan, trace_step, with_checkpointing
from posecore.training.utilisation import flops_per_crop, peak_flops

GIB = 2**30
BATCHES = (128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
WARM_STEPS = 3


def planned(options: argparse.Namespace, model: ModelConfig, device: torch.device, batch: int) -> Plan:
    """What the planner says of a step of so many crops."""
    engine = engine_of(options.precision)
    gpu = (present_gpu(device) if device.type == "cuda" else None) or find_gpu("h200")
    keypoints = {"coco": NUM_POINTS}
    run = PlannedRun(model=model, keypoints=keypoints, engine=engine, gpu=gpu, micro_batch=batch)
    return plan(run, trace_step(run, torch.float16 if device.type == "cuda" else torch.bfloat16))


def engine_of(precision: str) -> EngineConfig:
    """Plain PyTorch where it has the precision."""
    if precision == "bf16-weights":
        return DeepSpeedEngineConfig(zero_stage=3, precision="bf16-weights")
    return TorchEngineConfig.model_validate({"precision": precision})


def step(options: argparse.Namespace) -> None:
    """Prints a row of rate and memory."""
    device = default_device()
    model = ModelConfig(backbone=options.preset)
    if options.checkpointing:
        model = with_checkpointing(model)
    batches = (options.batch,) if options.batch else BATCHES
    answer = next((found for b in batches if (found := planned(options, model, device, b)).fits), None)
    if answer is None:
        raise SystemExit(f"{options.preset} does not fit, not even one crop.")
    batch = answer.run.micro_batch
    torch.manual_seed(0)
    with device:
        method = SupervisedHeads(build_model(model, {"coco": load_skeleton("coco17")}))
    settings = EngineSettings(optimizer=OptimizerConfig(), micro_batch=batch, accumulation=1, device=device)
    engine = build_engine(engine_of(options.precision), method, settings)
    crops = made_up_crops(batch, model, device)
    for _ in range(WARM_STEPS):
        engine.step([crops], 1.0)
    peak = peak_of_step(engine, crops, living_bytes())
    lengths: list[float] = []
    until = time.monotonic() + options.seconds
    while time.monotonic() < until or not lengths:
        began = time.perf_counter()
        engine.step([crops], 1.0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        lengths.append(time.perf_counter() - began)
    rate = batch / statistics.median(lengths)
    flops = flops_per_crop(method)
    assert flops is not None
    mfu = rate * flops / peak_flops(device, engine_of(options.precision).precision)
    off = answer.peak_tensors / peak - 1
    name = options.preset + (", checkpointing" if options.checkpointing else "")
    memory = f"{answer.peak_tensors / GIB:.2f} | {peak / GIB:.2f} | {off:+.1%}"
    print(f"| {name} | {options.precision} | {batch} | {rate:,.1f} | {mfu:.0%} | {memory} |", flush=True)


def feed(options: argparse.Namespace) -> None:
    """Prints how many crops per second a loader makes of rendered pictures."""
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "coco"
        write_dataset("coco", root, num_train=options.pictures, num_val=1, image_size=(480, 640), seed=0)
        definition = load_dataset("coco")
        job = ingest_job(definition, "train", root, Path(folder) / "shards", IngestSettings())
        ingest(job, read_split(definition, "train", root))
        config = parse_config(
            {"mixture": {"entries": [{"name": "coco"}]}, "num_threads": threads}, LoadingConfig, "feed"
        )
        loader = Loader({"coco": open_store(job.folder)}, config, input_size=(256, 192), seed=0, global_batch=64)
        batches = iter(loader)
        for _ in range(2 * config.mixture.shuffle_window):  # in fresh memory
            next(batches)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < options.seconds:
            count += len(next(batches).images)
        rate = count / (time.perf_counter() - began)
        batches.close()
    print(f"loader, {threads} threads, 256x192 of rendered pictures of 480x640: {rate:,.0f} crops/s", flush=True)


@torch.no_grad()
def parity(options: argparse.Namespace) -> None:
    """Prints how far heatmaps lie from the CPU's in float32."""
    device = default_device()
    torch.manual_seed(0)
    config = ModelConfig(backbone=options.preset)
    model = build_model(config, {"coco": load_skeleton("coco17")}).eval()
    images = torch.randn(2, 3, *config.input_size)
    right = model(images, [("coco", 0, 2)])["coco"]
    model, images = model.to(device), images.to(device)
    for precision in ("fp32", "bf16"):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = model(images, [("coco", 0, 2)])["coco"].float().cpu()
        apart = float((found - right).abs().max() / right.abs().max())
        print(f"parity of {options.preset}, {precision} on {device.type}: {apart:.1e} of the highest value", flush=True)


def main() -> None:
    """Answers one question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["step", "feed", "parity"])
    parser.add_argument("--preset", default="vitpose-huge")
    parser.add_argument("--precision", choices=["fp32", "bf16", "bf16-weights"], default="bf16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--batch", type=int, help="crops of a step; default: what there is room for")
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring")
    parser.add_argument("--pictures", type=int, default=400, help="rendered for the loader")
    options = parser.parse_args()
    {"step": step, "feed": feed, "parity": parity}[options.question](options)


if __name__ == "__main__":
    main()
