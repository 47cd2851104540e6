"""Follows docs/add_a_dataset.md to the letter: writes its files, runs its commands, finds its outputs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from posecore.shards.store import open_store

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add_a_dataset.md"
_BLOCK = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    file: str | None
    body: str


def blocks_of(page: str) -> list[Block]:
    return [Block(match["language"], match["file"], match["body"]) for match in _BLOCK.finditer(page)]


def run_shell(body: str, folder: Path, environment: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Runs a block as a user would, in one shell; returns what it printed and the variables it exported."""
    variables = folder / ".variables"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{body}\nenv -0 > {variables}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
    exported = dict(item.split("=", 1) for item in variables.read_text().split("\0") if item)
    return done.stdout, exported


def test_page_shows_both_ways_and_its_blocks_are_recognised() -> None:
    blocks = blocks_of(PAGE.read_text())
    assert PAGE.read_text().count("```") == 2 * len(blocks)
    files = [block.file for block in blocks if block.file]
    assert "my_datasets/toy_fish/dataset.yaml" in files
    assert "my_datasets/toy_flies/reader.py" in files
    assert {block.language for block in blocks} == {"shell", "text", "python", "yaml"}


@pytest.mark.ray
def test_following_the_page_works(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("POSECORE_DATASETS", None)
    printed = ""
    for block in blocks_of(PAGE.read_text()):
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)
        elif block.language == "shell":
            printed, environment = run_shell(block.body, tmp_path, environment)
        else:
            shown = "\n".join(re.sub(" +", " ", line) for line in printed.splitlines())
            for line in block.body.splitlines():
                assert re.sub(" +", " ", line) in shown, f"{line!r} is not in\n{printed}"
    assert (tmp_path / "gallery" / "index.html").is_file()
    for split, instances in (("toy_fish/train", 4), ("toy_flies/all", 6)):
        assert len(open_store(tmp_path / "shards" / split)) == instances
