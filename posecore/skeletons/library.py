"""The skeletons that ship with the library: one YAML file each, one line per point."""

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from posecore.config import parse_config, read_yaml
from posecore.errors import DatasetError
from posecore.skeletons.skeleton import Skeleton

_DEFINITIONS = Path(__file__).parent / "definitions"


@cache
def skeleton_names() -> tuple[str, ...]:
    """Names that :func:`load_skeleton` knows, sorted."""
    return tuple(sorted(path.stem for path in _DEFINITIONS.glob("*.yaml")))


@cache
def load_skeleton(name: str) -> Skeleton:
    """Reads one shipped skeleton.

    Args:
        name: such as ``coco17``.

    Raises:
        DatasetError: there is no skeleton of that name; the message suggests the closest and lists all.
    """
    known = skeleton_names()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise DatasetError(f"unknown skeleton {name!r}.{hint} Known: {', '.join(known)}.")
    path = _DEFINITIONS / f"{name}.yaml"
    return parse_config(read_yaml(path), Skeleton, origin=str(path))
