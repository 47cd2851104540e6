"""Skeletons by name: those that ship with the library, and one's own; one YAML file each, one line per point.

An own one lies in a folder of its name on ``POSECORE_DATASETS``: ``my_datasets/lab_mouse/skeleton.yaml`` is lab_mouse.
"""

import os
from functools import cache
from pathlib import Path

from posecore.config import parse_config, read_yaml
from posecore.errors import DatasetError
from posecore.nearest import did_you_mean
from posecore.skeletons.skeleton import Skeleton

_DEFINITIONS = Path(__file__).parent / "definitions"


@cache
def skeleton_names() -> tuple[str, ...]:
    """Names of the skeletons that ship with the library, sorted."""
    return tuple(sorted(path.stem for path in _DEFINITIONS.glob("*.yaml")))


def own_skeletons() -> dict[str, Path]:
    """Files of one's own skeletons by name, sorted."""
    places = [Path(text) for text in os.environ.get("POSECORE_DATASETS", "").split(os.pathsep) if text]
    return dict(sorted((path.parent.name, path) for place in places for path in place.glob("*/skeleton.yaml")))


def load_skeleton(name: str) -> Skeleton:
    """Reads one skeleton.

    Args:
        name: such as ``coco17``, or of an own one, or the path of a ``.yaml`` file; those that ship with the library
            keep their names.

    Raises:
        DatasetError: there is no skeleton of that name; the message suggests the closest and lists all.
        ConfigError: the file of an own one is wrong; the message names the field.
    """
    if name.endswith((".yaml", ".yml")):
        return parse_config(read_yaml(Path(name)), Skeleton, origin=name)
    if name not in skeleton_names() and (own := own_skeletons().get(name)) is not None:
        skeleton = parse_config(read_yaml(own), Skeleton, origin=str(own))
        if skeleton.name != name:
            raise DatasetError(f"{own}: name is {skeleton.name!r}, but the folder is {name!r}.")
        return skeleton
    return _shipped(name)


@cache
def _shipped(name: str) -> Skeleton:
    known = skeleton_names()
    if name not in known:
        known = tuple(dict.fromkeys((*known, *own_skeletons())))
        raise DatasetError(f"unknown skeleton {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    path = _DEFINITIONS / f"{name}.yaml"
    return parse_config(read_yaml(path), Skeleton, origin=str(path))
