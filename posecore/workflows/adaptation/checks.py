"""What an adaptation refuses: sets the parent knows nothing of, and labels nothing can be learned from."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from posecore.counting import counted
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError, DatasetError
from posecore.labels.bodies import LabelledBodies
from posecore.shards.store import open_store
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.data_steps import Split
from posecore.workflows.fetched_model import FetchedModel

FEWEST_INSTANCES = 4
"""Labelled bodies in the target's train split below which nothing can be learned, or told from chance."""


def check_roles(config: AdaptationJob, definitions: Mapping[str, DatasetDefinition], parent: FetchedModel) -> None:
    """Refuses sets that the parent knows nothing of.

    Raises:
        ConfigError: the target shares no point with the parent (unless a fresh head is allowed) or clashes with one of
            its heads, a kept set has no head of the parent's, or two sets' points differ that one head must answer.
    """
    model, target = parent.model, definitions[config.target].skeleton
    if not model.skeletons:
        raise ConfigError("parent: it is a backbone without any head; train one with multidataset_train.py first.")
    if config.target in model.skeletons and model.skeletons[config.target].union_names != target.union_names:
        raise ConfigError(
            f"target: the parent has a head {config.target!r} with other points; give the entry another name."
        )
    known = {name for skeleton in model.skeletons.values() for name in skeleton.union_names}
    if not (config.allow_fresh_head or known.intersection(target.union_names)):
        raise ConfigError(
            f"target: {config.target} has the points {_shortened(target.union_names)}, none of which the parent knows "
            f"(its heads: {', '.join(model.skeletons)}); take a parent with a common point; where a "
            "point is one of those under another name, say so as its union in the skeleton; or set allow_fresh_head: "
            "true to keep what its backbone has learned under a head that begins at chance."
        )
    for entry in config.datasets:
        group, points = config.group_of(entry), definitions[entry.name].skeleton.union_names
        if group == "kept" and entry.answering_head not in model.skeletons:
            raise ConfigError(
                f"datasets.{entry.name}: the parent has no head {entry.answering_head!r} (it has "
                f"{', '.join(model.skeletons)}), so there is nothing to keep; name one with head, or leave it out."
            )
        asked = target if group != "kept" else model.skeletons[entry.answering_head]
        if points != asked.union_names:
            raise ConfigError(
                f"datasets.{entry.name}: its points are not those of the head {entry.answering_head!r} that must "
                "answer for it; leave it out, or give it a definition with the same points."
            )


def check_labels(target: Split) -> None:
    """Refuses labels from which nothing, or nothing of some joint, can be learned.

    Args:
        target: its train split; labels that corrections drop do not count.

    Raises:
        DatasetError: too few labelled bodies, or a point that is labelled nowhere.
    """
    bodies = LabelledBodies.from_store(open_store(target.location, corrections=target.corrections))
    refuse_unlearnable(target.entry.name, target.definition.skeleton.names, bodies.labelled)


def refuse_unlearnable(name: str, points: Sequence[str], labelled: Bool[np.ndarray, "N K"]) -> None:
    """Refuses a target from which nothing, or nothing of some joint, can be learned.

    Args:
        name: of the target.
        points: K names.
        labelled: whether a point of a body has a place.

    Raises:
        DatasetError: too few labelled bodies, or a point that is labelled nowhere.
    """
    count = int(labelled.any(axis=1).sum())
    if count < FEWEST_INSTANCES:
        raise DatasetError(
            f"target {name}: its train split has {counted(count, 'labelled body')}, fewer than the {FEWEST_INSTANCES} "
            "that a head can learn from; label more, or see in quarantine.parquet what its ingestion rejected."
        )
    never = [point for point, of_point in zip(points, labelled.T, strict=True) if not of_point.any()]
    if never:
        raise DatasetError(
            f"target {name}: {_shortened(never)} {'is' if len(never) == 1 else 'are'} labelled on no body of its train "
            "split, so no head could learn where; label some, or use a skeleton without."
        )


def _shortened(names: Sequence[str], limit: int = 5) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
