"""Two registered versions on the sets that either was judged on: paired figures, and the pictures that moved most."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from posecore.errors import EvaluationError, IntegrityError, PoseCoreError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.clinical import can_judge, evaluate_clinic
from posecore.evaluation.clinical_comparison import ClinicalComparison, compare_clinic
from posecore.evaluation.image_units import units_of
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.oks import OFFICIAL
from posecore.evaluation.paired import Pair, PairedErrors, compare_metrics, compare_predictions
from posecore.evaluation.protocols import evaluate, of_resamples, scenes_problem
from posecore.evaluation.traits import Traits
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.difference import VersionDifference, VersionFacts
from posecore.lineage.versions.model_source import registered_model
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model
from posecore.shards.store import ShardStore, open_store
from posecore.viz.close_ups import ShownBody, side_by_side

_NONE = "null"  # as parameters write it


@dataclass(frozen=True, kw_only=True)
class ComparedSet:
    """Both versions on one set.

    Attributes:
        name: of the set.
        digest: of the split.
        metrics: of its own protocol: name → (first, second).
        precisions: of those, the ones with intervals.
        bodies: labelled ones.
        units: what was resampled as one → how many of them.
        paired: what the bodies allow to say of the difference; None where a version finds them in whole pictures.
        clinical: the same in torso lengths, where bodies have torsos and subjects or films names.
        better: annotation, first and second version of the bodies that gained most.
        worse: likewise of those that lost most.
    """

    name: str
    digest: str
    metrics: Mapping[str, tuple[float, float]]
    precisions: Mapping[str, Pair]
    bodies: int
    units: Mapping[str, int]
    paired: PairedErrors | None
    clinical: ClinicalComparison | None
    better: Sequence[ShownBody]
    worse: Sequence[ShownBody]


def judge_both(
    tracking: Tracking, difference: VersionDifference, settings: InferenceSettings, pictures: int
) -> tuple[list[ComparedSet], list[str]]:
    """Predicts with both versions, in this process, and compares.

    Args:
        tracking: the store.
        difference: of the two.
        settings: how predictions are made, alike for both.
        pictures: of the bodies that gained, and that lost, most on each set.

    Returns:
        The sets that could be compared, and why others could not, a sentence each.

    Raises:
        LineageError: the files of a version cannot be read.
    """
    found, unknown = [], []
    first, second = difference.first, difference.second
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with registered_model(first.version.uri, tracking) as a, registered_model(second.version.uri, tracking) as b:
        models = [load_model(folder).to(device) for folder in (a, b)]
        for name, digest, location in _judged_sets(first, second):
            try:
                store = _store_of(location, digest)
                heads = [_head(facts, name, model) for facts, model in zip((first, second), models, strict=True)]
                answers = [
                    predict_store(model, store, settings, head=head) for model, head in zip(models, heads, strict=True)
                ]
                scenes = any(model.config.whole_scenes for model in models)
                found.append(_compared(name, store, answers[0], answers[1], pictures, scenes))
            except (PoseCoreError, OSError) as error:
                unknown.append(f"{name} ({digest[:12]}) was not compared: {' '.join(str(error).split())}")
    return found, unknown


def _judged_sets(first: VersionFacts, second: VersionFacts) -> Iterator[tuple[str, str, str]]:
    """Name, digest and folder of every set either version was judged on."""
    places = {use.digest: use.location for use in (*first.datasets, *second.datasets) if use.location}
    judged = {(result.name, result.digest) for result in (*first.evaluations, *second.evaluations)}
    for name, digest in sorted(judged):
        yield name, digest, places.get(digest, "")


def _store_of(location: str, digest: str) -> ShardStore:
    if not location:
        raise IntegrityError("the record does not say where its shards are.")
    store = open_store(location)
    if store.manifest.digest != digest:
        raise IntegrityError(f"{location} holds another edition by now, {store.manifest.digest[:12]}.")
    return store


def _head(facts: VersionFacts, name: str, model: PoseModel) -> str:
    """The head of a version that answers for a set: the one its run file names, else the set's own."""
    stated = facts.parameters.get(f"datasets.{name}.head", _NONE)
    head = name if stated == _NONE else stated
    if head not in model.skeletons:
        raise EvaluationError(f"{facts.version.uri} has no head {head}; it has {', '.join(model.skeletons)}.")
    return head


def _compared(
    name: str, store: ShardStore, first: Predictions, second: Predictions, pictures: int, whole_scenes: bool
) -> ComparedSet:
    definition = store.manifest.definition
    if whole_scenes and (problem := scenes_problem(definition.evaluation)) is not None:
        raise EvaluationError(problem)
    truth, traits = GroundTruth.from_store(store), Traits.from_store(store)
    paired = None if whole_scenes else compare_predictions(truth, first, second, traits)
    units = units_of(truth, traits)
    metrics = [evaluate(definition.evaluation, definition.skeleton, truth, each) for each in (first, second)]
    measures = [of_resamples(definition.evaluation, definition.skeleton, truth, each) for each in (first, second)]
    precisions = {}
    if measures[0] is not None and measures[1] is not None:
        precisions = compare_metrics(measures[0], measures[1], units)
    clinical = None
    named = any(unit != "image" for unit, _ in traits.units())
    if paired is not None and named and can_judge(truth, definition.skeleton, definition.evaluation):
        results = [
            evaluate_clinic(truth, each, traits, definition.skeleton, definition.evaluation) for each in (first, second)
        ]
        clinical = compare_clinic(results[0], results[1])

    def shown(paired: PairedErrors, wanted: NDArray[np.int64]) -> list[ShownBody]:
        return [
            side_by_side(
                store,
                definition.skeleton,
                truth,
                (first, second),
                int(paired.truth_row[index]),
                f"{100 * paired.change[index]:+.0f} % of the box",
            )
            for index in wanted
        ]

    better: list[ShownBody] = []
    worse: list[ShownBody] = []
    if paired is not None:
        order = np.argsort(paired.change, kind="stable")
        better = shown(paired, order[:pictures][paired.change[order[:pictures]] < 0])
        worse = shown(paired, order[::-1][:pictures][paired.change[order[::-1][:pictures]] > 0])
    return ComparedSet(
        name=name,
        digest=store.manifest.digest,
        metrics=_side_by_side(*metrics),
        precisions=precisions,
        bodies=int(truth.labelled.sum()) if paired is None else paired.bodies,
        units=units.kinds if paired is None else {str(kind): count for kind, count in paired.units.items()},
        paired=paired,
        clinical=clinical,
        better=better,
        worse=worse,
    )


def _side_by_side(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Figures of both; where pycocotools' own is told of one alone, the other's is the same as without it."""
    pairs = {}
    for name in {**one, **other}:
        values = [metrics.get(name, metrics.get(name.removeprefix(OFFICIAL))) for metrics in (one, other)]
        if values[0] is not None and values[1] is not None:
            pairs[name] = (values[0], values[1])
    return pairs
