"""Every command in the documentation is one that the programs take: names, options and words, as they are written."""

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from posecore.cli import build_parser
from posecore.cli.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOB_OF_SCRIPT = {f"pipelines/{script}.py": name for name, (script, _) in JOBS.items()}
FENCED = re.compile(r"^```(?:bash|shell|sh)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(?P<body>[^`\n]+)`")
PLACEHOLDER = re.compile(r"[…<>]")


@dataclass(frozen=True)
class Written:
    """A command in a page.

    Attributes:
        text: as it stands there.
        words: of it, comments and line ends taken out, scripts of jobs as the commands that they are.
        whole: whether all of it stands there; a span in a sentence may name options without what they need.
    """

    text: str
    words: tuple[str, ...]
    whole: bool


def written(page: str) -> Iterator[Written]:
    """The commands of ours in a page: those of its code blocks, then those of its code spans."""
    for block in FENCED.finditer(page):
        for line in block["body"].replace("\\\n", " ").splitlines():
            yield from _ours(line, whole=True)
    for span in SPAN.finditer(FENCED.sub("", page)):
        yield from _ours(span["body"], whole=False)


def _ours(line: str, whole: bool) -> Iterator[Written]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quote in prose
        return
    while words:
        end = next((i for i, word in enumerate(words) if word in {";", "&&", "||", "|", ">", ">>"}), len(words))
        command, words = words[:end], words[end + 1 :]
        for start, word in enumerate(command):
            if word == "posecore" or word in JOB_OF_SCRIPT:
                if start and command[start - 1].endswith(("install", "-m")):
                    break
                rest = command[start + 1 :]
                named = rest if word == "posecore" else [JOB_OF_SCRIPT[word], *rest]
                if named:
                    yield Written(line.strip(), tuple(named), whole and not any("…" in word for word in named))
                break


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return build_parser()


def refused(parser: argparse.ArgumentParser, command: Written) -> str:
    """Why a command cannot be meant so; "" if it can."""
    if command.whole:
        try:
            parser.parse_args(list(command.words))
        except SystemExit as ended:
            return f"exit status {ended.code}"
        return ""
    for word in command.words:
        below = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
        if below is not None and not PLACEHOLDER.search(word) and not word.startswith("-"):
            if word not in below.choices:
                return f"{word} is no command"
            parser = below.choices[word]
        option = word.partition("=")[0]
        if option.startswith("--") and not PLACEHOLDER.search(option) and option not in parser._option_string_actions:
            return f"{option} is no option of {parser.prog}"
    return ""


def test_commands_are_found_and_looked_at(parser: argparse.ArgumentParser) -> None:
    page = (
        "Say `posecore predict … --modle x`, `posecore predcit`, `posecore policies`, or `pip install posecore`:\n"
        "```shell\nray job submit -- python pipelines/promote.py --model pose --version 3 \\\n    --alias x  # moves\n"
        "posecore score a.json --protocol cocco || echo $?\n```\n"
    )
    found = list(written(page))
    assert [each.words[0] for each in found] == ["promote", "score", "predict", "predcit", "policies"]
    assert [bool(refused(parser, each)) for each in found] == [False, True, True, True, True]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_taken(
    page: Path, parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {}
    for command in written(page.read_text(encoding="utf-8")):
        why = refused(parser, command)
        if why:
            wrong[command.text] = why + "".join(capsys.readouterr().err.splitlines()[-1:])
    assert wrong == {}


BENCHMARK = re.compile(r"python (?:-m benchmarks\.|benchmarks/)(?P<name>\w+)(?:\.py)?(?P<rest>[^`\n]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_benchmark_of_a_page_is_there_with_its_options(page: Path) -> None:
    for found in BENCHMARK.finditer(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        path = ROOT / "benchmarks" / f"{found['name']}.py"
        assert path.is_file(), found[0]
        code = path.read_text(encoding="utf-8")
        for option in re.findall(r"(?<=\s)--[a-z-]+", found["rest"]):
            assert f'"{option}"' in code, found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_target_of_make_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)
    assert set(named) <= targets
