"""Whole jobs that something is done to, and what became of them; see ``benchmarks/faults.py``.

Every case is the main job, small, on real Ray with DeepSpeed, in a process group of its own, submitted as often as the
case says. Each submission must end within a limit, well or with one sentence. Then the model must be the one of a job
left alone, byte for byte, with every point of its curve once.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from posecore.lineage.store.tracking import TrackingConfig, connect
from posecore.synth.writers import write_dataset

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS, LOG_EVERY, CHECKPOINT_EVERY = 160, 10, 40
LIMIT_S = 420.0
Process: TypeAlias = "subprocess.Popen[str]"


@dataclass
class Job:
    """One job and the run folder it is submitted to, again and again.

    Attributes:
        config: run file.
        run_folder: where it writes.
        tracking: URI of the store; None for the run folder's own file.
        patience_s: how long it waits for the store between steps.
        environment: what it finds beside this process's own.
    """

    config: Path
    run_folder: Path
    tracking: str | None = None
    patience_s: float = 5.0
    environment: dict[str, str] = field(default_factory=dict)
    logs: list[Path] = field(default_factory=list)

    def start(self) -> Process:
        """Submits it, in a session of its own."""
        command = [sys.executable, "pipelines/multidataset_train.py", "--config", str(self.config)]
        for setting in (f"run_folder={self.run_folder}", f"tracking.patience_s={self.patience_s}"):
            command += ["--set", setting]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **self.environment}
        if self.tracking is not None:
            environment["MLFLOW_TRACKING_URI"] = self.tracking
        self.logs.append(self.run_folder.parent / f"{self.run_folder.name}.{len(self.logs)}.log")
        with self.logs[-1].open("w") as output:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def output(self) -> str:
        """Of the last submission."""
        return self.logs[-1].read_text(errors="replace")

    def checkpoints(self) -> list[Path]:
        """Folders of the finished ones, oldest first."""
        return sorted(path.parent for path in self.run_folder.glob("training/*/*/checkpoints/step_*/manifest.json"))

    def model(self) -> Path:
        """The file of the trained weights."""
        (path,) = self.run_folder.glob("training/*/*/model/model.safetensors")
        return path

    def digest(self) -> str:
        """Hash of the trained weights."""
        return hashlib.sha256(self.model().read_bytes()).hexdigest()

    def curve(self) -> list[int]:
        """Steps of the loss's points, over all runs of the training step."""
        tracking = connect(TrackingConfig(uri=self.tracking), self.run_folder)
        runs = tracking.client.search_runs([tracking.experiment_id], "tags.`posecore.step` = 'train'")
        points = [p.step for run in runs for p in tracking.client.get_metric_history(run.info.run_id, "loss")]
        return sorted(points)


@dataclass(frozen=True)
class Submission:
    """One submission of a case.

    Attributes:
        before: what is done before it.
        during: what is done while it runs.
        says: what its output must hold.
    """

    before: Callable[[Job], None] = lambda _: None
    during: Callable[[Job, Process], None] = lambda _, __: None
    says: str = ""


Case: TypeAlias = Callable[[Path, Path], AbstractContextManager[tuple[Job, Sequence[Submission]]]]
"""Given a folder of its own and the run file: the job, and how it is submitted before it is left alone."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        case: its name.
        verdict: ``harmless``, ``refused well``, ``raw traceback``, ``hang`` or ``silently wrong``.
        seconds: the longest time from what was done during a submission to its end.
        said: the last line, of the submission that ended worst.
    """

    case: str
    verdict: str
    seconds: float
    said: str


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
            "steps": STEPS, "global_batch": 8, "log_every": LOG_EVERY, "checkpoint_every": CHECKPOINT_EVERY,
            "progress": False, "engine": {"kind": "deepspeed", "zero_stage": 1, "precision": "fp32"},
        },
        "cluster": {"poll_interval_s": 0.2, "checkpoint_on_stop": True},
        "worst_cases": 2,
    }  # fmt: skip
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_jobs(folder: Path, cases: dict[str, Case], report: Callable[[Outcome], None]) -> list[Outcome]:
    """Runs the cases, after a job left alone; a folder that has been used goes on with that one."""
    right_file, config = folder / "right.json", folder / "job.yaml"
    if not right_file.exists():
        folder.mkdir(parents=True)
        alone = Job(write_job(folder), folder / "alone")
        if alone.start().wait(LIMIT_S) != 0:
            raise RuntimeError(f"the job left alone failed: {alone.output()[-2000:]}")
        if wrong := _complaint(alone):
            raise RuntimeError(f"the job left alone said {wrong}")
        right_file.write_text(json.dumps([alone.digest(), alone.curve()]))
    digest, curve = json.loads(right_file.read_text())
    assert curve == list(range(LOG_EVERY, STEPS + 1, LOG_EVERY)), curve
    outcomes = []
    for name, case in cases.items():
        own = folder / re.sub(r"\W+", "_", name)
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        with case(own, config) as (job, submissions):
            outcomes.append(_outcome(name, job, submissions, digest, curve))
        report(outcomes[-1])
    return outcomes


