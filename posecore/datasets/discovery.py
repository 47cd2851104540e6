"""From a dataset's name to its definition, its reader and its records. A folder with a ``dataset.yaml`` is enough."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from posecore.config import parse_config, place_in_yaml, read_yaml
from posecore.datasets import search_path
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.partition import name_subjects
from posecore.errors import DatasetError, PoseCoreError, failing_line, said
from posecore.formats.reader import COMMON_OPTIONS, Reader, ReaderOfParts, Source
from posecore.nearest import did_you_mean
from posecore.schema import Record, Reject
from posecore.skeletons.library import load_skeleton
from posecore.storage import AnyPath, as_path


def dataset_folders() -> dict[str, Path]:
    """Every dataset folder by name, sorted: the shipped ones and those on ``POSECORE_DATASETS``.

    Raises:
        DatasetError: two folders of the same name are on the search path, or one of the variable's is not there.
    """
    folders: dict[str, Path] = {}
    for place in search_path():
        if not place.is_dir():
            raise DatasetError(f"POSECORE_DATASETS names {place}, and there is no such folder; correct or unset it.")
        for yaml_path in place.glob("*/dataset.yaml"):
            folder = yaml_path.parent
            if folder.name in folders:
                raise DatasetError(
                    f"dataset {folder.name} exists twice, in {folders[folder.name]} and {folder}; rename one."
                )
            folders[folder.name] = folder
    return dict(sorted(folders.items()))


def is_shipped(folder: Path) -> bool:
    """Whether a definition's folder comes with the library, and is not a user's to change."""
    package = Path(__file__).parent
    return any(place in folder.resolve().parents for place in (package, package.parents[1] / "datasets"))


def load_dataset(name_or_path: str | Path) -> DatasetDefinition:
    """Reads a dataset definition and resolves its skeleton.

    Args:
        name_or_path: a name :func:`dataset_folders` knows, or the path of a YAML file.

    Raises:
        DatasetError: no such dataset, or its skeleton is unknown; the message suggests the closest name.
        ConfigError: the YAML is wrong; the message names the field.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return _parse_definition(Path(text))
    folders = dataset_folders()
    if text not in folders:
        raise DatasetError(f"unknown dataset {text!r}.{_suggest(text, folders)}")
    definition = _parse_definition(folders[text] / "dataset.yaml")
    if definition.name != text:
        raise DatasetError(
            f"{folders[text] / 'dataset.yaml'}: name is {definition.name!r}, but the folder is {text!r}."
        )
    return definition


def load_reader(definition: DatasetDefinition, split: str | None = None) -> Reader:
    """Imports and constructs the reader a definition names.

    Args:
        definition: the dataset.
        split: whose reader, where one has its own; None is that of the others.

    Raises:
        DatasetError: the module or the class cannot be had, or the definition gives it an option that it does not
            have; the message says which and why.
    """
    search_path()
    named = definition.reader if split is None else definition.reader_of(split)
    module_name, _, class_name = named.partition(":")
    where = f"dataset {definition.name}: reader {named!r}"
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever somebody's module does when it is imported
        raise DatasetError(f"{where} cannot be imported{failing_line(error)}: {said(error)}.") from error
    reader_class = getattr(module, class_name, None)
    if not isinstance(reader_class, type) or not callable(getattr(reader_class, "read", None)):
        raise DatasetError(f"{where}: {module_name} has no class {class_name} with a method read.")
    _check_options(definition, named, reader_class)
    reader: Reader = reader_class()
    return reader


def source_for(definition: DatasetDefinition, split: str, root: str | AnyPath) -> Source:
    """What the reader is told of one split of a download.

    Args:
        definition: the dataset.
        split: a split of the definition.
        root: folder of the download, local or any fsspec URL.

    Raises:
        DatasetError: the definition has no such split.
    """
    if split not in definition.splits:
        raise DatasetError(f"dataset {definition.name} has no split {split!r}.{_suggest(split, definition.splits)}")
    part = definition.splits[split]
    return Source(
        dataset=definition.name,
        split=split,
        root=as_path(root),
        annotations=part.annotations,
        images=part.images,
        skeleton=definition.skeleton,
        area_rule=definition.area_rule,
        license=definition.license.id,
        options=definition.options_of(split),
    )


