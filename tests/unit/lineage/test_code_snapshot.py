import subprocess
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

from posecore.config import Config
from posecore.lineage.code.snapshot import installed_distributions, uncommitted_changes
from posecore.lineage.jobs.steps import Workflow
from posecore.lineage.store.tracking import RunLog, Tracking


def git(folder: Path, *arguments: str) -> bytes:
    person = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *person, *arguments], cwd=folder, capture_output=True, check=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one commit of two files."""
    folder = tmp_path / "tree"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "loss.py").write_text("scale = 1\n")
    (folder / "gone.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("runs/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def test_a_clean_tree_has_no_changes(tree: Path) -> None:
    assert uncommitted_changes(tree) is None


def test_the_diff_makes_the_commit_the_tree_that_ran(tree: Path, tmp_path: Path) -> None:
    (tree / "loss.py").write_text("scale = 1000\n")
    git(tree, "add", "loss.py")  # whether it is in the index makes no difference
    (tree / "gone.py").unlink()
    (tree / "new folder").mkdir()
    (tree / "new folder" / "method.py").write_text("def method():\n    return 'neu – ü'\n")
    (tree / "runs").mkdir()
    (tree / "runs" / "big.py").write_text("ignored")
    changes = uncommitted_changes(tree)
    assert changes is not None
    assert changes.left_out == {}
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(tree), str(copy))
    (tmp_path / "uncommitted.diff").write_bytes(changes.diff)
    git(copy, "apply", str(tmp_path / "uncommitted.diff"))
    assert (copy / "loss.py").read_text() == "scale = 1000\n"
    assert not (copy / "gone.py").exists()
    new = "new folder/method.py"
    assert (copy / new).read_bytes() == (tree / new).read_bytes()
    assert "ignored" not in changes.diff.decode()


def test_what_is_no_source_or_too_large_is_named_with_its_hash(tree: Path) -> None:
    (tree / "weights.bin").write_bytes(b"\0" * 100)
    (tree / "long.py").write_text("x = 1\n" * 1000)
    (tree / "loss.py").write_text("scale = 2\n")
    changes = uncommitted_changes(tree, most_bytes=1000)
    assert changes is not None
    assert b"scale = 2" in changes.diff
    assert {name: facts["bytes"] for name, facts in changes.left_out.items()} == {"weights.bin": 100, "long.py": 6000}
    assert all(len(facts["sha256"]) == 64 for facts in changes.left_out.values())


def test_a_workflow_records_what_is_installed_and_what_is_not_committed(
    tracking: Tracking, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "loss.py").write_text("scale = 3\n")
    monkeypatch.setattr("posecore.lineage.code.snapshot.repository_root", lambda: tree)
    with Workflow(tracking, "job", tmp_path, Config(), report=lambda line: None) as workflow:
        run = RunLog(tracking, workflow.run.run_id)
    assert b"+scale = 3" in run.read_file("code/uncommitted.diff")
    installed = run.read_file("code/installed.txt").decode().splitlines()
    assert f"numpy=={version('numpy')}" in installed
    assert installed == installed_distributions()


def test_all_that_is_installed_is_listed() -> None:
    """What the standard library's own parsing of whole metadata finds."""
    named = [item for item in distributions() if item.read_text("METADATA") or item.read_text("PKG-INFO")]
    found = {f"{item.metadata['Name']}=={item.version}" for item in named}
    assert installed_distributions() == sorted(found, key=str.lower)
