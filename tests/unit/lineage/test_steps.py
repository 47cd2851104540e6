import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from posecore.config import Config
from posecore.errors import LineageError, StorageError
from posecore.lineage.jobs.contents import Made, made_by
from posecore.lineage.jobs.steps import (
    EVERYTHING,
    OutputFile,
    Outputs,
    Reuse,
    StepResult,
    Workflow,
    close_dead_runs,
    outputs_everywhere,
)
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.lineage.versions.tags import RegisteredVersion

CODE = ("posecore.lineage.jobs.steps",)


class Settings(Config):
    value: int = 1


def submit(
    tracking: Tracking, folder: Path, settings: Settings, calls: list[str], reuse: Reuse = EVERYTHING
) -> list[StepResult]:
    """A two-step job: the second step reads the first one's result and not the settings."""
    target = folder / "first.txt"

    def first(run: RunLog) -> Outputs:
        calls.append("first")
        target.write_text(f"content {settings.value % 10}")
        run.log_metrics({"PCKh@0.5": 1.0})
        told = f"see {target}, and {folder}-not/this"
        made = (Made("answers", "a" * 64, str(target)),)
        return Outputs({"rows": 3, "target": str(target), "told": told}, (OutputFile.of(target),), made=made)

    def second(run: RunLog) -> Outputs:
        calls.append("second")
        return Outputs({"text": Path(one.values["target"]).read_text()})

    with Workflow(tracking, "job", folder, settings, reuse=reuse, report=lambda line: None) as workflow:
        one = workflow.step("first", first, inputs={"settings": settings}, code=CODE)
        two = workflow.step("second", second, inputs={"first": one, "out": str(folder / "page")}, code=CODE)
    return [one, two]


def test_an_output_that_nobody_can_see_now_is_not_taken_for_gone(tmp_path: Path) -> None:
    """A step that took days would run again, because a store was slow to answer once."""
    target = tmp_path / "weights"
    target.write_text("content")
    file = OutputFile.of(target)
    assert file.is_alive()
    target.unlink()
    assert not file.is_alive()
    target.symlink_to(target)  # asking for it is an error, but not that of a missing file
    with pytest.raises(StorageError, match=r"weights: it cannot be told whether it is still there \(Too many levels"):
        file.is_alive()


def test_an_identical_submission_reuses_every_step(tracking: Tracking, tmp_path: Path) -> None:
    calls: list[str] = []
    ran = submit(tracking, tmp_path, Settings(), calls)
    reused = submit(tracking, tmp_path, Settings(), calls)
    assert calls == ["first", "second"]
    assert [step.reused for step in reused] == [True, True]
    assert [step.run_id for step in reused] == [step.run_id for step in ran]
    assert [step.outputs for step in reused] == [step.outputs for step in ran]


def test_a_run_that_was_copied_is_the_same_run(tracking: Tracking, tmp_path: Path) -> None:
    calls: list[str] = []
    ran = submit(tracking, tmp_path / "run", Settings(), calls)
    elsewhere = submit(tracking, tmp_path / "new", Settings(), calls)
    assert [step.outputs for step in elsewhere] == [step.outputs for step in ran]
    assert [step.reused for step in elsewhere] == [True, False], "what says that it writes here is made here"
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    shutil.rmtree(tmp_path / "run")
    copied = submit(tracking, tmp_path / "copy", Settings(), calls)
    assert [step.reused for step in copied] == [True] * 2
    assert [step.digest for step in copied] == [step.digest for step in ran]
    target = str(tmp_path / "copy" / "first.txt")
    assert copied[0].outputs.files[0].path == copied[0].values["target"] == target
    assert copied[0].values["told"] == f"see {target}, and {tmp_path / 'run-not'}/this"
    assert calls == ["first", "second", "second"]
    tags = tracking.client.get_run(ran[0].run_id).data.tags
    places = [str(tmp_path / name / "first.txt") for name in ("run", "copy")]
    assert [made.place for made in made_by(tags)] == places, "whoever withdraws pictures finds both"
    everywhere = outputs_everywhere(RunLog(tracking, ran[0].run_id))
    assert [outputs.files[0].path for outputs in everywhere] == places
    submit(tracking, tmp_path / "new", Settings(), calls)
    assert calls[3] == "first", "what does not lie where it ran is made again"


