"""Whether a download has changed since it was ingested, told from names, sizes and modification times alone."""

import hashlib
import heapq
import os
from collections.abc import Iterator
from pathlib import Path

from posecore.datasets.definition import DatasetDefinition
from posecore.formats.files import relative_path
from posecore.storage import AnyPath, as_path


def stamp_source(definition: DatasetDefinition, split: str, root: str | AnyPath) -> str:
    """SHA-256 over name, size and time of every file a split is read from, as 64 hexadecimal digits.

    That is what its definition names: annotations, images, detections, and files that are options of the reader, such
    as another split's annotations.

    Costs a listing, about a second per hundred thousand local files. A file that is missing changes the stamp and is
    otherwise the reader's business.

    Args:
        definition: the dataset.
        split: name of a split of it.
        root: folder of the download.

    Raises:
        DatasetError: the definition names a place outside the download.
    """
    base = as_path(root)
    part = definition.splits[split]
    digest = hashlib.sha256()
    options = definition.options_of(split).values()
    named = {option for option in options if isinstance(option, str) and (base / option).is_file()}
    for relative in sorted({part.annotations, part.images, part.detections or part.annotations} | named):
        for line in sorted(_listing(base / relative_path(relative) if relative else base)):
            digest.update(f"{relative}\0{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _listing(place: AnyPath) -> Iterator[str]:
    if isinstance(place, Path):
        yield from _local_listing(place)
        return
    if not place.exists():
        return
    for name, facts in place.fs.find(place.path, detail=True).items():
        changed = facts.get("ETag") or facts.get("mtime") or facts.get("LastModified") or facts.get("created")
        yield f"{name}\0{facts.get('size')}\0{changed}"


def _local_listing(place: Path) -> Iterator[str]:
    if place.is_file():
        facts = place.stat()
        yield f"\0{facts.st_size}\0{facts.st_mtime_ns}"
        return
    folders = [str(place)] if place.is_dir() else []
    seen: set[tuple[int, int]] = set()
    while folders:
        folder = heapq.heappop(folders)  # in order, so that of two ways to a folder the same one is always taken
        facts = Path(folder).stat()
        if (facts.st_dev, facts.st_ino) in seen:  # a link back to a folder above would never end
            continue
        seen.add((facts.st_dev, facts.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir():
                        heapq.heappush(folders, entry.path)
                        continue
                    facts = entry.stat()
                    found = f"{facts.st_size}\0{facts.st_mtime_ns}"
                except OSError:  # a link to nothing, or to itself
                    found = "missing"
                yield f"{entry.path[len(str(place)) :]}\0{found}"
