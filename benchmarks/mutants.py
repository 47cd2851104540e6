"""How many small changes of the code do the quick tests notice? A random sample of mutants, a line per room.

::

    make mutants SAMPLE=150 SEED=1
    python benchmarks/mutants.py --sample 150 --seed 1 --rooms shards loading

cosmic-ray knows the places of a module that can be changed, and how: an operator for another, a number one up or
down, a condition turned round, a loop that never runs, a decorator left out. Here a place is drawn, all as likely,
then one of the changes possible there. A change that keeps the module from being imported says nothing of the tests,
and another is drawn for it. Nothing is written to the sources: each mutant lives in a process of its own, forked from
one that has already imported torch, which imports the changed text in place of the file.

Left alone are types, assertions, ``strict=``, decorators of dataclasses and ``@cache``, which no result depends on, and
for how long something is waited: ``timeout=`` and constants in seconds, whose names end in ``_S``.

A mutant meets eight test files at most that are about its module: those of its name, those of the modules of its room
that import it, then others that import it, or what imports it, or what imports that. Processes that a test starts with
Python import the changed text, too. It has been noticed if a test fails, or after 100 s of a processor. At the end
every test file that noticed something must pass on the code as it is. What survives is listed.

Needs ``pip install -e '.[mutants]'``. A mutant costs one to fifty seconds of a core, one of DeepSpeed's engine, which
slow tests alone reach, up to three minutes.
"""

import argparse
import ast
import difflib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent
_SETTINGS = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["posecore"]["mutants"]
ROOMS: tuple[str, ...] = tuple(_SETTINGS["rooms"])
_MOST_FILES = 8
_FAR = 3  # imports away: no test of the module any more
_LIMIT_S = 100  # of a processor; the tests of no module need half of it
_PRELOADED = (
    "cv2", "hypothesis.extra.numpy", "numpy", "polars", "pyarrow.parquet", "pycocotools.cocoeval", "pydantic", "pytest",
    "safetensors.torch", "scipy.optimize", "scipy.special", "torch", "torch.distributed", "upath", "webdataset",
)  # fmt: skip
_NOTICED, _SURVIVED, _UNREACHED, _STILLBORN = "noticed", "survived", "not reached", "stillborn"
_NO_TESTS, _NOT_IMPORTED, _FIRST_FILE = 5, 77, 100


@dataclass(frozen=True)
class Place:
    """Somewhere in a module that operators of cosmic-ray apply to.

    Attributes:
        path: of the module, relative to the repository.
        start: line and column.
        changes: operator names, each with which of its occurrences in the module this is.
    """

    path: str
    start: tuple[int, int]
    changes: tuple[tuple[str, int], ...]

    @property
    def module(self) -> str:
        """Dotted name."""
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def room(self) -> str:
        """One of :data:`ROOMS`."""
        return self.path.split("/")[1]


