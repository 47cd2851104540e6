"""Jobs as commands: the scripts' own mains, under the command's name."""

import ast
from pathlib import Path

import pytest

import pipelines
from posecore.cli import main
from posecore.cli.jobs import JOBS

SCRIPTS = Path(pipelines.__file__).parent


def test_every_script_is_a_command() -> None:
    scripts = {path.stem for path in SCRIPTS.glob("*.py")} - {"__init__", "demo", "first_picture"}
    assert {module for module, _ in JOBS.values()} == scripts


def test_a_command_is_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["promote", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: posecore promote ")
    described = ast.get_docstring(ast.parse((SCRIPTS / "promote.py").read_text()))
    assert described is not None
    assert described.splitlines()[0] in said


def test_what_is_wrong_is_said_as_the_script_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "none.yaml"]) == 1
    assert capsys.readouterr().err == "error: none.yaml: no such file; give the path of a YAML file that exists.\n"
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--confg", "none.yaml"])
    assert "posecore train: error: unrecognized arguments: --confg none.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["datasets", "list", "--nothing"])
    assert "unrecognized arguments: --nothing" in capsys.readouterr().err
