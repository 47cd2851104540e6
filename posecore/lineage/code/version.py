"""What "the same code" means: hashes of source files, by import closure, and the git commit where there is one.

Of a Python file counts what it says to Python (:mod:`posecore.source_code`): an edit of a comment runs nothing again.

A step names the modules it runs; everything of ours that they import, directly or not, counts as its code, and so do
the YAML, JSON and template files of those packages. So an edit of the evaluation does not re-run ingestion, and nobody
keeps a list by hand. A module loaded by name only (a dataset's reader) is not seen by the closure and must be named.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import posecore.datasets
from posecore.config import digest_json
from posecore.errors import LineageError
from posecore.source_code import read_source
from posecore.storage import sha256_of

_OURS = ("posecore", "pipelines")
_ROOT = Path(posecore.__file__).resolve().parents[1]
_DATA_SUFFIXES = (".yaml", ".json", ".j2")


def code_digest(modules: Iterable[str]) -> str:
    """SHA-256 over the sources of the named modules and packages and of all our modules they import.

    Args:
        modules: dotted names; a package stands for all its modules.

    Raises:
        LineageError: a name cannot be found.
    """
    digest = hashlib.sha256()
    for key, path in sorted(code_files(modules).items()):
        of_file = read_source(path, _package(key)).digest if path.suffix == ".py" else sha256_of(path)
        digest.update(f"{key}\0{of_file}\n".encode())
    return digest.hexdigest()


def own_digest(modules: Iterable[str]) -> str:
    """SHA-256 over the sources of the named modules alone.

    For code that decides a result and imports much that does not; of that, its step names what does.

    Args:
        modules: dotted names.

    Raises:
        LineageError: a name cannot be found, or is that of a package.
    """
    found: dict[str, str] = {}
    for name in modules:
        files = _source_files(name, {})
        if [key for key, _ in files] != [name]:
            raise LineageError(f"code version: {name!r} is no module; correct the step's list of modules.")
        found[name] = read_source(files[0][1], name.rpartition(".")[0]).digest
    return digest_json(found)


def code_files(modules: Iterable[str]) -> dict[str, Path]:
    """Name to file of the named modules and packages and of all our modules they import; data files ``package/file``.

    Args:
        modules: dotted names; a package stands for all its modules.

    Raises:
        LineageError: a name cannot be found.
    """
    files: dict[str, Path] = {}
    folders: dict[str, list[Path]] = {}
    queue = list(modules)
    for name in queue:
        if not _source_files(name, folders):
            raise LineageError(f"code version: module {name!r} cannot be found; correct the step's list of modules.")
    seen: set[str] = set()
    expanded = set(queue)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for key, path in _source_files(name, folders, whole_package=name in expanded):
            files[key] = path
            if path.suffix == ".py":
                queue.extend(_our_imports(path, _package(key)))
    return files


@lru_cache(maxsize=1)
def source_digest() -> str:
    """SHA-256 over every source file of this installation, comments included: the code version lineage records."""
    files = (found for package in _OURS for found in _source_files(package, {}, whole_package=True))
    return digest_json({key: sha256_of(path) for key, path in files})


@lru_cache(maxsize=1)
def git_sha() -> str:
    """Commit of this source tree, with ``-dirty`` if files differ from it; "" where there is no git.

    A container image has no ``.git``; it carries the commit in the environment variable POSECORE_GIT_SHA instead.
    """
    if baked := os.environ.get("POSECORE_GIT_SHA"):
        return baked
    root = repository_root()
    if root is None:
        return ""
    try:
        commit = git(root, "rev-parse", "HEAD").decode().strip()
        changes = git(root, "status", "--porcelain", "--", ".").strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if changes else commit


def repository_root() -> Path | None:
    """The folder of this source tree, if git tracks it: a library that is installed lies in no repository of ours."""
    try:
        git(_ROOT, "ls-files", "--error-unmatch", "posecore/__init__.py")
    except (OSError, subprocess.SubprocessError):
        return None
    return _ROOT


def git(root: Path, *arguments: str) -> bytes:
    """What a git command prints.

    Raises:
        OSError: there is no git.
        subprocess.SubprocessError: the command failed, or took longer than a minute.
    """
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True, timeout=60).stdout


def _source_files(name: str, folders: dict[str, list[Path]], whole_package: bool = False) -> list[tuple[str, Path]]:
    """(stable key, file) of a module, or of a package with its data files; nothing if there is no such module."""
    for base in _folders_of(name.rpartition(".")[0], folders):
        module, folder = base / f"{name.rpartition('.')[2]}.py", base / name.rpartition(".")[2]
        if module.is_file():
            return [(name, module)]
        if folder.is_dir():
            candidates = folder.rglob("*") if whole_package else _own_files(folder)
            wanted = [path for path in candidates if path.suffix in (".py", *_DATA_SUFFIXES) and path.is_file()]
            return [(f"{name}/{path.relative_to(folder).as_posix()}", path) for path in wanted]
    return []


def _folders_of(package: str, known: dict[str, list[Path]]) -> list[Path]:
    """Folders a package's modules lie in, found without importing it: a search must not run code."""
    if not package:
        return [_ROOT]
    if package == posecore.datasets.__name__:
        return [Path(location) for location in posecore.datasets.__path__]
    if package not in known:
        parent, _, leaf = package.rpartition(".")
        known[package] = [base / leaf for base in _folders_of(parent, known) if (base / leaf).is_dir()]
    return known[package]


def _own_files(package: Path) -> Iterator[Path]:
    """``__init__.py`` and the data files of a package, its sub-packages excepted."""
    yield package / "__init__.py"
    for path in package.iterdir():
        if path.suffix in _DATA_SUFFIXES:
            yield path
        elif path.is_dir() and not (path / "__init__.py").exists():
            yield from (inner for inner in path.rglob("*") if inner.suffix in _DATA_SUFFIXES)


def _package(key: str) -> str:
    """The package a file lies in, by its stable key."""
    name, slash, inside = key.partition("/")
    return ".".join([name, *inside.split("/")[:-1]]) if slash else name.rpartition(".")[0]


def _our_imports(path: Path, package: str) -> set[str]:
    """Our modules a file imports, with the packages they lie in."""
    ours = {name for name in read_source(path, package).imports if name.partition(".")[0] in _OURS}
    return ours | {name.rsplit(".", depth)[0] for name in ours for depth in range(1, name.count(".") + 1)}