def _outcome(name: str, job: Job, submissions: Sequence[Submission], digest: str, curve: list[int]) -> Outcome:
    longest, worst, said, status = 0.0, "harmless", "", 0
    for submission in submissions:
        status, seconds, wrong = _submit(job, submission)
        longest = max(longest, seconds)
        if wrong is not None:
            return Outcome(name, *wrong)
        if status != 0:
            worst = "refused well"
        said = said or _told(job, submission.says)
    if status != 0:
        status, _, wrong = _submit(job, Submission())
        if wrong is not None:
            return Outcome(name, *wrong)
    if status != 0:
        return Outcome(name, "silently wrong", longest, f"submitted again: {_told(job)}")
    if (job.digest(), job.curve()) != (digest, curve):
        return Outcome(name, "silently wrong", longest, f"curve {job.curve()}, weights {job.digest()[:8]}")
    return Outcome(name, worst, longest, said)


def _submit(job: Job, submission: Submission) -> tuple[int, float, tuple[str, float, str] | None]:
    """Exit status, seconds from what was done to the end, and what was wrong of it: verdict, seconds, and a line."""
    submission.before(job)
    process = job.start()
    try:
        submission.during(job, process)
        began = time.monotonic()
        status = process.wait(LIMIT_S)
        seconds = time.monotonic() - began
    except subprocess.TimeoutExpired:
        return 1, LIMIT_S, ("hang", LIMIT_S, _told(job))
    finally:
        end_group(process)
    if complaint := _complaint(job):
        return status, seconds, ("raw traceback", seconds, complaint)
    if submission.says and re.search(submission.says, job.output()) is None:
        return status, seconds, ("silently wrong", seconds, f"not a word of it; at last: {_told(job)}")
    if status > 0 and re.search(r"^(error|stopped by)", job.output(), re.MULTILINE) is None:
        return status, seconds, ("raw traceback", seconds, f"no sentence: {_told(job)}")
    return status, seconds, None


def _complaint(job: Job) -> str | None:
    """A line that nobody should have to read."""
    found = re.search(r"^.*(Traceback \(most recent call last\)|\] E \d+|Exception ignored in).*$", job.output(), re.M)
    return None if found is None else found.group()[:160]


def end_group(process: Process) -> None:
    """Whatever is left of the job's processes: a worker that lived on would write one more checkpoint."""
    while left := processes_of(process):  # more than its process group: Ray gives workers groups of their own
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    process.wait()


def _told(job: Job, says: str = "") -> str:
    """The line that matters of a submission's output."""
    lines = [line for line in re.split(r"[\r\n]+", job.output()) if line.strip()]
    matching = [line for line in lines if says and re.search(says, line)]
    told = [line for line in lines if line.startswith(("error:", "stopped"))]
    return re.sub(r"\x1b\[\d+m", "", (matching or told or lines or [""])[-1])[:200]


def until_checkpoints(count: int, job: Job, process: Process) -> None:
    """Returns once the job has so many checkpoints."""
    until = time.monotonic() + LIMIT_S
    while len(job.checkpoints()) < count:
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the job did not come to train: {job.output()[-2000:]}")
        time.sleep(0.05)


def processes_of(process: Process, program: str = "") -> list[int]:
    """Processes of the job's session whose program, or whose title, holds a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
            state, *_, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == process.pid and state != "Z" and program in title:
                found.append(int(folder.name))
    return found
