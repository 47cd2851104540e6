"""Whole jobs that lose a process, the disk or the tracking server; see ``benchmarks/faults.py``.

Every case is the main job, small, on real Ray with DeepSpeed, in a process group of its own. Something is done to it
once it trains; it must end within a limit with one sentence, or not mind. The same job is then submitted again, and the
model it ends with must be the one of a job left alone, byte for byte, with every point of its curve once.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posecore.lineage.tracking import TrackingConfig, connect
from posecore.synth.writers import write_dataset
from tests.support.tracking_server import TrackingServer

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS, LOG_EVERY = 240, 10
LIMIT_S = 420.0
DISK_BYTES = 1100 << 20  # a job starts on no less than 1 GiB


@dataclass
class Job:
    """One job and the run folder it is submitted to, again and again.

    Attributes:
        config: run file.
        run_folder: where it writes.
        tracking: URI of the store; None for the run folder's own file.
        patience_s: how long it waits for the store between steps.
    """

    config: Path
    run_folder: Path
    tracking: str | None = None
    patience_s: float = 5.0
    log: list[str] = field(default_factory=list)

    def start(self, *settings: str) -> subprocess.Popen[str]:
        """Submits it, in a session of its own."""
        command = [sys.executable, "pipelines/multidataset_train.py", "--config", str(self.config)]
        for setting in (f"run_folder={self.run_folder}", f"tracking.patience_s={self.patience_s}", *settings):
            command += ["--set", setting]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        if self.tracking is not None:
            environment["MLFLOW_TRACKING_URI"] = self.tracking
        output = (self.run_folder.parent / f"{self.run_folder.name}.{len(self.log)}.log").open("w+")
        self.log.append(output.name)
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, text=True, start_new_session=True
        )

    def output(self) -> str:
        """Of the last submission."""
        return Path(self.log[-1]).read_text(errors="replace")

    def checkpoints(self) -> list[Path]:
        """Manifests of the finished ones, oldest first."""
        return sorted(self.run_folder.glob("training/*/*/train/step_*/manifest.json"))

    def digest(self) -> str:
        """Hash of the trained weights."""
        (path,) = self.run_folder.glob("training/*/*/model/model.safetensors")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def curve(self) -> list[int]:
        """Steps of the loss's points, over all runs of the training step."""
        tracking = connect(TrackingConfig(uri=self.tracking), self.run_folder)
        runs = tracking.client.search_runs([tracking.experiment_id], "tags.`posecore.step` = 'train'")
        points = [p.step for run in runs for p in tracking.client.get_metric_history(run.info.run_id, "loss")]
        return sorted(points)


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        case: its name.
        verdict: ``harmless``, ``refused well``, ``raw traceback``, ``hang`` or ``silently wrong``.
        seconds: from the fault to the end of the process.
        said: its last line.
    """

    case: str
    verdict: str
    seconds: float
    said: str


Fault = Callable[[Job, "subprocess.Popen[str]"], None]


def write_job(folder: Path) -> Path:
    """Synthetic pictures and a run file; returns the file."""
    write_dataset("coco", folder / "data" / "coco", num_train=16, num_val=6, image_size=(128, 128), seed=1)
    values: dict[str, Any] = {
        "name": "faults",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder / "data"),
        "datasets": [{"name": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "ingest": {"images_per_shard": 8},
        "model": {
            "backbone": {"preset": "vit-nano"}, "head": {"kind": "classic", "channels": 16}, "input_size": [64, 48],
        },
        "training": {
            "steps": STEPS, "global_batch": 8, "log_every": LOG_EVERY, "checkpoint_every": 60, "progress": False,
            "engine": {"kind": "deepspeed", "zero_stage": 1, "precision": "fp32"},
        },
        "cluster": {"poll_interval_s": 0.2, "checkpoint_on_stop": True},
        "worst_cases": 2,
    }  # fmt: skip
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_jobs(folder: Path, names: list[str], outage_s: float, report: Callable[[str], None]) -> list[Outcome]:
    """Runs the named cases, after a job left alone."""
    config = write_job(folder)
    alone = Job(config, folder / "alone")
    process = alone.start()
    if process.wait(LIMIT_S) != 0:
        raise RuntimeError(f"the job left alone failed: {alone.output()[-2000:]}")
    right = alone.digest(), alone.curve()
    assert right[1] == list(range(LOG_EVERY, STEPS + 1, LOG_EVERY)), right[1]
    outcomes = []
    for name in names:
        with CASES[name](folder / name.replace(" ", "_"), config, outage_s) as (job, fault):
            outcomes.append(_outcome(name, job, fault, right))
        report(f"{name:<44} {outcomes[-1].verdict:<16} {outcomes[-1].seconds:6.1f} s  {outcomes[-1].said}")
    return outcomes


def _outcome(name: str, job: Job, fault: Fault, right: tuple[str, list[int]]) -> Outcome:
    process = job.start()
    try:
        fault(job, process)
        began = time.monotonic()
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            return Outcome(name, "hang", LIMIT_S, _last_line(job))
        seconds, said = time.monotonic() - began, _last_line(job)
        if "Traceback (most recent call last)" in job.output():
            return Outcome(name, "raw traceback", seconds, said)
    finally:
        _end(process)
    if status != 0:
        if status > 0 and "submit the same job again" not in job.output():
            return Outcome(name, "raw traceback", seconds, said)
        recover = getattr(fault, "recover", None)
        if recover is not None:
            recover()
        again = job.start()
        try:
            if again.wait(LIMIT_S) != 0:
                return Outcome(name, "silently wrong", seconds, f"submitted again: {_last_line(job)}")
        except subprocess.TimeoutExpired:
            return Outcome(name, "hang", seconds, f"submitted again: {_last_line(job)}")
        finally:
            _end(again)
    if (job.digest(), job.curve()) != right:
        return Outcome(name, "silently wrong", seconds, f"curve {job.curve()}, weights {job.digest()[:8]}")
    return Outcome(name, "harmless" if status == 0 else "refused well", seconds, said)


def _end(process: "subprocess.Popen[str]") -> None:
    """Whatever is left of the job's processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(job: Job) -> str:
    lines = [line for line in job.output().splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("error:", "stopped"))]
    return (told or lines or [""])[-1][:160]


