"""The code of this library in one file that goes with every version: it loads where there is no clone, and runs again.

No package index is asked for it, where anybody could put something of that name.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import posecore
from posecore.errors import LineageError

ARCHIVE_FILE = "posecore.zip"
"""Name of the file among a version's."""
_ROOT = Path(posecore.__file__).resolve().parents[1]
_FOLDERS = ("posecore", "pipelines", "datasets")
_SUFFIXES = (".py", ".yaml", ".json", ".j2", ".md")
_WRITTEN = (1980, 1, 1, 0, 0, 0)  # a zip has no earlier time; equal code is an equal file
_MOST_BYTES = 256 << 20


def write_archive(path: Path) -> None:
    """Packs library, jobs and dataset definitions, as they lie in a source tree; the same bytes for the same code."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(_files()):
            archive.writestr(zipfile.ZipInfo(name, _WRITTEN), file.read_bytes(), zipfile.ZIP_DEFLATED)


def unpack_archive(path: Path, folder: Path) -> None:
    """Unpacks what :func:`write_archive` wrote.

    Args:
        path: the archive.
        folder: made if there is none.

    Raises:
        LineageError: it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [Path(entry.filename) for entry in entries]
            foreign = [
                name for name in names if name.is_absolute() or ".." in name.parts or name.parts[0] not in _FOLDERS
            ]
            if foreign or sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise LineageError(f"{path}: it is no archive of this library; do not use it.")
            archive.extractall(folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise LineageError(f"{path}: the code cannot be unpacked ({error}).") from None


def _files() -> Iterator[tuple[str, Path]]:
    """Name in the archive, and file."""
    for folder in _FOLDERS:
        if folder == "datasets" and not any((_ROOT / folder).glob("*/dataset.yaml")):
            continue  # in a wheel they lie in the package, and the folder of that name is somebody else's
        for file in (_ROOT / folder).rglob("*"):
            if file.suffix in _SUFFIXES and file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(_ROOT).as_posix(), file