@dataclass(frozen=True)
class Mutant:
    """One changed module and what became of it."""

    place: Place
    operator: str
    source: str
    outcome: str = ""
    noticed_by: str = ""

    def difference(self) -> str:
        """The changed lines."""
        before = (_ROOT / self.place.path).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]
        return "\n".join([f"{self.place.path}:{self.place.start[0]} ({self.operator})", *changed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=150, help="mutants to test")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=ROOMS)
    parser.add_argument("--processes", type=int, default=2, help="mutants tested at a time")
    arguments = parser.parse_args()
    os.chdir(_ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"  # several at a time: threads would wait for one another
    sys.path.insert(0, str(_ROOT))
    drawn = _draw(arguments.rooms, arguments.seed)
    for name in _PRELOADED:
        __import__(name)
    tested = list(_tested(drawn, arguments.sample, arguments.processes))
    _check({mutant.noticed_by for mutant in tested if mutant.noticed_by}, arguments.processes)
    _print_table(tested)


def _tested(drawn: Iterator[Mutant], sample: int, processes: int) -> Iterator[Mutant]:
    """As many mutants as asked for, in the order in which their tests end."""
    running: list[_Run] = []
    number = 0
    while number < sample:
        while len(running) < min(processes, sample - number):
            mutant = next(drawn)
            running.append(_Run(_files(mutant.place.module), mutant))
        time.sleep(0.05)
        for run in [run for run in running if run.poll()]:
            running.remove(run)
            if run.outcome == _STILLBORN:
                continue
            number += 1
            mutant = replace(run.mutant, outcome=run.outcome, noticed_by=run.noticed_by)
            note = "" if run.outcome == _NOTICED else f"\n{mutant.difference()}\n"
            print(f"{number:4} {run.seconds:5.1f} s {run.outcome:12} {mutant.place.module}{note}", flush=True)
            yield mutant


def _check(tests: set[str], processes: int) -> None:
    """Ends the program if a test that noticed a mutant fails on the code as it is, too."""
    waiting, running = sorted(tests), list[_Run]()
    while waiting or running:
        while waiting and len(running) < processes:
            running.append(_Run((waiting.pop(),), None))
        time.sleep(0.05)
        for run in [run for run in running if run.poll()]:
            running.remove(run)
            if run.outcome != _SURVIVED:
                sys.exit(f"{run.files[0]} fails on the code as it is:\n{run.output()[-3000:]}")


def _draw(rooms: Sequence[str], seed: int) -> Iterator[Mutant]:
    """Endless while there are places, none of which comes twice."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    chance = random.Random(seed)
    places = [
        place for room in rooms for path in sorted(Path("posecore", room).glob("*.py")) for place in _places(path)
    ]
    print(f"{len(places)} places in {', '.join(rooms)}; seed {seed}", flush=True)
    chance.shuffle(places)
    for place in places:
        operator, occurrence = chance.choice(place.changes)
        before = Path(place.path).read_text(encoding="utf-8")
        try:
            source = mutate_code(before, get_operator(operator)(), occurrence)
        except AttributeError:  # cosmic-ray 8.7.0 cannot replace the exception of `except module.Error`
            continue
        if source is not None and source != before:
            yield Mutant(place, operator.removeprefix("core/"), source)


def _places(path: Path) -> list[Place]:
    import parso  # first: cosmic-ray imports parts of it in an order that fails  # noqa: F401
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(path.read_text(encoding="utf-8"))))
    changes: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in operator_names():
        if get_operator(name).arguments():
            continue
        operator, occurrence = get_operator(name)(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                if not _nobody_can_see(node):
                    changes.setdefault(start, []).append((name, occurrence))
                occurrence += 1
    return [Place(str(path), start, tuple(found)) for start, found in sorted(changes.items())]


def _nobody_can_see(node) -> bool:
    """Whether a node of parso's tree is part of a type, an assertion, ``strict=``, a wait, ``@dataclass``, ``@cache``.

    They speak to readers or check ourselves: no input makes a difference there, or it is a bug that they report.
    """
    while node.parent is not None:
        parent = node.parent
        if parent.type in ("annassign", "tfpdef") and node is parent.children[1 if parent.type == "annassign" else 2]:
            return True
        if parent.type == "funcdef" and parent.annotation is node:
            return True
        if parent.type == "argument" and parent.children[0].get_code().strip() in ("strict", "timeout"):
            return True
        if parent.type == "expr_stmt" and parent.children[0].get_code().strip().endswith("_S"):
            return True
        if node.type == "assert_stmt":
            return True
        if node.type == "decorator" and re.match(r"@(dataclass|cache|lru_cache)\b", node.get_code().strip()):
            return True
        node = parent
    return False


@cache
def _files(module: str) -> tuple[str, ...]:
    """Test files about a module: that of its name, those of modules that import it, then others that reach it."""
    room = module.split(".")[1]
    steps = _steps_to(module)
    above = [other for other, far in steps.items() if far == 1 and other.split(".")[1] == room]
    named = [test for name in (module, *above) for test in _named_after(name)]
    reached = {
        test: min((steps[name] for name in names & steps.keys()), default=_FAR) for test, names in _imports().items()
    }
    near = [test for test, far in reached.items() if far < _FAR]
    near.sort(key=lambda test: (reached[test], not test.startswith(f"tests/unit/{room}/"), Path(test).stat().st_size))
    tests = list(dict.fromkeys(test for test in (*named, *near) if test in reached))
    has_settings = "(Config)" in Path(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    settings = [_SETTINGS["of_configurations"]] if has_settings else []
    return (*tests[:_MOST_FILES], *settings, *_SETTINGS["slow"].get(module, ()))


def _steps_to(module: str) -> dict[str, int]:
    """Modules that import it, or one that does, … → by how many imports; it itself → 0."""
    steps = {module: 0}
    for far in range(1, _FAR):
        found = [name for name, names in _imports_of_code().items() if name not in steps and names & steps.keys()]
        steps |= dict.fromkeys(found, far)
    return steps


def _named_after(module: str) -> list[str]:
    """Test files of its name, that of its own room first."""
    _, *folders, name = module.split(".")
    own = "/".join(["tests/unit", *folders, f"test_{name}.py"])
    return sorted((test for test in _imports() if Path(test).name == f"test_{name}.py"), key=lambda test: test != own)


@cache
def _imports() -> dict[str, set[str]]:
    """Test file → modules of posecore that it or its support modules import."""
    files = [path for folder in _SETTINGS["tests"] for path in sorted(Path(folder).rglob("test_*.py"))]
    return {str(path): _imported(path, {}) for path in files}


@cache
def _imports_of_code() -> dict[str, set[str]]:
    paths = sorted(Path("posecore").rglob("*.py"))
    return {str(path).removesuffix(".py").replace("/", "."): _imported(path, {}) for path in paths}


def _imported(path: Path, seen: dict[Path, None]) -> set[str]:
    seen[path] = None
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("posecore", "tests.support")):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    for name in sorted(names):
        support = Path(name.replace(".", "/") + ".py")
        if name.startswith("tests.support") and support.exists() and support not in seen:
            names |= _imported(support, seen)
    return names


class _Run:
    """pytest on some files in a forked process. Python forks safely only where it has one thread, as here."""

    def __init__(self, files: tuple[str, ...], mutant: Mutant | None) -> None:
        self.files, self.mutant = files, mutant
        self.outcome, self.noticed_by, self.seconds = "", "", 0.0
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._for_children = tempfile.TemporaryDirectory(prefix="mutant-")
        self._deadline = time.monotonic() + 10 * _LIMIT_S  # something may wait for what never comes
        self._child = os.fork()
        if self._child == 0:
            code = _FIRST_FILE
            try:
                os.setsid()
                for stream in (1, 2):
                    os.dup2(self._output.fileno(), stream)
                resource.setrlimit(resource.RLIMIT_CPU, (_LIMIT_S, _LIMIT_S + 5))
                if mutant is not None:
                    _show_to_children(mutant, Path(self._for_children.name))
                code = _run(files, mutant)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> bool:
        """Whether it has ended; then the outcome is known, the file that noticed it and the processor seconds."""
        done, status, usage = os.wait4(self._child, os.WNOHANG)
        if not done:
            if time.monotonic() > self._deadline:
                os.killpg(self._child, signal.SIGKILL)
            return False
        with suppress(ProcessLookupError, PermissionError):  # what a test that failed has left running
            os.killpg(self._child, signal.SIGKILL)
        self._for_children.cleanup()
        code, self.seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        self.outcome = {0: _SURVIVED, _NO_TESTS: _UNREACHED, _NOT_IMPORTED: _STILLBORN}.get(code, _NOTICED)
        if code >= _FIRST_FILE:
            self.noticed_by = self.files[code - _FIRST_FILE]
        return True

    def output(self) -> str:
        """What it printed."""
        self._output.seek(0)
        return self._output.read()


def _run(files: tuple[str, ...], mutant: Mutant | None) -> int:
    import pytest

    if mutant is not None:
        sys.meta_path.insert(0, Finder(mutant.place.module, mutant.place.path, mutant.source))
        try:
            __import__(mutant.place.module)
        except BaseException:
            return _NOT_IMPORTED
    result = _NO_TESTS
    for index, file in enumerate(files):  # one by one: what the first notices need not wait for the others' imports
        slow = any(file in files_of for files_of in _SETTINGS["slow"].values())
        options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider"] + (
            [] if slow else ["-m", _SETTINGS["markers"]]
        )
        code = int(pytest.main([*options, file]))
        if code not in (0, 5):
            return _FIRST_FILE + index
        result = min(result, code)
    return result


def _show_to_children(mutant: Mutant, folder: Path) -> None:
    """Has every Python that starts from here on import the mutant, too."""
    arguments = (mutant.place.module, mutant.place.path, mutant.source)
    lines = [
        "import sys",
        f"sys.path.append({str(_ROOT)!r})",
        "from benchmarks.mutants import Finder",
        f"sys.meta_path.insert(0, Finder{arguments!r})",
    ]
    (folder / "sitecustomize.py").write_text("\n".join(lines), encoding="utf-8")
    found = [str(folder), str(_ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, found))


class Finder(MetaPathFinder, Loader):
    """Imports a mutant in place of its module.

    Args:
        module: dotted name.
        path: of the module, relative to the repository.
        source: the changed text.
    """

    def __init__(self, module: str, path: str, source: str) -> None:
        self._module, self._path, self._source = module, str(_ROOT / path), source

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """The mutant's, for its module alone."""
        return spec_from_loader(fullname, self, origin=self._path) if fullname == self._module else None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the changed text."""
        module.__file__ = self._path
        exec(compile(self._source, self._path, "exec"), module.__dict__)


def _print_table(tested: Sequence[Mutant]) -> None:
    print(f"\n{'':12}{'mutants':>9}{'noticed':>9}{'survived':>10}{'not reached':>13}{'score':>8}")
    for room in (*ROOMS, "all"):
        found = [mutant.outcome for mutant in tested if room in ("all", mutant.place.room)]
        if found:
            noticed, survived, unreached = (found.count(outcome) for outcome in (_NOTICED, _SURVIVED, _UNREACHED))
            print(f"{room:12}{len(found):9}{noticed:9}{survived:10}{unreached:13}{noticed / len(found):8.1%}")


if __name__ == "__main__":
    main()
