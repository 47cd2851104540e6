"""What a source file is, for fingerprints: what it says to Python, what it imports, which files it declares.

Read from the syntax tree: nothing is imported or run, and comments, blank lines and layout do not count.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from posecore.errors import ConfigError

DECLARATION = "DECLARED_FILES"
"""Name of a module's constant that lists files its results depend on, as paths relative to the module's folder."""


@dataclass(frozen=True, slots=True)
class SourceCode:
    """One source file.

    Attributes:
        digest: SHA-256 of its syntax tree, 64 hexadecimal digits; another one under another minor version of Python.
        imports: absolute dotted names it imports when it runs; of ``from a import b`` both ``a`` and ``a.b``, for b may
            be a module.
        declared: the files of its ``DECLARED_FILES``.
    """

    digest: str
    imports: frozenset[str]
    declared: tuple[Path, ...]


def read_source(path: Path, package: str) -> SourceCode:
    """Reads one source file, once as long as it does not change.

    Args:
        path: of the file.
        package: dotted name of the package it lies in, which relative imports start from; "" for none.

    Raises:
        ConfigError: it is not Python, or ``DECLARED_FILES`` is not a plain list of names.
    """
    facts = path.stat()
    return _read(path, package, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, package: str, mtime_ns: int, size: int) -> SourceCode:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is not Python ({error}); correct it.") from None
    imports: set[str] = set()
    declared: tuple[Path, ...] = ()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            imports.update((module, *(f"{module}.{alias.name}" for alias in node.names)))
    for statement in tree.body:
        if _assigns_declaration(statement):
            declared = _declared(statement, path)
    digest = hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()
    return SourceCode(digest, frozenset(imports - {""}), declared)


def _executed(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements of a tree, but for what ``if TYPE_CHECKING`` says to type checkers alone.

    Expressions, which are nine nodes in ten, are not looked through: they hold no statement.
    """
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and getattr(node.test, "id", getattr(node.test, "attr", "")) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, inner, ())


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _assigns_declaration(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == DECLARATION for target in targets)


def _declared(statement: ast.stmt, path: Path) -> tuple[Path, ...]:
    assert isinstance(statement, ast.Assign | ast.AnnAssign), "only these have such a target and a value"
    try:
        names = ast.literal_eval(statement.value) if statement.value is not None else ()
    except ValueError:
        names = None
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{path}: {DECLARATION} must be a plain tuple of file names, which is read without running it."
        )
    return tuple(path.parent / name for name in names)
