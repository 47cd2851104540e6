"""Curves through an outage of a real MLflow server, over a real if small training."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from posecore.errors import LineageError
from posecore.lineage.jobs.steps import Outputs, Workflow
from posecore.lineage.store.curve import SPOOL, CurveLog, send_if_reachable, send_left_behind
from posecore.lineage.store.tracking import RunLog, Tracking, TrackingConfig, connect
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from tests.support.ports import free_port
from tests.support.tiny_training import Stopped, stop_at, tiny_training
from tests.support.tracking_server import TrackingServer
from tests.unit.lineage.test_steps import CODE, Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def curve(tracking: Tracking, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    history = tracking.client.get_metric_history(run_id, key)
    return sorted((metric.step, metric.value) for metric in history)


def left(folder: Path) -> list[str]:
    return sorted(path.suffix for path in (folder / SPOOL).iterdir())


def test_an_outage_stops_no_training_and_loses_no_point(
    server: TrackingServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracking = connect(TrackingConfig(uri=server.uri, experiment="outage"), tmp_path)
    run = tracking.start_run("train", {})

    def outage(due: int) -> None:
        if due == 3:
            server.freeze()
        elif due == 6:
            server.thaw()
            server.kill()
        elif due == 10:
            server.start()

    with CurveLog(run, str(tmp_path)).writing(flush_s=60) as log:
        seen: list[tuple[int, float]] = []

        def watch(metrics: dict[str, float], step: int) -> None:
            seen.append((step, metrics["loss"]))
            log(metrics, step)

        tiny_training(LocalContext(tmp_path, watch), TorchEngineConfig(), steps=14, before_step=outage)
    assert [step for step, _ in seen] == [2, 4, 6, 8, 10, 12, 14]
    assert curve(tracking, run.run_id) == seen
    assert left(tmp_path) == [], "a journal that was sent whole is removed"
    assert "Traceback" not in capfd.readouterr().err


LATE = """
import sys
from posecore.lineage.store.curve import CurveLog
from posecore.lineage.store.tracking import RunLog, Tracking
run = RunLog(Tracking(sys.argv[1], "x", "0", 0.0), sys.argv[2])
with CurveLog(run, sys.argv[3]).writing(flush_s=0.5) as log:
    for step in range(2500):  # more than one call of the store takes
        log({"loss": 1 / (1 + step)}, step)
