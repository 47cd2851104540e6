"""What "the same code" means: hashes of source files, by import closure, and the git commit where there is one.

A step names the modules it runs; everything of ours that they import, directly or not, counts as its code, and so do
the YAML, JSON and template files of those packages. So an edit of the evaluation does not re-run ingestion, and nobody
keeps a list by hand. A module loaded by name only (a dataset's reader) is not seen by the closure and must be named.
"""

import ast
import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import posecore.datasets
from posecore.errors import LineageError

_OURS = ("posecore", "pipelines")
_ROOT = Path(__file__).resolve().parents[2]
_DATA_SUFFIXES = (".yaml", ".json", ".j2")


def code_digest(modules: Iterable[str]) -> str:
    """SHA-256 over the sources of the named modules and packages and of all our modules they import.

    Args:
        modules: dotted names; a package stands for all its modules.

    Raises:
        LineageError: a name cannot be found.
    """
    files: dict[str, Path] = {}
    queue = list(modules)
    for name in queue:
        if not _source_files(name):
            raise LineageError(f"code version: module {name!r} cannot be found; correct the step's list of modules.")
    seen: set[str] = set()
    expanded = set(queue)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for key, path in _source_files(name, whole_package=name in expanded):
            files[key] = path
            if path.suffix == ".py":
                queue.extend(_imports(path, path.stat().st_mtime_ns))
    digest = hashlib.sha256()
    for key in sorted(files):
        digest.update(f"{key}\0{hashlib.sha256(files[key].read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def source_digest() -> str:
    """SHA-256 over every source file of this installation: the code version lineage records."""
    return code_digest(_OURS)


@lru_cache(maxsize=1)
def git_sha() -> str:
    """Commit of this source tree, with ``-dirty`` if files differ from it; "" where there is no git.

    A container image has no ``.git``; it carries the commit in the environment variable POSECORE_GIT_SHA instead.
    """
    if baked := os.environ.get("POSECORE_GIT_SHA"):
        return baked
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if changes else commit


def _source_files(name: str, whole_package: bool = False) -> list[tuple[str, Path]]:
    """(stable key, file) of a module, or of a package with its data files; nothing if there is no such module."""
    for base in _folders_of(name.rpartition(".")[0]):
        module, folder = base / f"{name.rpartition('.')[2]}.py", base / name.rpartition(".")[2]
        if module.is_file():
            return [(name, module)]
        if folder.is_dir():
            candidates = folder.rglob("*") if whole_package else _own_files(folder)
            wanted = [path for path in candidates if path.suffix in (".py", *_DATA_SUFFIXES) and path.is_file()]
            return [(f"{name}/{path.relative_to(folder).as_posix()}", path) for path in wanted]
    return []


def _folders_of(package: str) -> list[Path]:
    """Folders a package's modules lie in, found without importing it: a search must not run code."""
    if not package:
        return [_ROOT]
    if package == posecore.datasets.__name__:
        return [Path(location) for location in posecore.datasets.__path__]
    parent, _, leaf = package.rpartition(".")
    return [base / leaf for base in _folders_of(parent) if (base / leaf).is_dir()]


def _own_files(package: Path) -> Iterator[Path]:
    """``__init__.py`` and the data files of a package, its sub-packages excepted."""
    yield package / "__init__.py"
    for path in package.iterdir():
        if path.suffix in _DATA_SUFFIXES:
            yield path
        elif path.is_dir() and not (path / "__init__.py").exists():
            yield from (inner for inner in path.rglob("*") if inner.suffix in _DATA_SUFFIXES)


@lru_cache(maxsize=4096)
def _imports(path: Path, mtime_ns: int) -> tuple[str, ...]:
    """Our modules a file imports, with the packages they lie in; ``mtime_ns`` only renews the cache."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            # "from package import x": x may be a module; if it is an attribute, nothing is found under that name.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = {name for name in names if name.partition(".")[0] in _OURS}
    packages = {name.rsplit(".", depth)[0] for name in ours for depth in range(1, name.count(".") + 1)}
    return tuple(sorted(ours | packages))
