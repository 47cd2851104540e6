"""Cases of ``benchmarks/faults_jobs.py`` in which a running job is stopped, or loses a process, a disk or a server."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults_jobs import Case, Job, Process, Submission, processes_of, until_checkpoints
from tests.support.tracking_server import TrackingServer

DISK_BYTES = 1200 << 20  # a job starts on no less than 1 GiB
AGAIN_S = (0.2, 1, 2, 4, 6, 9, 12, 15, 19, 23)
"""When each of several submissions is stopped: in its imports, as Ray starts, while it ingests, trains, evaluates."""


def losses(outage_s: float) -> dict[str, Case]:
    """The cases by name.

    Args:
        outage_s: how long the tracking server is away.
    """
    return {
        "Ctrl-C in a terminal": _training(_signal(signal.SIGINT, group=True), says=r"stopped by SIGINT: "),
        "SIGTERM to the driver": _training(_signal(signal.SIGTERM), says=r"stopped by SIGTERM: "),
        "Ctrl-C, again and again": _again(signal.SIGINT),
        "driver killed": _training(_signal(signal.SIGKILL)),
        "driver killed, again and again": _again(signal.SIGKILL),
        "training worker killed": _training(_kill("ray::RayTrainWorker"), says="lost: training worker 0"),
        "training controller killed": _training(_kill("ray::TrainController")),
        "node manager (raylet) killed": _training(_kill("raylet/raylet"), says=r"error: .*raylet.* is gone"),
        "head (gcs_server) killed": _training(_kill("gcs_server"), says=r"error: the head .* is gone"),
        "everything frozen for a minute": _training(_frozen),
        "two drivers at once": _training(_another),
        "tracking server away": lambda folder, config: _server_away(folder, config, outage_s),
        "tracking server frozen for good": _server_frozen,
        "disk full": _full_disk,
        "scratch disk full": _full_scratch,
    }


def _training(fault: Callable[[Job, Process], None], says: str = "") -> Case:
    """Something is done to a job that has a checkpoint."""

    def during(job: Job, process: Process) -> None:
        until_checkpoints(1, job, process)
        fault(job, process)

    @contextmanager
    def case(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
        yield Job(config, folder / "run"), [Submission(during=during, says=says)]

    return case


def _again(number: signal.Signals) -> Case:
    def stop_after(seconds: float) -> Submission:
        def during(_: Job, process: Process) -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

        return Submission(during=during)

    @contextmanager
    def case(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
        yield Job(config, folder / "run"), [stop_after(seconds) for seconds in AGAIN_S]

    return case


def _signal(number: signal.Signals, group: bool = False) -> Callable[[Job, Process], None]:
    def fault(_: Job, process: Process) -> None:
        (os.killpg if group else os.kill)(process.pid, number)

    return fault


def _kill(program: str) -> Callable[[Job, Process], None]:
    def fault(_: Job, process: Process) -> None:
        victims = processes_of(process, program)
        if not victims:
            raise RuntimeError(f"there is no {program} to kill")
        for victim in victims:
            os.kill(victim, signal.SIGKILL)

    return fault


def _frozen(_: Job, process: Process) -> None:
    """As when a laptop is closed."""
    for victim in processes_of(process):
        os.kill(victim, signal.SIGSTOP)
    time.sleep(60)
    for victim in processes_of(process):
        os.kill(victim, signal.SIGCONT)


def _another(job: Job, _: Process) -> None:
    """The same job is submitted while it runs."""
    other = Job(job.config, job.run_folder, logs=[Path(), Path()])
    if other.start().wait() != 0:
        raise RuntimeError(f"the second driver failed: {other.output()[-2000:]}")


@contextmanager
def _server_away(folder: Path, config: Path, outage_s: float) -> Iterator[tuple[Job, Sequence[Submission]]]:
    """The tracking server is killed while the job trains, and comes back while it trains or after."""
    (folder / "server").mkdir()
    with TrackingServer(folder / "server") as server:

        def during(job: Job, process: Process) -> None:
            until_checkpoints(1, job, process)
            server.kill()
            time.sleep(outage_s)
            server.start()

        says = "tracking server .* does not answer"
        yield Job(config, folder / "run", server.uri, patience_s=600), [Submission(during=during, says=says)]


@contextmanager
def _server_frozen(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
    """The tracking server takes connections and answers none, from the training on until the job has ended."""
    (folder / "server").mkdir()
    with TrackingServer(folder / "server") as server:

        def during(job: Job, process: Process) -> None:
            until_checkpoints(1, job, process)
            server.freeze()

        says = "error: the tracking store .* did not answer for 5 s"
        submissions = [Submission(during=during, says=says), Submission(before=lambda _: server.thaw())]
        yield Job(config, folder / "run", server.uri), submissions


@contextmanager
def _full_disk(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
    """The run folder is a small file system, filled to the last byte while the job trains. Needs root."""
    with _small_disk(folder / "run", DISK_BYTES) as disk:

        def during(job: Job, process: Process) -> None:
            until_checkpoints(1, job, process)
            _fill(disk / "filler")

        yield (
            Job(config, disk),
            [
                Submission(during=during, says="error: .*[Nn]o space"),
                Submission(before=lambda _: (disk / "filler").unlink()),
            ],
        )


@contextmanager
def _full_scratch(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
    """The system's folder for temporary files is full while the job trains. Needs root."""
    with _small_disk(folder / "scratch", 64 << 20) as disk:

        def during(job: Job, process: Process) -> None:
            until_checkpoints(1, job, process)
            _fill(disk / "filler")

        # Ray's own files stay where they are: it does not start on a small disk.
        job = Job(config, folder / "run", environment={"TMPDIR": str(disk), "RAY_TMPDIR": "/tmp"})
        yield (
            job,
            [
                Submission(during=during, says="error: .*[Nn]o space"),
                Submission(before=lambda _: (disk / "filler").unlink()),
            ],
        )


@contextmanager
def _small_disk(mount: Path, num_bytes: int) -> Iterator[Path]:
    image = mount.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(num_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        image.unlink()


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
