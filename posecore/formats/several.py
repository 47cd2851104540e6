"""One set of bodies from several tools or places: one clinic's CVAT and another's SLEAP, under one head."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from posecore.config import Config, parse_config
from posecore.errors import DatasetError
from posecore.formats.reader import Reader, ReaderOfParts, Source
from posecore.schema import Json, Record, Reject


class SourceEntry(Config):
    """One of the sources.

    Attributes:
        reader: import path of its reader.
        annotations: file or folder, below the root.
        images: folder of its pictures, below the root.
        options: of its reader.
    """

    reader: str = Field(pattern=r"^[\w.]+:\w+$")
    annotations: str
    images: str = ""
    options: dict[str, Json] = {}


class SeveralOptions(Config):
    """``reader_options`` of several sources.

    Attributes:
        sources: by a name each, which their ids begin with; all have the points of the one skeleton.
    """

    sources: dict[str, SourceEntry] = Field(min_length=1)


class SeveralReader(ReaderOfParts):
    """Reads sources of different tools as one set; options are those of :class:`SeveralOptions`.

    Ids begin with the name of the source, so those of two sources may be the same. Names of subjects and videos are
    left alone: who is called the same in two sources is taken for the same.
    """

    options: ClassVar[frozenset[str]] = frozenset(SeveralOptions.model_fields)

    def parts(self, source: Source) -> list[str]:
        """The parts of each source, or the source where it has none."""
        found = []
        for name, (reader, of_one) in _sources(source).items():
            parts = reader.parts(of_one) if isinstance(reader, ReaderOfParts) else [""]
            found += [f"{name}:{part}" for part in parts]
        return found

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """What the source's own reader yields."""
        name, _, within = part.partition(":")
        reader, of_one = _sources(source)[name]
        items = reader.read_part(of_one, within) if isinstance(reader, ReaderOfParts) else reader.read(of_one)
        for item in items:
            yield _named(item, name)


def _sources(source: Source) -> dict[str, tuple[Reader, Source]]:
    where = f"{source.dataset} {source.split}: reader_options"
    options = parse_config(dict(source.options), SeveralOptions, origin=where)
    return {
        name: (
            _reader(entry, f"{where}: sources.{name}"),
            replace(source, annotations=entry.annotations, images=entry.images, options=entry.options),
        )
        for name, entry in options.sources.items()
    }


def _reader(entry: SourceEntry, where: str) -> Reader:
    module, _, name = entry.reader.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DatasetError(f"{where}: reader {entry.reader} cannot be had ({error}).") from None
    unknown = [option for option in entry.options if option not in getattr(found, "options", ())]
    if unknown:
        raise DatasetError(f"{where}: {entry.reader} has no option {unknown[0]!r}.")
    reader: Reader = found()
    return reader


def _named(item: Record | Reject, name: str) -> Record | Reject:
    prefix = f"{name}:"
    if isinstance(item, Reject):
        source_id, instance_id = (f"{prefix}{one}" if one else "" for one in (item.source_id, item.instance_id))
        return replace(item, source_id=source_id, instance_id=instance_id)
    bodies = [replace(body, id=f"{prefix}{body.id}") for body in item.instances]
    return replace(item, source_id=f"{prefix}{item.source_id}", instances=bodies)
