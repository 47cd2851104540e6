"""Dataset definitions and their discovery.

The top-level ``datasets/`` folder is appended to this package's path, so that ``posecore.datasets.<name>.reader`` is
the module of ``datasets/<name>/reader.py`` in an editable install, a wheel and a Ray job alike, while the bare name
``datasets`` stays Hugging Face's. The check below is needed: in a wheel the neighbour folder of that name is Hugging
Face's own package. Folders on ``POSECORE_DATASETS`` are appended likewise.
"""

import os
from pathlib import Path

_NEIGHBOUR = Path(__file__).resolve().parents[2] / "datasets"
if any(_NEIGHBOUR.glob("*/dataset.yaml")):
    __path__.append(str(_NEIGHBOUR))


def search_path() -> tuple[Path, ...]:
    """Folders that hold dataset folders: the shipped ones, then those on ``POSECORE_DATASETS`` as it is now."""
    for text in os.environ.get("POSECORE_DATASETS", "").split(os.pathsep):
        folder = str(Path(text).resolve())
        if text and folder not in __path__:
            __path__.append(folder)
    return tuple(Path(folder) for folder in __path__)


search_path()
