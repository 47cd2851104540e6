"""Work on processes that keep what they have built: each answer once, errors as raised, nothing left behind."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from posecore.cluster.actors import kept_actors, work_on_actors
from posecore.errors import EvaluationError
from posecore.workflows.machines import ActorSettings

pytestmark = pytest.mark.ray


class Squares:
    """Writes down who built it; stops at what it is told to."""

    def __init__(self, folder: Path, fails_at: int = -1, dies_at: int = -1) -> None:
        (folder / f"{os.getpid()}-{time.time_ns()}").touch()
        self._folder, self._fails_at, self._dies_at = folder, fails_at, dies_at

    def __call__(self, number: int) -> int:
        if number == self._fails_at:
            raise EvaluationError(f"{number} cannot be judged.")
        if number == self._dies_at and not (self._folder / "died").exists():
            (self._folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


def until_free(cpus: float) -> None:
    deadline = time.monotonic() + 60
    while free_cpus() < cpus:
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.1)


def test_every_answer_comes_once_and_processes_build_once(local_ray, tmp_path):
    settings = ActorSettings(actors=2)
    build = partial(Squares, tmp_path)
    with kept_actors():
        first = dict(work_on_actors(build, list(range(9)), settings))
        second = dict(work_on_actors(build, list(range(5)), settings))
        assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert first == {number: number**2 for number in range(9)}
    assert second == {number: number**2 for number in range(5)}
    assert dict(work_on_actors(build, [], settings)) == {}
    until_free(2)


def test_a_deliberate_error_arrives_and_frees_the_processes(local_ray, tmp_path):
    with pytest.raises(EvaluationError, match=r"^3 cannot be judged\."):
        dict(work_on_actors(partial(Squares, tmp_path, fails_at=3), list(range(20)), ActorSettings()))
    until_free(2)


def test_a_killed_process_loses_nothing(local_ray, tmp_path):
    answers = list(work_on_actors(partial(Squares, tmp_path, dies_at=4), list(range(8)), ActorSettings(actors=1)))
    assert sorted(answers) == [(number, number**2) for number in range(8)]
    assert (tmp_path / "died").exists()
