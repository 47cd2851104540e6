import ast
import importlib
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import posecore
from posecore import errors

PACKAGE = Path(posecore.__file__).parent


def test_the_drawn_tree_is_the_real_one() -> None:
    """Each line's parent is the nearest line above that is drawn further left."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if node := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth, name = len(node[1]), node[2]
            above = [(left, parent) for left, parent in above if left < depth]
            drawn[name] = above[-1][1] if above else "Exception"
            above.append((depth, name))
    real = {name: cls.__bases__[0].__name__ for name, cls in inspect.getmembers(errors, inspect.isclass)}
    assert drawn == real


def _with_arguments_of_their_own() -> Iterator[type[BaseException]]:
    """Every exception class of the package that has an ``__init__``, found in the text: few modules are imported."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(n, ast.FunctionDef) and n.name == "__init__" for n in node.body
            ):
                bases = [ast.unparse(base) for base in node.bases]
                if any(base.endswith(("Error", "Exception", "Interrupt")) for base in bases):
                    module = ".".join(("posecore", *path.relative_to(PACKAGE).with_suffix("").parts))
                    yield getattr(importlib.import_module(module), node.name)


def test_errors_are_the_same_in_another_process() -> None:
    """A task's error is pickled; one that cannot be made anew from its arguments reaches the driver as another."""
    found = list(_with_arguments_of_their_own())
    assert {"Refusal", "Interrupted"} <= {kind.__name__ for kind in found}
    for kind in found:
        parameters = inspect.signature(kind).parameters.values()
        error = kind(*(2 if parameter.annotation is int else parameter.name for parameter in parameters))
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
