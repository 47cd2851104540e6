"""The code of a reader, a stage or an extension: what can change its result without a word in ``dataset.yaml``.

That is the source of every module of its own folder or package that it imports, the files those modules declare, and
the versions of the distributions they import. A dataset's folder is one of its own, and so is each package directly in
``posecore``; elsewhere the top-level package is. Nothing is imported to find out, so a definition can be looked at
before any of its code runs.

A module loaded by name only is not seen. A file that a module reads counts if the module says so::

    DECLARED_FILES = ("withdrawn.csv",)  # relative to the module's folder

So does a file that ``dataset.yaml`` gives a stage under ``files``.

The library's own modules count by their source alone: they are tested under every version of what they import, and the
same data shall have the same digest on two machines.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import posecore
import posecore.datasets
from posecore.config import digest_json
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import IngestError
from posecore.schema import Json
from posecore.shards.manifest import StageCode
from posecore.source_code import DECLARATION, SourceCode, read_source
from posecore.stages.load import stage_path
from posecore.storage import sha256_of

READER_STAGE = "reader"

_LIBRARY = posecore.__name__
_DATASETS = posecore.datasets.__name__
_SHIPPED = (Path(posecore.__file__).parent, Path(posecore.__file__).parents[1] / "datasets")


def codes_of(definition: DatasetDefinition, split: str) -> dict[str, StageCode]:
    """The code of a definition's reader and of its stages, by name; the reader is ``reader``.

    Raises:
        IngestError: a module cannot be found, or a file it declares.
        ConfigError: a module is not Python, or what it declares cannot be told without running it.
    """
    return {READER_STAGE: stage_code(definition.reader_of(split), definition.options_of(split))} | {
        label: stage_code(entry.stage, entry.options, definition.stage_files(entry))
        for label, entry in zip(definition.stage_labels, definition.stages, strict=True)
    }


def stage_code(
    name: str, options: Mapping[str, Json] | None = None, option_files: Mapping[str, Path] | None = None
) -> StageCode:
    """The code behind one name of a ``dataset.yaml``.

    Args:
        name: ``package.module:name``, or the name of a built-in stage.
        options: what it is told.
        option_files: the files it is told, by option.

    Raises:
        IngestError: its module cannot be found, or a file that it declares or is told.
        ConfigError: a module is not Python, or what it declares cannot be told without running it.
    """
    modules = _closure(_module_of(name), name)
    files: dict[str, str] = {}
    for module, source in modules.items():
        for path in source.declared:
            if not path.is_file():
                raise IngestError(f"{name!r}: {module} lists {path} in {DECLARATION}, which is no file.")
            files[f"{module}:{path.name}"] = sha256_of(path)
    for option, path in (option_files or {}).items():
        if not path.exists():
            raise IngestError(f"{name!r}: the file of its option {option}, {path}, does not exist.")
        inside = (found for found in sorted(path.rglob("*")) if found.is_file()) if path.is_dir() else (path,)
        files |= {f"{option}:{found.relative_to(path.parent).as_posix()}": sha256_of(found) for found in inside}
    distributions = () if _comes_with_the_library(name) else _distributions(modules.values())
    decided = [
        name,
        dict(options or {}),
        {module: source.digest for module, source in modules.items()},
        files,
        distributions,
    ]
    return StageCode(
        modules=tuple(sorted(modules)),
        files=tuple(sorted(files)),
        distributions=distributions,
        digest=digest_json(decided),
    )


def foreign_code(definition: DatasetDefinition) -> list[str]:
    """What a definition would run that does not come with the library, each as the name and the file it is in."""
    names = [name for name in _names(definition) if not _comes_with_the_library(name)]
    places = {name: _find(_module_of(name)) for name in names}
    return [f"{name} ({'not found' if place is None else place.source})" for name, place in places.items()]


def our_modules(definition: DatasetDefinition) -> list[str]:
    """Modules of the reader and of the stages that lie in the library or in a dataset's folder."""
    modules = (_module_of(name) for name in _names(definition))
    return sorted({module for module in modules if module.startswith(f"{_LIBRARY}.")})


def _names(definition: DatasetDefinition) -> list[str]:
    readers = dict.fromkeys([definition.reader, *map(definition.reader_of, definition.splits)])
    judge = definition.evaluation.code
    named = [*readers, *dict.fromkeys(entry.stage for entry in definition.stages)]
    return named if judge is None else [*named, judge]


def _module_of(name: str) -> str:
    return stage_path(name).partition(":")[0]


def _own(module: str) -> str:
    """The folder or package that a module's helpers lie in."""
    depth = 3 if module.startswith(f"{_DATASETS}.") else 2 if module.startswith(f"{_LIBRARY}.") else 1
    return ".".join(module.split(".")[:depth])


def _comes_with_the_library(name: str) -> bool:
    place = _find(_module_of(name))
    source = None if place is None else place.source
    return source is not None and any(source.is_relative_to(folder) for folder in _SHIPPED)


def _closure(module: str, name: str) -> dict[str, SourceCode]:
    own = _own(module)
    found: dict[str, SourceCode] = {}
    queue = list(_with_packages(module, own))
    while queue:
        current = queue.pop()
        place = _find(current)
        if current == module and (place is None or place.source is None):
            raise IngestError(
                f"{name!r} is neither a built-in stage nor an importable package.module:name; correct the file that "
                "names it."
            )
        if current in found or place is None or place.source is None:
            continue  # seen, or an attribute, or a folder without code
        package = current if place.folders else current.rpartition(".")[0]
        found[current] = read_source(place.source, package)
        queue += [part for each in found[current].imports for part in _with_packages(each, own)]
    return found


def _with_packages(name: str, own: str) -> Iterator[str]:
    """The module, and the packages of the same folder whose ``__init__`` runs before it."""
    while name == own or name.startswith(f"{own}."):
        yield name
        name = name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Found:
    """A module on disk: its source, if it has one, and the folders of its sub-modules, if it is a package."""

    source: Path | None
    folders: tuple[Path, ...]


def _find(name: str) -> _Found | None:
    """Where a module lies, found without importing it or its package."""
    parent, _, leaf = name.rpartition(".")
    if not parent:
        return _find_top(name)
    if parent == _DATASETS:
        places = posecore.datasets.search_path()
    else:
        above = _find(parent)
        places = () if above is None else above.folders
    for place in places:
        if (place / leaf / "__init__.py").is_file():
            return _Found(place / leaf / "__init__.py", (place / leaf,))
        if (place / f"{leaf}.py").is_file():
            return _Found(place / f"{leaf}.py", ())
    folders = tuple(place / leaf for place in places if (place / leaf).is_dir())
    return _Found(None, folders) if leaf and folders else None


def _find_top(name: str) -> _Found | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None) if name else None
        if spec is not None:
            source = Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
            return _Found(source, tuple(Path(place) for place in spec.submodule_search_locations or ()))
    return None


def _distributions(modules: Iterable[SourceCode]) -> tuple[str, ...]:
    top = {name.partition(".")[0] for source in modules for name in source.imports} - set(sys.stdlib_module_names)
    found = {f"{name}=={version(name)}" for each in top - {_LIBRARY} for name in _installed().get(each, ())}
    if _LIBRARY in top:  # which an editable installation does not list
        found.add(f"{_LIBRARY}=={posecore.__version__}")
    return tuple(sorted(found))


@lru_cache(maxsize=1)
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()
