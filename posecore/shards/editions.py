"""Every edition of a split that ever was: its tables and manifest, kept under its digest when it is ingested again.

``<split>/editions/<digest>/`` holds what ``manifest.json`` and the tables beside the tars were when that edition was
published, so that lineage can say what a model has seen long after the shards have changed. Locally the files are hard
links, which take no room while the edition is the present one.
"""

import os
from pathlib import Path

from posecore.errors import IntegrityError
from posecore.shards.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from posecore.storage import AnyPath

EDITIONS_NAME = "editions"
_DIGITS = 32


def keep_edition(folder: AnyPath, manifest: Manifest) -> None:
    """Keeps the tables that lie in a split's folder, and the manifest, which is written last."""
    kept = edition_folder(folder, manifest.digest)
    kept.mkdir(parents=True, exist_ok=True)
    for name in manifest.files:
        source, target = folder / name, kept / name
        if isinstance(source, Path):
            target.unlink(missing_ok=True)
            os.link(source, target)
        else:
            assert not isinstance(target, Path), target
            source.fs.copy(source.path, target.path)
    write_manifest(kept, manifest)


def edition_folder(folder: AnyPath, digest: str) -> AnyPath:
    """Where an edition is kept."""
    return folder / EDITIONS_NAME / digest[:_DIGITS]


def find_edition(folder: AnyPath, digest: str) -> AnyPath:
    """The folder with the tables of one edition of a split: the split's own, or where it is kept.

    Args:
        folder: of the split.
        digest: of the edition's manifest.

    Raises:
        IntegrityError: the edition is not there, or was altered.
    """
    problem = "there is no such edition"
    for place in (folder, edition_folder(folder, digest)):
        try:
            if read_manifest(place).digest == digest:
                return place
        except IntegrityError as error:
            problem = str(error)
    raise IntegrityError(
        f"{folder}: no edition of this split with digest {digest[:12]} is kept ({problem.removesuffix('.')}); bring "
        f"back its {MANIFEST_NAME} and tables, as {edition_folder(folder, digest)}."
    )
