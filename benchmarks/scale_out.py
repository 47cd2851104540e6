#!/usr/bin/env python
"""What two processes of a training hold in memory, and how long a step waits for a checkpoint; another build's beside.

::

    python benchmarks/scale_out.py --preset vitpose-base --precision bf16
    python benchmarks/scale_out.py --preset vitpose-large --precision bf16 --against /path/of/another/checkout
    python benchmarks/scale_out.py --preset vitpose-base --resume-ranks 4 --against /path/of/another/checkout

Two processes train a preset with ZeRO-3 on made-up crops through the loop, write checkpoints and end; two others, or
as many as are asked for, go on from the last for one step; one process writes the trained model from it. A thread of
each reads its resident memory every few milliseconds. Stated are the peaks above what the imported libraries take,
added up over the processes, as multiples of 16 bytes per parameter: float32 weights, gradients and two moments, each
once. The wait is what a checkpoint keeps the loop from: the time in saving, and that in which an update waits for the
writing.

``--against`` runs this same file on the package of another checkout, in turns with this one. Beside them stands what
the planner says of a process that computes on the CPU.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
FLOOR_BYTES = 16
PHASES = ("build", "step", "save", "resume", "first step")


class Watch:
    """Peaks of this process's resident memory by phase, above the first reading."""

    def __init__(self) -> None:
        self.idle = self._resident()
        self.phase = "idle"
        self.peaks: dict[str, int] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def enter(self, phase: str) -> None:
        """Begins a phase."""
        self._note()
        self.phase = phase

    def _look(self) -> None:
        while True:
            self._note()
            time.sleep(0.003)

    def _note(self) -> None:
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self._resident() - self.idle)

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def train_rank(options: Mapping[str, Any]) -> None:
    """One rank; started twice for a training and twice for its resumption."""
    import torch

    torch.set_num_threads(1)
    import deepspeed.runtime.zero.stage3  # noqa: F401 (imported by the engine anyway; counted as a library here)
    import numpy as np

    from posecore.methods.supervised import SupervisedHeads
    from posecore.models.architecture import ModelConfig
    from posecore.models.pose_model import build_model
    from posecore.schema import CropBatch, CropGroup
    from posecore.skeletons.library import load_skeleton
    from posecore.training import loop
    from posecore.training.context import LocalContext
    from posecore.training.engine import DeepSpeedEngineConfig
    from posecore.training.loop import TrainingConfig

    model_config = ModelConfig.model_validate({"backbone": options["preset"]})
    skeleton = load_skeleton("coco17")
    run_dir = Path(options["run_dir"])
    context = LocalContext(run_dir, num_to_keep=1)
    torch.distributed.barrier()
    with torch.device("meta"):  # which imports more of torch
        parameters = sum(p.numel() for p in build_model(model_config, {"coco": skeleton}).parameters())
    watch = Watch()
    began, worked = time.perf_counter(), time.process_time()
    resumes = bool(options["resumes"])
    watch.enter("resume" if resumes else "build")
    every = int(options["every"])
    steps = int(options["steps"]) + (1 if resumes else 0)
    times: dict[int, float] = {}
    waits: list[float] = []
    loop._save = _timed(loop._save, waits, begins=True)
    try:
        from posecore.training.checkpoint_saver import CheckpointSaver
    except ImportError:
        pass  # an older build, which writes while it saves
    else:
        CheckpointSaver.before_update = _timed(CheckpointSaver.before_update, waits)

    class Heads(SupervisedHeads):
        def forward(self, batch: Any) -> Any:
            if watch.phase in ("build", "resume"):
                times[-1], times[-2] = time.perf_counter() - began, time.process_time() - worked
                watch.enter("first step" if resumes else "step")
            return super().forward(batch)

    def batches(start: int) -> Iterator[CropBatch]:
        for step in range(start, steps):
            times[step] = time.perf_counter()
            if not resumes and step > 0:
                watch.enter("save" if step % every in (0, 1) and step >= every else "step")
            generator = np.random.default_rng([step, context.rank])
            height, width = model_config.input_size
            crops = int(options["crops"]) // context.world_size
            points = generator.uniform(20, width - 20, (crops, 17, 2)).astype(np.float32)
            group = CropGroup(
                dataset="coco",
                start=0,
                stop=crops,
                keypoints_crop=points,
                state=np.full((crops, 17), 3, np.uint8),
                center=np.zeros((crops, 2), np.float32),
                scale=np.ones((crops, 2), np.float32),
                rotation=np.zeros(crops, np.float32),
                flipped=np.zeros(crops, bool),
                rows=np.full(crops, context.rank),
                seeds=np.full(crops, step),
            )
            images = generator.integers(0, 256, (crops, height, width, 3), np.uint8)
            yield CropBatch(images=images, groups=(group,), step=step, epoch=0)
            if not resumes and (step + 1) % every == 0:
                watch.enter("save")

    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        return Heads(build_model(model_config, {"coco": skeleton}))

    def outline() -> torch.nn.Module:
        with torch.device("meta"):
            return Heads(build_model(model_config, {"coco": skeleton}))

    config = TrainingConfig(
        steps=steps,
        global_batch=int(options["crops"]),
        engine=DeepSpeedEngineConfig(zero_stage=3, precision=options["precision"]),
        checkpoint_every=every,
        progress=False,
    )
    makers = getattr(loop, "MethodMakers", None)
    loop.train(build() if makers is None else makers(build, outline), batches, config, context)
    watch.enter("end")
    result = {
        "peaks": watch.peaks,
        "times": times,
        "parameters": parameters,
        "waits": waits[:-1],
    }  # the last is no wait
    (run_dir / f"{'resumed' if resumes else 'trained'}{context.rank}.json").write_text(json.dumps(result))


