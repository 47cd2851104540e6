"""What the metadata say of packages and Pythons is what the lock holds, and what is tested."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = METADATA["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_lock_holds_what_is_asked_for_in_versions_that_are_allowed() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    of_extras = [text for extra in sorted(EXTRAS.keys() - {"mutants"}) for text in EXTRAS[extra]]
    for requirement in map(Requirement, METADATA["dependencies"] + of_extras):
        if requirement.name != "posecore":
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    (torch,) = (text for text in METADATA["dependencies"] if Requirement(text).name == "torch")
    first_and_alone = re.findall(r"'(torch\b[^']*)'", (ROOT / "Makefile").read_text())
    assert len(first_and_alone) == 2
    for text in first_and_alone:
        assert set(Requirement(text).specifier) <= set(Requirement(torch).specifier)


def test_every_python_of_the_metadata_is_tested() -> None:
    named = [text.rpartition(" ")[2] for text in METADATA["classifiers"] if re.search(r"Python :: 3\.\d+$", text)]
    assert named == ["3.11", "3.12", "3.13"]
    allowed = SpecifierSet(METADATA["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}.1" in allowed] == named
    tests = workflow(ROOT / ".github" / "workflows" / "tests.yml")
    assert tests["jobs"]["tests"]["strategy"]["matrix"]["python"] == named


def workflow(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_there_are(path: Path) -> None:
    runs = [step["run"] for step in workflow(path)["jobs"]["tests"]["steps"] if step.get("run", "").startswith("make")]
    assert len(runs) >= 4
    for run in runs:
        done = subprocess.run([*run.split(), "--dry-run", "--always-make"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ("requirements.lock" in done.stdout) == ("LOCK=" not in run), done.stdout