"""


def test_what_an_outage_kept_is_sent_by_the_next_submission(server: TrackingServer, tmp_path: Path) -> None:
    tracking = connect(TrackingConfig(uri=server.uri, experiment="late"), tmp_path)
    run = tracking.start_run("train", {})
    server.freeze()
    try:
        command = [sys.executable, "-c", LATE, tracking.uri, run.run_id, str(tmp_path)]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        server.thaw()
    assert "the next submission sends them" in ended.stderr
    assert ".jsonl" in left(tmp_path)
    with Workflow(tracking, "job", tmp_path, Settings(), report=lambda line: None):
        pass
    assert curve(tracking, run.run_id) == [(step, 1 / (1 + step)) for step in range(2500)]
    assert left(tmp_path) == []


KILLED = """
import os, signal, sys
from posecore.lineage.store.curve import CurveLog
from posecore.lineage.store.tracking import RunLog, Tracking
run = RunLog(Tracking(sys.argv[1], "x", "0", 0.0), sys.argv[2])
with CurveLog(run, sys.argv[3]).writing() as log:
    for step in range(10):
        log({"loss": float(step)}, step)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_point_and_a_made_again_step_doubles_none(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start_run("train", {})
    ended = subprocess.run([sys.executable, "-c", KILLED, tracking.uri, run.run_id, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with CurveLog(run, str(tmp_path)).writing() as log:  # goes on from a checkpoint of step 7
        for step in range(7, 13):
            log({"loss": 100.0 + step, "late": 1.0}, step)
    expected = [(step, float(step)) for step in range(10)] + [(step, 100.0 + step) for step in range(10, 13)]
    assert curve(tracking, run.run_id) == expected
    assert [step for step, _ in curve(tracking, run.run_id, "late")] == list(range(7, 13)), "new metrics are kept whole"
    assert left(tmp_path) == []


def left_behind(run: RunLog, folder: Path) -> Path:
    """A journal of ten points whose writer is gone: the copy of a living one's."""
    (folder / SPOOL).mkdir()
    with CurveLog(run, str(folder / "other")).writing() as log:
        for step in range(10):
            log({"loss": float(step)}, step)
        return Path(shutil.copy(log.path, folder / SPOOL))


def test_a_batch_sent_twice_is_on_the_curve_once(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start_run("train", {})
    journal = left_behind(run, tmp_path)
    content = journal.read_bytes()
    send_if_reachable(tracking, tmp_path)
    journal.write_bytes(content + b'{"step": 10, "time_')  # as if the kill had come before the note, and cut a line
    journal.with_suffix(".sent").write_text(json.dumps({"offset": 0, "reached": {}}))
    send_if_reachable(tracking, tmp_path)
    assert curve(tracking, run.run_id) == [(step, float(step)) for step in range(10)]
    assert left(tmp_path) == []


def test_a_line_that_is_not_as_it_was_written_costs_its_points_alone(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start_run("train", {})
    path = left_behind(run, tmp_path)
    before = path.read_bytes()
    rubbish = b'\0\0\0\n[1, 2]\n{"step": 3}\n{"step": "x", "time_ms": 1, "metrics": {}}\n'
    rubbish += b'{"step": 4, "time_ms": 1, "metrics": {"loss": "?"}}\n{"step": 5, "time_ms": 1, "metrics": 3}\n'
    head, _, points = before.partition(b"\n")
    path.write_bytes(head + b"\n" + rubbish + points)
    assert send_left_behind(tracking, tmp_path / SPOOL) == 1
    assert len(curve(tracking, run.run_id)) == points.count(b"\n")


def test_points_of_a_run_that_is_gone_are_kept_aside(
    tracking: Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunLog(tracking, "0" * 32)
    with CurveLog(run, str(tmp_path)).writing() as log:
        log({"loss": 1.0}, 1)
    assert left(tmp_path) == [".refused"]
    assert "the tracking store refused it" in capfd.readouterr().err
    send_if_reachable(tracking, tmp_path)
    assert left(tmp_path) == [".refused"]


def test_journals_of_another_store_are_left_alone(tracking: Tracking, tmp_path: Path) -> None:
    left_behind(tracking.start_run("train", {}), tmp_path)
    send_if_reachable(Tracking("sqlite:////elsewhere/mlflow.db", "x", "0"), tmp_path)
    assert ".jsonl" in left(tmp_path)


def test_an_interrupted_training_goes_on_in_its_run(tracking: Tracking, tmp_path: Path) -> None:
    def submit(stop: int | None) -> str:
        def execute(run: RunLog) -> Outputs:
            with CurveLog(run, str(tmp_path)).writing() as log:
                tiny_training(LocalContext(tmp_path, log), TorchEngineConfig(), before_step=stop_at(stop))
            return Outputs({"run": run.run_id})

        with Workflow(tracking, "job", tmp_path, Settings(), report=lambda line: None) as workflow:
            step = workflow.step("train", execute, inputs={}, code=CODE, continues=True)
        assert (
            step.reused or tracking.client.get_run(step.run_id).data.tags["mlflow.parentRunId"] == workflow.run.run_id
        )
        return step.run_id

    with pytest.raises(Stopped):
        submit(stop=5)  # the checkpoint is of step 3, the curve reaches 4
    run_id = submit(stop=None)
    steps = tracking.client.search_runs([tracking.experiment_id], "tags.`posecore.kind` = 'step'")
    assert [run.info.run_id for run in steps] == [run_id], "one run for both submissions"
    assert steps[0].info.status == "FINISHED"
    assert [step for step, _ in curve(tracking, run_id)] == [2, 4, 6, 8]
    assert submit(stop=0) == run_id, "finished, it is reused"


def test_a_dead_server_is_waited_for_and_then_one_sentence() -> None:
    tracking = Tracking(f"http://127.0.0.1:{free_port()}", "x", "0", patience_s=0.5)
    with pytest.raises(LineageError, match=r"did not answer for 0.5 s: .* Connection refused.*submit the same job"):
        RunLog(tracking, "0" * 32).log_metrics({"images": 3})
