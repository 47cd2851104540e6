"""Labels that contradict the proportions of their population."""

import numpy as np

from posecore.labels.bodies import LabelledBodies
from posecore.labels.plausibility import BodyScorer, Penalties, learn_from_labels
from posecore.labels.proportions import BodyStatistics
from posecore.labels.suspects import Suspect
from posecore.shards.store import ShardStore

LEAST_ENERGY = 1.5
"""Of a suspicious label, in nats; some 3 % of correct infant labels have as much (docs/label_check.md)."""


def proportions_of(store: ShardStore, bodies: LabelledBodies) -> BodyStatistics:
    """What the labels of a split say of its own population.

    Args:
        store: the split.
        bodies: its labelled bodies.

    Raises:
        DatasetError: the skeleton has no links, or too few bodies show enough of them.
        ConfigError: too few of its bones were ever seen.
    """
    manifest = store.manifest
    name = f"{manifest.dataset} {manifest.split}"
    skeleton = manifest.definition.skeleton
    return learn_from_labels(bodies.keypoints, bodies.labelled, skeleton, dataset=name, digest=manifest.digest)


def implausible_labels(scorer: BodyScorer, bodies: LabelledBodies, least_energy: float = LEAST_ENERGY) -> list[Suspect]:
    """Labels to look at, the worst first; of points in one place, both.

    Args:
        scorer: of the population.
        bodies: with the scorer's skeleton.
        least_energy: of a point, in nats; see :mod:`posecore.labels.plausibility`.
    """
    penalties = scorer.penalties(bodies.keypoints, bodies.labelled)
    energies = scorer.point_energies(bodies.keypoints, bodies.labelled)
    names, bones = scorer.skeleton.names, scorer.features.bones
    found = []
    slips = set()
    for body, bone in np.argwhere(penalties.one_place).tolist():
        for point, other in (bones[bone], bones[bone][::-1]):
            slips.add((body, int(point)))
            # No energy says how odd this is, and no other finding is as sure: it comes first.
            found.append(Suspect(int(bodies.rows[body]), int(point), np.inf, f"in the same place as {names[other]}"))
    with np.errstate(invalid="ignore"):
        odd = np.argwhere(energies >= least_energy).tolist()
    for body, point in odd:
        if (body, point) not in slips:
            reason = _reason(scorer, penalties, body, point)
            found.append(Suspect(int(bodies.rows[body]), point, float(energies[body, point]), reason))
    return sorted(found, key=lambda suspect: (-suspect.score, suspect.row, suspect.point))


def _reason(scorer: BodyScorer, penalties: Penalties, body: int, point: int) -> str:
    """The costliest feature that a point takes part in."""
    names, features = scorer.skeleton.names, scorer.features
    of_bones = np.where((features.bones == point).any(axis=1), penalties.bones[body], np.nan)
    of_angles = np.where((features.angles == point).any(axis=1), penalties.angles[body], np.nan)
    bone, angle = (
        (int(np.nanargmax(values)), float(np.nanmax(values))) if not np.isnan(values).all() else (-1, -np.inf)
        for values in (of_bones, of_angles)
    )
    if bone[1] >= angle[1]:
        one, other = features.bones[bone[0]]
        factor = np.exp(penalties.residuals[body, bone[0]])
        return f"{names[one]} to {names[other]} is {factor:.2f} times its usual length"
    one, vertex, other = features.angles[angle[0]]
    return f"the angle at {names[vertex]} from {names[one]} to {names[other]} is seldom seen"
