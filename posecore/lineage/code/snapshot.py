"""The code a run had, where a commit does not say it: changes that are not committed, and what is installed."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path

from posecore.lineage.code.version import git, repository_root
from posecore.lineage.store.tracking import RunLog
from posecore.schema import Json
from posecore.storage import sha256_of

_SOURCES = (".py", ".yaml", ".yml", ".j2", ".toml", ".sh")
FOLDER, INSTALLED_FILE, DIFF_FILE = "code", "installed.txt", "uncommitted.diff"
"""Of a submission's artifacts."""
MOST_BYTES = 4 << 20
"""Of the whole diff; files that do not fit are named with their hash."""


@dataclass(frozen=True, slots=True)
class UncommittedChanges:
    """How a source tree differs from its commit.

    Attributes:
        diff: what ``git apply`` makes of the commit's tree this one, new source files included.
        left_out: path to size and SHA-256 of changed or new files that are not in the diff, for their size or because
            they are no sources.
    """

    diff: bytes
    left_out: dict[str, Json]


def uncommitted_changes(root: Path | None = None, most_bytes: int = MOST_BYTES) -> UncommittedChanges | None:
    """The changes of a working tree, or None where there are none, or no git that tracks it.

    Args:
        root: of the tree; None takes that of this library.
        most_bytes: of the diff.
    """
    root = root or repository_root()
    if root is None:
        return None
    changed = git(root, "diff", "HEAD", "--name-only", "--no-renames", "--relative", "-z").split(b"\0")
    new = git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    parts: list[bytes] = []
    left_out: dict[str, Json] = {}
    room = most_bytes
    for name, is_new in [*((each, False) for each in changed if each), *((each, True) for each in new if each)]:
        path = root / name.decode("utf-8", "surrogateescape")
        part = None
        if not is_new or (path.name.endswith(_SOURCES) and path.is_file() and path.stat().st_size <= room):
            part = _diff_of(root, path, is_new)
        if part is not None and len(part) <= room:
            room -= len(part)
            parts.append(part)
        elif path.is_file():
            left_out[str(path.relative_to(root))] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        else:
            left_out[str(path.relative_to(root))] = {"bytes": 0, "sha256": ""}
    return UncommittedChanges(b"".join(parts), left_out) if parts or left_out else None


def installed_distributions() -> list[str]:
    """``name==version`` of everything that is installed, sorted."""
    found = {_name_and_version(item) for item in distributions()}
    return sorted((f"{name}=={version}" for name, version in found if name), key=str.lower)


def _name_and_version(item: Distribution) -> tuple[str | None, str | None]:
    """From what stands above the description in the metadata, whose parsing would be most of a job's start."""
    text = item.read_text("METADATA") or item.read_text("PKG-INFO") or item.read_text("") or ""  # the last: one file
    headers = HeaderParser().parsestr(text.partition("\n\n")[0])
    return headers["Name"], headers["Version"]


def record_code(run: RunLog) -> None:
    """Stores what is installed, and how the tree differs from its commit, under ``code/`` of a run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / INSTALLED_FILE).write_text("\n".join(installed_distributions()) + "\n", encoding="utf-8")
        try:
            changes = uncommitted_changes()
        except (OSError, subprocess.SubprocessError) as error:
            (folder / "not_stored.txt").write_text(f"the changes could not be read: {error}\n", encoding="utf-8")
        else:
            if changes is not None:
                (folder / DIFF_FILE).write_bytes(changes.diff)
            if changes is not None and changes.left_out:
                (folder / "not_stored.json").write_text(json.dumps(changes.left_out, indent=1), encoding="utf-8")
        run.log_file(folder, FOLDER)


def _diff_of(root: Path, path: Path, is_new: bool) -> bytes:
    name = str(path.relative_to(root))
    if not is_new:
        return git(
            root, "diff", "HEAD", "--binary", "--no-renames", "--no-color", "--no-ext-diff", "--relative", "--", name
        )
    # Exits with 1 because the two differ.
    command = ["git", "diff", "--no-index", "--binary", "--no-color", "--no-ext-diff", "--", "/dev/null", name]
    return subprocess.run(command, cwd=root, capture_output=True, timeout=60, check=False).stdout
