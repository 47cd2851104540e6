"""``docs/commands.md`` names every command there is; run this file as a program to write it anew."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from posecore.cli import build_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
HEAD = """# Commands

Every command explains its options with `--help`, and says on one line what is wrong with what it was given: where, why,
and the nearest right thing: a name that is near the mistyped one, or another place where a disk is full, read-only or
somebody else's. The jobs (`ingest`, `train`, `adapt`, `distill`, `pretrain`, `evaluate`, `promote`) are the
scripts of `pipelines/`, which clusters submit. `--dry-run` has each say what it would do, and refuse what can be known
to fail, and touch nothing: jobs with a run file look whether the data are there and print that file, `ingest` counts,
`evaluate` looks whether model and splits go together, `score` whether annotations and results do, `promote` whether
every gate holds.

| exit status | meaning |
|---|---|
| 0 | done; of questions: the answer is complete |
| 1 | an error in one sentence (a file, data or a model not there); a failed check; an answer that may not be complete |
| 2 | wrong usage (an option missing, unknown, malformed, contradictory); a question about nothing that is recorded |
| 130, 143 | ended by Ctrl-C or SIGTERM, nothing half-written left under its final name |

TAB completes commands, options, the words an option takes, and files: in bash with its package bash-completion, from
the next shell on; for zsh, write `posecore completion zsh` into a folder of `$fpath` as `_posecore`.

```shell
mkdir -p ~/.local/share/bash-completion/completions
posecore completion bash > ~/.local/share/bash-completion/completions/posecore
```

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


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