def save_model_of(options: Mapping[str, Any]) -> None:
    """What the driver does with the last checkpoint."""
    import torch

    torch.set_num_threads(1)
    from posecore.methods.supervised import SupervisedHeads
    from posecore.models.architecture import ModelConfig
    from posecore.models.pose_model import build_model
    from posecore.models.saving import save_model
    from posecore.skeletons.library import load_skeleton
    from posecore.training import checkpoint

    config = ModelConfig.model_validate({"backbone": options["preset"]})
    skeletons = {"coco": load_skeleton("coco17")}
    run_dir = Path(options["run_dir"])
    newest = sorted((run_dir / "checkpoints").glob("step_*"))[-1]
    watch = Watch()
    watch.enter("model")
    try:
        from posecore.training.trained import TrainedModel
    except ImportError:
        method = SupervisedHeads(build_model(config, skeletons))
        checkpoint.load_trained(newest, method)
        save_model(method.model, run_dir / "model")
    else:
        with torch.device("meta"):
            trained = TrainedModel(newest, build_model(config, skeletons), "model.")
        trained.save(run_dir / "model", trained.card)
    watch.enter("end")
    (run_dir / "model.json").write_text(json.dumps({"peaks": watch.peaks}))


def measure(package: Path, options: Mapping[str, Any]) -> dict[str, float]:
    """One training, one resumption and one model of a checkout, as the table has them."""
    with tempfile.TemporaryDirectory() as folder:
        common = {**options, "run_dir": folder}
        _launch(package, "train_rank", {**common, "resumes": False}, 2)
        _launch(package, "train_rank", {**common, "resumes": True}, int(options["resume_ranks"]))
        _launch(package, "save_model_of", common, 1)
        read = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    trained, resumed = ([read[name] for name in sorted(read) if name.startswith(kind)] for kind in ("train", "resum"))
    floor = FLOOR_BYTES * trained[0]["parameters"]
    figures: dict[str, float] = {"parameters": trained[0]["parameters"]}
    for phase in PHASES:
        group = resumed if phase in ("resume", "first step") else trained
        figures[phase] = sum(rank["peaks"][phase] for rank in group) / floor
    figures["driver GiB"] = read["model"]["peaks"]["model"] / 2**30
    figures["resume s"] = max(rank["times"]["-1"] for rank in resumed)
    figures["resume, processor s of all"] = sum(rank["times"]["-2"] for rank in resumed)
    figures["build s"] = max(rank["times"]["-1"] for rank in trained)
    figures["step s"] = statistics.median(length for rank in trained for length in _lengths(rank["times"]))
    figures["wait s"] = statistics.mean(wait for rank in trained for wait in rank["waits"])
    return figures


def _lengths(times: Mapping[str, float]) -> list[float]:
    """Seconds of every step but the first and the last."""
    return [times[str(step + 1)] - times[str(step)] for step in range(1, len(times) - 3)]


def _timed(function: Callable[..., Any], waits: list[float], begins: bool = False) -> Callable[..., Any]:
    """The same function, whose seconds are added to the last wait, or to a new one."""

    def timed(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        if begins:
            waits.append(0.0)
        try:
            return function(*arguments, **keywords)
        finally:
            if waits:
                waits[-1] += time.perf_counter() - began

    return timed


def planned(preset: str, precision: str) -> dict[str, float]:
    """The table's first rows as the planner has them: what lies there for good, and the most within a step."""
    import torch

    from posecore.models.architecture import ModelConfig
    from posecore.training.engine import DeepSpeedEngineConfig
    from posecore.training.gpus import find_gpu
    from posecore.training.planner import PlannedRun, plan, trace_step

    run = PlannedRun(
        model=ModelConfig.model_validate({"backbone": preset}),
        keypoints={"coco": 17},
        engine=DeepSpeedEngineConfig.model_validate({"zero_stage": 3, "precision": precision}),
        gpu=find_gpu("h100"),
        num_gpus=2,
    )
    answer = plan(run, trace_step(run, torch.bfloat16))
    share = FLOOR_BYTES * answer.total_parameters / 2
    lasting, most = answer.cpu_resident / share, answer.cpu_peak / share
    return {phase: lasting if phase in ("build", "resume") else most for phase in PHASES}


def _launch(package: Path, what: str, options: Mapping[str, Any], world_size: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--run", json.dumps([what, options])],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=package,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        assert process.wait() == 0, f"{what} of {package} ended with status {process.returncode}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vitpose-base")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--against", type=Path, help="another checkout, measured as well")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--every", type=int, default=4, help="steps between two checkpoints")
    parser.add_argument("--resume-ranks", type=int, default=2, help="processes that go on; crops of a step, if more")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        what, settings = json.loads(options.run)
        globals()[what](settings)
        return
    here = Path(__file__).resolve().parents[1]
    settings = {name: getattr(options, name) for name in ("preset", "precision", "steps", "every", "resume_ranks")}
    settings["crops"] = max(2, options.resume_ranks)
    builds = {"this build": here} | ({"the other": options.against.resolve()} if options.against else {})
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
    for _ in range(options.repeats):
        for name, package in builds.items():
            runs[name].append(measure(package, settings))
    plans = planned(options.preset, options.precision)
    on = f"2 processes, {settings['crops'] // 2} crops each, resumed on {options.resume_ranks}"
    print(f"{options.preset}, {options.precision}, ZeRO-3, {on}\n")
    print("| what | " + " | ".join(builds) + " | planned |")
    print("|---|" + "---|" * (len(builds) + 1))
    for figure in runs["this build"][0]:
        values = [statistics.median(run[figure] for run in runs[name]) for name in builds]
        cells = [f"{value:,.3g}" for value in values] + [f"{plans[figure]:,.3g}" if figure in plans else "–"]
        print(f"| {figure} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