def test_only_what_depends_on_a_change_runs_again(tracking: Tracking, tmp_path: Path) -> None:
    calls: list[str] = []
    submit(tracking, tmp_path, Settings(value=1), calls)
    submit(tracking, tmp_path, Settings(value=2), calls)
    assert calls == ["first", "second", "first", "second"]
    # Value 12 makes the first step run again, but with the same result as 2: the second one has nothing new to do.
    submit(tracking, tmp_path, Settings(value=12), calls)
    assert calls[4:] == ["first"]


@pytest.mark.parametrize("damage", ["remove", "edit"])
def test_a_finished_run_with_damaged_outputs_is_not_reused(tracking: Tracking, tmp_path: Path, damage: str) -> None:
    calls: list[str] = []
    submit(tracking, tmp_path, Settings(), calls)
    target = tmp_path / "first.txt"
    if damage == "remove":
        target.unlink()
    else:
        target.write_text("CONTENT 1")  # the same size
    submit(tracking, tmp_path, Settings(), calls)
    assert calls == ["first", "second", "first"]
    assert target.read_text() == "content 1"


@pytest.mark.parametrize(
    "damage",
    ["", '{"values": {"rows"', "[]", '{"values": {}, "files": [{"path": "x"}]}'],
    ids=["empty", "cut", "list", "fields"],
)
def test_a_finished_run_whose_record_is_damaged_is_not_reused(
    tracking: Tracking, store_folder: Path, tmp_path: Path, damage: str
) -> None:
    calls: list[str] = []
    ran = submit(tracking, tmp_path, Settings(), calls)
    (record,) = store_folder.rglob(f"{ran[0].run_id}/artifacts/outputs.json")
    record.write_text(damage)
    submit(tracking, tmp_path, Settings(), calls)
    assert calls == ["first", "second", "first"]


def test_a_step_whose_version_is_gone_is_not_reused(tracking: Tracking, tmp_path: Path) -> None:
    client, name = tracking.client, tracking.experiment

    def register(run: RunLog) -> Outputs:
        with suppress(MlflowException):
            client.create_registered_model(name)
        made = client.create_model_version(name, str(tmp_path), run_id=run.run_id)
        version = RegisteredVersion(name, int(made.version))
        return Outputs({"uri": version.uri}, versions=(version,))

    def submit_one() -> StepResult:
        with Workflow(tracking, "job", tmp_path, Settings(), report=lambda line: None) as workflow:
            return workflow.step("register", register, inputs={}, code=CODE)

    first, again = submit_one(), submit_one()
    assert again.reused
    assert again.outputs == first.outputs
    client.delete_model_version(name, "1")
    second = submit_one()
    assert not second.reused
    assert second.values["uri"] == f"models:/{name}/2"
    client.delete_registered_model(name)
    client.create_registered_model(name)
    client.create_model_version(name, str(tmp_path))
    client.create_model_version(name, str(tmp_path))  # somebody else's version 2
    assert not submit_one().reused


def test_a_touched_but_unchanged_file_is_reused(tracking: Tracking, tmp_path: Path) -> None:
    calls: list[str] = []
    submit(tracking, tmp_path, Settings(), calls)
    (tmp_path / "first.txt").touch()
    submit(tracking, tmp_path, Settings(), calls)
    assert calls == ["first", "second"]


def test_reuse_can_be_switched_off(tracking: Tracking, tmp_path: Path) -> None:
    calls: list[str] = []
    submit(tracking, tmp_path, Settings(), calls)
    submit(tracking, tmp_path, Settings(), calls, Reuse(finished=False))
    assert calls == ["first", "second"] * 2


