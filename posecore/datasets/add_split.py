"""A further split of a set that there is: what came back of a labelling tool, in the form of that tool."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from posecore.config import NAME_PATTERN, parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import is_shipped, read_pool
from posecore.datasets.new import place_images
from posecore.datasets.recognise import Found
from posecore.errors import DatasetError, PoseCoreError
from posecore.formats.named_points import TOUCHED
from posecore.schema import Json, Record, Reject
from posecore.storage import write_atomically
from posecore.strict_yaml import parse_yaml
from posecore.videos.address import parse_frame_address


@dataclass(slots=True, kw_only=True)
class AddedSplit:
    """A split that is about to be written.

    Attributes:
        name: of the split.
        values: as ``dataset.yaml`` has it.
        definition: the set with it.
        num_pictures: read.
        num_bodies: in them.
        num_touched: points that a person has set or moved.
        num_corrected: bodies that have such points.
        left_out: rejects by reason.
    """

    name: str
    values: dict[str, Json]
    definition: DatasetDefinition
    num_pictures: int = 0
    num_bodies: int = 0
    num_touched: int = 0
    num_corrected: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def line(self) -> str:
        """The entry below ``splits:``, without its indentation."""
        text = yaml.safe_dump(self.values, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
        return f"{self.name}: {text.strip()}"


def propose_split(
    definition: DatasetDefinition, found: Found, name: str, root: Path, use: str, images: str = ""
) -> AddedSplit:
    """Reads what came back as a split of a set, all of it.

    Args:
        definition: the set.
        found: what :func:`~posecore.datasets.recognise.recognise` says of the files.
        name: of the split.
        root: of the set's download; the files lie below it.
        use: what the split is for: ``train``, ``eval`` or ``any``.
        images: folder of pictures or films below that of the files, where it is not found by itself.

    Raises:
        DatasetError: the set has a split of that name, the files lie elsewhere, are several splits, have other points,
            or hold no body that can be read.
    """
    if name in definition.splits:
        raise DatasetError(f"{definition.name} has a split {name!r} already; give another name.")
    if not re.fullmatch(NAME_PATTERN, name):
        raise DatasetError(f"{name!r} is no name of a split: letters, digits, _, . and -, and no dot in front.")
    below = _below(found.root, root)
    (place, split), *others = found.splits.items()
    if others:
        raise DatasetError(f"{found.root} is several splits ({', '.join(found.splits)}); give the file of one of them.")
    _check_points(definition, found)
    place_images(found, images)
    options = {**found.reader_options, **split.options}
    options |= {"part": place} if found.reader.endswith(":YoloPoseReader") else {}
    pictures = (below / split.images).as_posix() if split.images or below != Path() else ""
    values: dict[str, Json] = {"annotations": (below / split.annotations).as_posix()}
    values |= {"images": pictures} if pictures not in ("", ".") else {}
    values |= {"use": use, "reader": found.reader} | ({"options": options} if options else {})
    added = AddedSplit(name=name, values=values, definition=_with(definition, name, values))
    is_film = False
    for item in read_pool(added.definition, name, root):
        if isinstance(item, Reject):
            added.left_out[item.reason] += 1
            continue
        is_film |= parse_frame_address(item.image) is not None
        _count(added, item)
    if not added.num_bodies:
        why = ", ".join(f"{reason}: {count}" for reason, count in added.left_out.most_common(3))
        raise DatasetError(f"{found.root} holds no body that can be read{f' ({why})' if why else ''}.")
    if is_film and "video_frames" not in [entry.stage for entry in definition.stages]:
        raise DatasetError(f"{found.root} names frames of films; add the stage video_frames to {definition.name}.")
    return added


def write_split(added: AddedSplit) -> Path | None:
    """Adds the split to its ``dataset.yaml`` and leaves all else there as it is; returns the file.

    Returns:
        None where the file is laid out so that a line cannot be put in, or comes with the library: the line is then for
        a person to put where it belongs.
    """
    path = added.definition.folder / "dataset.yaml"
    if is_shipped(added.definition.folder) or not path.is_file():
        return None
    text = _inserted(path.read_text("utf-8"), added.line)
    if text is None:
        return None
    try:
        splits = parse_yaml(text)["splits"]
    except (yaml.YAMLError, PoseCoreError, KeyError, TypeError):
        return None
    if list(splits) != list(added.definition.splits) or splits[added.name] != added.values:
        return None
    write_atomically(path, text.encode())
    return path


def _below(folder: Path, root: Path) -> Path:
    try:
        return folder.resolve().relative_to(root.resolve())
    except ValueError:
        raise DatasetError(
            f"{folder} is not below {root}, where the set lies; move it there: paths of all splits are relative to it."
        ) from None


def _check_points(definition: DatasetDefinition, found: Found) -> None:
    names = definition.skeleton.names
    if (set(found.names) != set(names)) if found.is_named else (len(found.names) != len(names)):
        raise DatasetError(
            f"{found.root} has the points {', '.join(found.names)}; {definition.name} has {', '.join(names)}."
        )


def _with(definition: DatasetDefinition, name: str, values: dict[str, Json]) -> DatasetDefinition:
    splits = {one: split.model_dump() for one, split in definition.splits.items()} | {name: values}
    whole = definition.model_dump() | {"splits": splits, "folder": definition.folder}
    return parse_config(whole, DatasetDefinition, origin=f"{definition.name} with {name}")


def _count(added: AddedSplit, record: Record) -> None:
    added.num_pictures += 1
    added.num_bodies += len(record.instances)
    touched: list[Sequence[str]] = [body.extras[TOUCHED] for body in record.instances if body.extras.get(TOUCHED)]
    added.num_corrected += len(touched)
    added.num_touched += sum(map(len, touched))


def _inserted(text: str, line: str) -> str | None:
    """The text with a line at the end of its block ``splits:``; None if there is no such block."""
    lines = text.splitlines(keepends=True)
    start = next((row for row, one in enumerate(lines) if re.fullmatch(r"splits:\s*(#.*)?\n?", one)), None)
    if start is None:
        return None
    end = start + 1
    for row in range(start + 1, len(lines)):
        if re.match(r"[^\s#]", lines[row]):
            break
        if lines[row].strip():
            end = row + 1
    first = next((one for one in lines[start + 1 : end] if re.match(r" +[^\s#]", one)), None)
    if first is None:
        return None
    indent = first[: len(first) - len(first.lstrip())]
    before = [*lines[: end - 1], lines[end - 1].rstrip("\n") + "\n"]
    return "".join([*before, f"{indent}{line}\n", *lines[end:]])
