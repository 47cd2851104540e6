#!/usr/bin/env python
"""Does the planner predict what a training step takes? Prints predicted and measured memory for every engine.

::

    python benchmarks/plan.py --out docs/benchmarks/plan_<hardware>_<date>.md

Every row is one or two processes of their own (as many as there are GPUs, if there are any) that build the engine and
make two steps on made-up crops. "States" are the bytes of all tensors alive between two steps, "peak" is the most that
is allocated within the second step: on a CPU by adding up the allocator's events as PyTorch's profiler records them, on
a GPU as ``torch.cuda.max_memory_allocated`` says. Neither is what the planner computes from, so that both could prove
it wrong.
"""

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.skeletons.library import load_skeleton
from posecore.training.context import LocalContext
from posecore.training.engine import (
    DeepSpeedEngineConfig,
    EngineConfig,
    EngineSettings,
    TorchEngineConfig,
    build_engine,
)
from posecore.training.gpus import find_gpu
from posecore.training.optimizer import OptimizerConfig
from posecore.training.planner import PlannedRun, plan, trace_step, with_checkpointing

MIB = 1 << 20
NUM_POINTS = 17
RUNS: list[dict[str, Any]] = [
    {"engine": "torch", "precision": "fp32", "processes": 1},
    {"engine": "torch", "precision": "bf16", "processes": 1},
    {"engine": "torch", "precision": "bf16", "processes": 1, "checkpointing": True},
    {"engine": "torch", "precision": "fp32"},
    {"engine": "torch", "precision": "bf16"},
    {"engine": "torch", "precision": "bf16", "checkpointing": True},
    {"engine": "deepspeed", "zero_stage": 1, "precision": "bf16"},
    {"engine": "deepspeed", "zero_stage": 2, "precision": "bf16"},
    {"engine": "deepspeed", "zero_stage": 3, "precision": "bf16"},
    {"engine": "deepspeed", "zero_stage": 3, "precision": "bf16", "checkpointing": True},
    {"engine": "deepspeed", "zero_stage": 3, "precision": "bf16-weights"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vitpose-base")
    parser.add_argument("--batch", type=int, default=8, help="crops per process and step")
    parser.add_argument("--rows", help="numbers of the rows to run, with commas; default: all")
    parser.add_argument("--out", help="Markdown file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(json.loads(options.child))
        return
    on_gpu = torch.cuda.is_available()
    most = torch.cuda.device_count() if on_gpu else 2
    lines = [
        f"`{options.backbone}`, {options.batch} crops per process, torch {torch.__version__}, "
        f"{torch.cuda.get_device_name() if on_gpu else 'CPU'}; MiB per process.",
        "",
        "| engine | processes | states predicted | measured | off | peak predicted | measured | off |",
        "|---|---|---|---|---|---|---|---|",
    ]
    chosen = [RUNS[int(row)] for row in options.rows.split(",")] if options.rows else RUNS
    for run in chosen:
        run = {"backbone": options.backbone, "batch": options.batch, **run}
        world_size = min(most, run.pop("processes", most))
        states, peak = predicted(run, world_size, on_gpu)
        measured = launch(run, world_size)
        name = " ".join(str(value) for key, value in run.items() if key not in ("backbone", "batch", "checkpointing"))
        cells = [name + (" checkpointing" if run.get("checkpointing") else ""), str(world_size)]
        for guess, found in ((states, measured["states"]), (peak, measured["peak"])):
            cells += [f"{guess / MIB:,.0f}", f"{found / MIB:,.0f}", f"{guess / found - 1:+.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")


def architecture(run: dict[str, Any]) -> ModelConfig:
    model = ModelConfig(backbone=run["backbone"])
    return with_checkpointing(model) if run.get("checkpointing") else model


def engine_config(run: dict[str, Any]) -> EngineConfig:
    if run["engine"] == "torch":
        return TorchEngineConfig(precision=run["precision"])
    return DeepSpeedEngineConfig(precision=run["precision"], zero_stage=run["zero_stage"])


def predicted(run: dict[str, Any], world_size: int, on_gpu: bool) -> tuple[int, int]:
    """Bytes between steps, and at the most."""
    planned = PlannedRun(
        model=architecture(run),
        keypoints={"coco": NUM_POINTS},
        engine=engine_config(run),
        gpu=find_gpu("h200"),
        num_gpus=world_size,
        micro_batch=run["batch"],
    )
    answer = plan(planned, trace_step(planned, torch.float16 if on_gpu else torch.bfloat16))
    return answer.resident, answer.peak_tensors


def launch(run: dict[str, Any], world_size: int) -> dict[str, int]:
    """What rank 0 of a group of processes measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps(run | {"folder": folder})
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--child", request],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for rank in range(world_size)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=600)
            if process.returncode:
                sys.exit(errors.decode()[-3000:])
        found: dict[str, int] = json.loads((Path(folder) / "measured.json").read_text())
    return found


def measure(run: dict[str, Any]) -> None:
    context = LocalContext(Path(run["folder"]))
    model, batch = architecture(run), run["batch"]
    torch.manual_seed(0)
    method = SupervisedHeads(build_model(model, {"coco": load_skeleton("coco17")}))
    settings = EngineSettings(optimizer=OptimizerConfig(), micro_batch=batch, accumulation=1, device=context.device)
    engine = build_engine(engine_config(run), method, settings)
    peak = 0
    for _ in range(2):
        states = living_bytes()
        peak = peak_of_step(engine, made_up_crops(batch, model, context.device), states)
    if context.rank == 0:
        (Path(run["folder"]) / "measured.json").write_text(json.dumps({"states": living_bytes(), "peak": peak}))


def made_up_crops(batch: int, model: ModelConfig, device: torch.device) -> DeviceBatch:
    group = DeviceGroup(
        dataset="coco",
        start=0,
        stop=batch,
        keypoints_crop=torch.rand(batch, NUM_POINTS, 2, device=device) * 100,
        weights=torch.ones(batch, NUM_POINTS, device=device),
        scale=torch.full((batch, 2), 200.0, device=device),
        seeds=torch.zeros(batch, dtype=torch.int64, device=device),
    )
    return DeviceBatch(images=torch.randn(batch, 3, *model.input_size, device=device), groups=(group,))


def living_bytes() -> int:
    """Bytes of all storages that a tensor somewhere holds."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def peak_of_step(engine: Any, crops: DeviceBatch, states: int) -> int:
    """The most bytes alive within one step."""
    if crops.images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        engine.step([crops], 1.0)
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        engine.step([crops], 1.0)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    now = most = states
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


if __name__ == "__main__":
    main()