def test_a_failed_step_is_recorded_and_not_reused(tracking: Tracking, tmp_path: Path) -> None:
    def fail(run: RunLog) -> Outputs:
        raise ValueError("the disk\nis full")

    with pytest.raises(ValueError, match="is full"), Workflow(tracking, "job", tmp_path, Settings()) as workflow:
        workflow.step("fails", fail, inputs={}, code=CODE)
    runs = tracking.client.search_runs([tracking.experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}
    assert {run.data.tags["posecore.error"] for run in runs} == {"ValueError: the disk is full"}

    with Workflow(tracking, "job", tmp_path, Settings()) as workflow:
        assert not workflow.step("fails", lambda run: Outputs(), inputs={}, code=CODE).reused


def test_steps_are_nested_and_the_configuration_is_recorded(tracking: Tracking, tmp_path: Path) -> None:
    submit(tracking, tmp_path, Settings(value=7), [])
    parents = tracking.client.search_runs([tracking.experiment_id], "tags.`posecore.kind` = 'workflow'")
    children = tracking.client.search_runs(
        [tracking.experiment_id], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"
    )
    assert sorted(run.info.run_name for run in children) == ["first", "second"]
    assert RunLog(tracking, parents[0].info.run_id).read_file("config.yaml") == b"value: 7\n"
    assert [run.data.metrics for run in children if run.info.run_name == "first"] == [{"PCKh_0.5": 1.0}]


DRIVER = """
import sys, time
from pathlib import Path
from posecore.config import Config
from posecore.lineage.jobs.steps import Outputs, Workflow
from posecore.lineage.store.tracking import Tracking

def slow(run):
    Path(sys.argv[3], "started").touch()
    while not Path(sys.argv[3], "enough").exists():
        time.sleep(0.02)
    return Outputs({"by": "other"})

with Workflow(Tracking(sys.argv[1], "x", sys.argv[2]), "job", sys.argv[3], Config()) as workflow:
    workflow.step("slow", slow, inputs={}, code=["posecore.lineage.jobs.steps"])
"""


def start_driver(tracking: Tracking, folder: Path) -> "subprocess.Popen[bytes]":
    """Another driver, in the midst of its step until there is a file ``enough``."""
    arguments = [tracking.uri, tracking.experiment_id, str(folder)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])
    deadline = time.monotonic() + 60
    while not (folder / "started").exists():
        assert driver.poll() is None, "the driver ended early"
        assert time.monotonic() < deadline, "the driver did not start"
        time.sleep(0.05)
    return driver


def test_runs_of_a_killed_driver_are_closed_and_the_step_runs_again(tracking: Tracking, tmp_path: Path) -> None:
    driver = start_driver(tracking, tmp_path)
    assert close_dead_runs(tracking) == 0, "a living driver's runs were closed"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    with Workflow(tracking, "job", tmp_path, Config()) as workflow:
        result = workflow.step("slow", lambda run: Outputs({"by": "us"}), inputs={}, code=CODE)
    assert result.values == {"by": "us"}
    statuses = sorted(run.info.status for run in tracking.client.search_runs([tracking.experiment_id]))
    assert statuses == ["FINISHED", "FINISHED", "KILLED", "KILLED"]


def test_a_second_driver_waits_and_then_reuses(tracking: Tracking, tmp_path: Path) -> None:
    driver = start_driver(tracking, tmp_path)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        (tmp_path / "enough").touch()

    with Workflow(tracking, "job", tmp_path, Config(), report=report) as workflow:
        result = workflow.step("slow", lambda run: Outputs({"by": "us"}), inputs={}, code=CODE)
    assert driver.wait() == 0
    assert result.reused
    assert result.values == {"by": "other"}
    assert "waiting" in lines[0]
    assert "reused" in lines[1]


def test_an_input_without_a_fingerprint_is_refused(tracking: Tracking, tmp_path: Path) -> None:
    with (
        pytest.raises(LineageError, match="type set has no fingerprint"),
        Workflow(tracking, "job", tmp_path, Settings()) as workflow,
    ):
        workflow.step("x", lambda run: Outputs(), inputs={"a": {1}}, code=CODE)


def test_a_run_log_can_be_sent_to_a_worker(tracking: Tracking, tmp_path: Path) -> None:
    with Workflow(tracking, "job", tmp_path, Settings()) as workflow:
        worker = multiprocessing.get_context("spawn").Process(target=workflow.run.log_metrics, args=({"loss": 0.5}, 3))
        worker.start()
        worker.join(60)
        run_id = workflow.run.run_id
    history = tracking.client.get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(3, 0.5)]
