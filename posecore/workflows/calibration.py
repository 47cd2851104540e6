"""Finding out on a held-out split how sure a model's answers are, and writing it into the model's card."""

from collections.abc import Sequence

from posecore.codecs.scene import SceneReading
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.protocols import meant_answers
from posecore.evaluation.traits import Traits
from posecore.evaluation.uncertainty import check_units, fit_uncertainty
from posecore.models.pose_model import HeatmapPath, PoseModel
from posecore.models.saving import replace_card, weights_digest
from posecore.models.uncertainty import HeadUncertainty
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath, as_path

LEVEL = 0.9
"""What radii promise unless something else is asked for."""


def calibrate(
    folder: str | AnyPath,
    model: PoseModel,
    store: ShardStore,
    *,
    head: str | None = None,
    level: float = LEVEL,
    pictures: bool = False,
    path: HeatmapPath = "regression",
    batch_size: int = InferenceSettings().batch_size,
    reading: SceneReading | None = None,
) -> Sequence[HeadUncertainty]:
    """Fits to a split what a model's answers on others like it are worth, with and without a flip test.

    Args:
        folder: of the saved model, whose card will say what was found.
        model: the same, read, on the device that is to answer.
        store: a split that the model has not learned from.
        head: who answers; None takes the head of the store's dataset.
        level: probability of the radii.
        pictures: see :func:`~posecore.evaluation.uncertainty.fit_uncertainty`.
        path: where heatmaps come from.
        batch_size: crops per forward pass, or pictures with as many pixels.
        reading: how outputs of whole pictures are read, then and whenever the promise is to hold.

    Raises:
        EvaluationError: the model has no such head, no point is labelled, or the units are too few.
        ConfigError: outputs of the head do not say how sure they are.
        CheckpointError: the card cannot be written.
    """
    folder, manifest = as_path(folder), store.manifest
    definition, head = manifest.definition, head or manifest.dataset
    truth, traits = GroundTruth.from_store(store), Traits.from_store(store)
    data = f"{manifest.dataset} {manifest.split}"
    check_units(truth, traits, level, pictures, data)
    reading = reading or SceneReading()
    found, weights = [], weights_digest(folder)
    for flip_test in (False, True):
        settings = InferenceSettings(
            uncertainty=True,
            flip_test=flip_test,
            path=path,
            batch_size=batch_size,
            grouping=reading.grouping,
            selection=reading.selection,
        )
        predictions, pairs = predict_store(model, store, settings, head=head), None
        if model.config.whole_scenes:
            pairs = meant_answers(definition.evaluation, definition.skeleton, truth, predictions)
        fitted = fit_uncertainty(
            truth,
            predictions,
            traits,
            points=model.card.points_of(head, definition.skeleton.union_names),
            level=level,
            pictures=pictures,
            pairs=pairs,
            head=head,
            weights=weights,
            flip_test=flip_test,
            path=path,
            data=data,
            digest=manifest.digest,
        )
        said = {"points": model.skeletons[head].names, "reading": model.card.heeded(head, reading)}
        found.append(fitted.model_copy(update=said))
    replaced = [each.made_by for each in found]
    kept = [each for each in model.card.uncertainty if each.made_by not in replaced]
    model.card = model.card.model_copy(update={"uncertainty": (*kept, *found)})
    replace_card(folder, model.card)
    return found
