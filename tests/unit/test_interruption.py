"""Ctrl-C is answered with one line, however early it comes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import posecore.cli
from posecore.interruption import Interrupted, signals_raise

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "pipelines").glob("*.py")
    if '\nif __name__ == "__main__":\n    sys.exit(' in path.read_text()
)


@pytest.mark.parametrize("command", [*SCRIPTS, "-m posecore"])
def test_a_signal_while_a_program_is_imported_is_one_line(command: str) -> None:
    with subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        while not _catches(program.pid, signal.SIGTERM):  # Python itself does not: it is the script's first statement
            assert program.poll() is None, "it ended by itself"
            time.sleep(0.005)
        program.send_signal(signal.SIGINT)
        output, _ = program.communicate(timeout=60)
    assert output == "stopped by SIGINT.\n"
    assert program.returncode == 128 + signal.SIGINT


def _catches(process: int, number: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_signal_ends_a_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("posecore.cli.plan._plan", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert posecore.cli.main(["plan", "--gpu", "h100"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped by SIGTERM.\n"


def test_an_error_may_stand_for_a_signal_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    told = iter([OSError("the cable is out"), None])
    with signals_raise(lambda: next(told)):
        with pytest.raises(OSError, match="the cable is out"):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped by SIGINT"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_lost_terminal_is_a_signal_as_well_unless_nohup_was_asked_for() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with signals_raise(), pytest.raises(Interrupted, match="stopped by SIGHUP"):
            signal.raise_signal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals_raise():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