def _training(job: Job, process: "subprocess.Popen[str]") -> None:
    """Returns once the job has a checkpoint."""
    until = time.monotonic() + LIMIT_S
    while not job.checkpoints():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the job did not come to train: {job.output()[-2000:]}")
        time.sleep(0.05)


def _children(process: "subprocess.Popen[str]", *words: str) -> list[int]:
    """Processes of the job's group whose command line has all the words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            if session == process.pid and all(word in command for word in words):
                found.append(int(folder.name))
    return found


def _kill(*words: str) -> Fault:
    def fault(job: Job, process: "subprocess.Popen[str]") -> None:
        _training(job, process)
        victims = _children(process, *words)
        if not victims:
            raise RuntimeError(f"no process {words} to kill")
        for victim in victims:
            os.kill(victim, signal.SIGKILL)

    return fault


def _signal(number: int, group: bool = False) -> Fault:
    def fault(job: Job, process: "subprocess.Popen[str]") -> None:
        _training(job, process)
        (os.killpg if group else os.kill)(process.pid, number)

    return fault


Case = Callable[[Path, Path, float], AbstractContextManager[tuple[Job, Fault]]]


def _with(fault: Fault) -> Case:
    @contextmanager
    def case(folder: Path, config: Path, _: float) -> Iterator[tuple[Job, Fault]]:
        yield Job(config, folder), fault

    return case


@contextmanager
def _server_away(folder: Path, config: Path, outage_s: float) -> Iterator[tuple[Job, Fault]]:
    """The tracking server is killed while the job trains, and comes back while it trains or after."""
    (folder / "server").mkdir(parents=True)
    with TrackingServer(folder / "server") as server:

        def fault(job: Job, process: "subprocess.Popen[str]") -> None:
            _training(job, process)
            server.kill()
            time.sleep(outage_s)
            server.start()

        yield Job(config, folder / "run", server.uri, patience_s=600), fault


@contextmanager
def _server_gone(folder: Path, config: Path, _: float) -> Iterator[tuple[Job, Fault]]:
    """The tracking server is frozen while the job trains and stays so until the job has ended."""
    (folder / "server").mkdir(parents=True)
    with TrackingServer(folder / "server") as server:

        class Freeze:
            def __call__(self, job: Job, process: "subprocess.Popen[str]") -> None:
                _training(job, process)
                server.freeze()

            def recover(self) -> None:
                server.thaw()

        yield Job(config, folder / "run", server.uri), Freeze()


@contextmanager
def _full_disk(folder: Path, config: Path, _: float) -> Iterator[tuple[Job, Fault]]:
    """The run folder is a small file system, filled to the last byte while the job trains. Needs root."""
    disk = folder / "run"  # what the job says is written beside it
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    filler = disk / "filler"

    class Fill:
        def __call__(self, job: Job, process: "subprocess.Popen[str]") -> None:
            _training(job, process)
            with filler.open("wb", buffering=0) as file:
                for size in (1 << 20, 4096):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))

        def recover(self) -> None:
            filler.unlink()

    try:
        yield Job(config, disk), Fill()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


CASES: dict[str, Case] = {
    "Ctrl-C in a terminal": _with(_signal(signal.SIGINT, group=True)),
    "SIGTERM to the driver": _with(_signal(signal.SIGTERM)),
    "driver killed": _with(_signal(signal.SIGKILL)),
    "training worker killed": _with(_kill("ray::RayTrainWorker")),
    "node manager (raylet) killed": _with(_kill("raylet/raylet")),
    "head (gcs_server) killed": _with(_kill("gcs_server")),
    "tracking server away": _server_away,
    "tracking server frozen for good": _server_gone,
    "disk full": _full_disk,
}
