"""Cases of ``benchmarks/faults_jobs.py`` in which what a job left is damaged before it is submitted again."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults_jobs import Case, Job, Submission, end_group, until_checkpoints

State = Callable[[Job], None]


def states() -> dict[str, Case]:
    """The cases by name."""
    broken: dict[str, Case] = {
        "newest checkpoint cut": _broken(lambda job: _cut(job.checkpoints()[-1] / PIECES), GOES_ON),
        "newest checkpoint, one bit": _broken(lambda job: _flip(job.checkpoints()[-1] / PIECES), GOES_ON),
        "newest checkpoint deleted": _broken(lambda job: shutil.rmtree(job.checkpoints()[-1])),
        "tar of a shard, one bit": _broken(lambda job: _flip(_one(job, "shards/coco/coco/train/*-00000*.tar"))),
        "index of a split deleted": _broken(lambda job: _one(job, "shards/coco/coco/train/index.parquet").unlink()),
        "result of a step emptied": _broken(_emptied_outputs),
        "spool with rubbish in it": _broken(_rubbish_in_the_spool),
        "locks deleted": _broken(lambda job: shutil.rmtree(job.run_folder / "locks")),
        "record cut": _mended(lambda job: _cut(job.run_folder / "mlflow.db"), "mlflow.db"),
        "data away": _data_away,
        "run folder read only": _read_only,
    }
    finished: dict[str, Case] = {
        "trained weights, one bit": _broken(lambda job: _flip(job.model()), finished=True),
        "trained model deleted": _broken(lambda job: shutil.rmtree(job.model().parent), finished=True),
        "registered version deleted": _broken(_deleted_version, finished=True),
        "report deleted": _broken(lambda job: _one(job, "**/report.html").unlink(), finished=True),
    }
    return broken | finished


PIECES = "rank_00000-000.safetensors"
GOES_ON = "training goes on from the checkpoint of step 40: .* is not what was written"


def _left(config: Path, *, finished: bool) -> Job:
    """A job that came to its end, or was killed once it had two checkpoints; each time the same one, at one place."""
    job = Job(config, config.parent / ("alone" if finished else "killed"))
    template = config.parent / f"{job.run_folder.name}.template"
    if not template.exists():
        if not finished:
            _kill_after_two_checkpoints(job)
        shutil.copytree(job.run_folder, template)
    shutil.rmtree(job.run_folder)
    shutil.copytree(template, job.run_folder)
    return job


def _kill_after_two_checkpoints(job: Job) -> None:
    process = job.start()
    try:
        until_checkpoints(2, job, process)
    finally:
        end_group(process)


def _broken(damage: State, says: str = "", *, finished: bool = False) -> Case:
    @contextmanager
    def case(_: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
        yield _left(config, finished=finished), [Submission(before=damage, says=says)]

    return case


def _mended(damage: State, file: str) -> Case:
    """What was damaged is put back from a copy after the job has refused it."""

    @contextmanager
    def case(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
        job = _left(config, finished=False)
        shutil.copy2(job.run_folder / file, folder / "copy")
        mend = Submission(before=lambda _: shutil.copy2(folder / "copy", job.run_folder / file) and None)
        yield job, [Submission(before=damage, says="error: "), mend]

    return case


@contextmanager
def _data_away(_: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
    data = config.parent / "data"
    away = data.with_name("data_away")
    submissions = [
        Submission(before=lambda _: data.rename(away) and None, says="error: "),
        Submission(before=lambda _: away.rename(data) and None),
    ]
    try:
        yield _left(config, finished=False), submissions
    finally:
        if away.exists():
            away.rename(data)


@contextmanager
def _read_only(folder: Path, config: Path) -> Iterator[tuple[Job, Sequence[Submission]]]:
    """Needs root."""
    disk = folder / "run"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200M", "tmpfs", str(disk)], check=True)

    def remount(how: str) -> State:
        return lambda _: subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True) and None

    try:
        submissions = [Submission(before=remount("ro"), says="error: "), Submission(before=remount("rw"))]
        job = Job(config, disk)
        _kill_after_two_checkpoints(job)
        yield job, submissions
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _one(job: Job, pattern: str) -> Path:
    return sorted(job.run_folder.glob(pattern))[0]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _emptied_outputs(job: Job) -> None:
    for path in job.run_folder.glob("artifacts/**/outputs.json"):
        path.write_bytes(b"")


def _rubbish_in_the_spool(job: Job) -> None:
    spool = job.run_folder / "spool"
    (spool / "00000000000000000001-0123.jsonl").write_bytes(b"\0" * 4096)
    (spool / "00000000000000000002-0123.jsonl").write_text('[1, 2]\n{"metrics": 3}\n')
    for path in spool.glob("*.sent"):
        path.write_text("{")


def _deleted_version(job: Job) -> None:
    with sqlite3.connect(job.run_folder / "mlflow.db") as record:
        record.execute("PRAGMA foreign_keys = OFF")
        for table in ("model_version_tags", "model_versions"):
            record.execute(f"DELETE FROM {table}")