def parts_of_split(definition: DatasetDefinition, split: str, root: str | AnyPath) -> tuple[str, ...] | None:
    """Names of what can be read apart of one split, in order, or None where it is read as a whole.

    Raises:
        DatasetError: as :func:`read_split`.
    """
    source = source_for(definition, split, root)
    reader = load_reader(definition, split)
    if not isinstance(reader, ReaderOfParts):
        return None
    return tuple(reader.parts(source))


def read_split(definition: DatasetDefinition, split: str, root: str | AnyPath) -> Iterator[Record | Reject]:
    """Records and rejects of one split, in the reader's stable order: subjects named, and only its part of the pool.

    Args:
        definition: the dataset.
        split: a split of the definition.
        root: folder of the download.

    Raises:
        DatasetError: the split or the reader is unknown, a file of the download is missing or malformed, or subjects
            cannot be named or divided as the definition says.
    """
    read = partial(read_pool, definition, split, root)
    stated = definition.splits.get(split)  # of a split that there is not, reading says so
    if stated is None or stated.partition is None:
        return read()
    # Imported here because polars and scipy take half a second, which whoever divides nothing should not wait for.
    from posecore.datasets.division import take_part

    return take_part(read, stated.partition, f"{definition.name} {split}")


def read_pool(
    definition: DatasetDefinition, split: str, root: str | AnyPath, parts: Sequence[str] | None = None
) -> Iterator[Record | Reject]:
    """As :func:`read_split`, but of a pool that the split is a part of, all of it.

    Args:
        definition: the dataset.
        split: a split of the definition.
        root: folder of the download.
        parts: only these of :func:`parts_of_split`; None is all.

    Raises:
        DatasetError: as :func:`read_split`, but for how the pool is divided.
    """
    source = source_for(definition, split, root)
    reader = load_reader(definition, split)
    if parts is None:
        items = reader.read(source)
    else:
        assert isinstance(reader, ReaderOfParts), reader
        items = chain.from_iterable(reader.read_part(source, part) for part in parts)
    items = _with_place(items, f"{definition.name} {split}: reader {definition.reader_of(split)}")
    if definition.subjects is None:
        return items
    return name_subjects(items, definition.subjects, f"{definition.name} {split}")


def _with_place(items: Iterable[Record | Reject], where: str) -> Iterator[Record | Reject]:
    """What a reader yields; a failure of its own is named with file and line."""
    try:
        yield from items
    except PoseCoreError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{where} failed{failing_line(error)}: {said(error)}; it owes a Reject for what it cannot take over."
        ) from error


def _check_options(definition: DatasetDefinition, reader: str, reader_class: type) -> None:
    known = COMMON_OPTIONS | frozenset(getattr(reader_class, "options", ()))
    given = {"reader_options": definition.reader_options} if reader == definition.reader else {}
    given |= {
        f"options of split {name}": split.options
        for name, split in definition.splits.items()
        if definition.reader_of(name) == reader
    }
    for where, options in given.items():
        for option in options:
            if option not in known:
                raise DatasetError(
                    f"dataset {definition.name}: {where}: {reader} has no option {option!r}."
                    f"{_suggest(option, sorted(known))} A reader names its options in its class attribute `options`."
                )


def _parse_definition(path: Path) -> DatasetDefinition:
    values = read_yaml(path)
    if isinstance(values.get("skeleton"), str):
        try:
            values["skeleton"] = load_skeleton(values["skeleton"])
        except DatasetError as error:
            raise DatasetError(f"{path}: skeleton: {error}{place_in_yaml(str(path), ['skeleton'])}") from None
    return parse_config({**values, "folder": path.resolve().parent}, DatasetDefinition, origin=str(path))


def _suggest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return f"{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}."
