"""``docs/commands.md`` names every command there is; run this file as a program to write it anew."""

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from posecore.cli import build_parser, main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
HEAD = """# Commands

Every command explains its options with `--help`, and says on one line what is wrong with what it was given: where, why,
and the nearest right thing: a name that is near the mistyped one, or another place where a disk is full, read-only or
somebody else's. The jobs (`ingest`, `train`, `adapt`, `distill`, `pretrain`, `evaluate`, `promote`) are the
scripts of `pipelines/`, which clusters submit. `--dry-run` has each say what it would do, and refuse what can be known
to fail, and touch nothing: jobs with a run file look whether the data are there and print that file, `ingest` counts,
`evaluate` looks whether model and splits go together, `promote` whether every gate holds.

| exit status | meaning |
|---|---|
| 0 | done; of questions: the answer is complete |
| 1 | an error in one sentence (a file, data or a model not there); a failed check; an answer that may not be complete |
| 2 | wrong usage (an option missing, unknown, malformed, contradictory); a question about nothing that is recorded |
| 130, 143 | ended by Ctrl-C or SIGTERM, nothing half-written left under its final name |

Completion: `posecore completion bash > ~/.local/share/bash-completion/completions/posecore`, or `zsh` into a folder of
`$fpath` as `_posecore`.

| command | what it does |
|---|---|
"""


def commands(parser: argparse.ArgumentParser, before: str = "posecore") -> Iterator[tuple[str, str]]:
    """Each command, the one-line help of it, and of those below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                inner = list(commands(below, f"{before} {name}"))
                yield from inner or [(f"{before} {name}", told[name])]


def reference() -> str:
    return HEAD + "".join(f"| `{name}` | {told.replace('|', '/')} |\n" for name, told in commands(build_parser()))


def test_the_page_names_every_command() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python tests/unit/test_command_reference.py"


def test_every_command_says_what_it_does() -> None:
    assert all(told for _, told in commands(build_parser()))


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "predict" in script
    assert "--format" in script


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "posecore").write_text(capsys.readouterr().out)
    asked = "COMP_WORDS=(posecore {0}); COMP_CWORD={1}; _shtab_posecore; echo ${{COMPREPLY[@]}}"
    lines = ["source ./posecore", asked.format("mod", 1), asked.format("view --p", 2)]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["models", "--port"]


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
