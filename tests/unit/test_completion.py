"""What a shell completes once it has read the script of ``posecore completion``."""

import argparse
import subprocess
from pathlib import Path

import pytest

from posecore.cli import build_parser, main
from posecore.cli.jobs import JOBS
from tests.support.shell import completed_by_bash


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return build_parser()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "posecore.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as out:
        patch.setattr("sys.stdout", out)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "predict" in script
    assert "allow-leakage" in script


def test_tab_completes_commands_options_words_and_files(script: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "my run.yaml").touch()
    meant = {
        "posecore mod": "posecore models",
        "posecore view --p": "posecore view --port",
        "posecore train --allow": "posecore train --allow-leakage",
        "posecore adapt --bud": "posecore adapt --budget",
        "posecore evaluate --precision bf": "posecore evaluate --precision bfloat16",
        "posecore score --dr": "posecore score --dry-run",
        "posecore predict fra": "posecore predict frames/",
        "posecore distill --config my": "posecore distill --config my run.yaml",
    }
    assert completed_by_bash(script, list(meant), tmp_path) == meant


def test_every_command_offers_the_options_that_it_takes(script: Path, parser: argparse.ArgumentParser) -> None:
    (choosing,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    commands = {name: each for name, each in choosing.choices.items() if not _below(each)}
    assert commands.keys() >= {*JOBS, "score", "runs", "predict"}
    asked = [
        f"COMP_WORDS=(posecore {name} -); COMP_CWORD=2; _shtab_posecore; echo ${{COMPREPLY[@]}}" for name in commands
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join([f"source {script}", *asked])], capture_output=True, text=True, check=True
    )
    offered = dict(zip(commands, (set(line.split()) for line in done.stdout.splitlines()), strict=True))
    assert offered == {name: set(each._option_string_actions) for name, each in commands.items()}
    assert all("--config" in offered[job] for job in ("train", "adapt", "distill", "pretrain"))


def _below(parser: argparse.ArgumentParser) -> bool:
    return any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
