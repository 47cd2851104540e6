"""Which architecture do these tensors belong to? Shapes are compared with every preset's, built without memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from posecore.config import parse_config
from posecore.conventions import LabelConventions
from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel
from posecore.models.presets import PRESETS
from posecore.models.weights.layout import Layout, Translated
from posecore.models.weights.published_heads import LABELS, SKELETONS
from posecore.nearest import choices
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Skeleton


@dataclass(frozen=True, slots=True)
class Fit:
    """How well tensors fit a preset.

    Attributes:
        preset: its name.
        card: the model it would be.
        differences: one phrase per tensor that is missing, unknown or of another shape; empty if it fits exactly.
    """

    preset: str
    card: ModelCard
    differences: tuple[str, ...]


def fit(
    translated: Translated, layout: Layout, origin: str, preset: str | None, skeletons: Mapping[str, Skeleton]
) -> Fit:
    """The preset whose model has exactly these tensors.

    Args:
        translated: a file in our words.
        layout: of the file.
        origin: the file, for error messages.
        preset: the only one allowed, or None for whichever fits.
        skeletons: by dataset, where a head's is not the published one.

    Raises:
        CheckpointError: no preset fits, or not the stated one; the sentence names the one that does or comes closest.
            Or a head has another number of points than its skeleton.
    """
    heads = _skeletons(translated.heads, skeletons, origin)
    if preset is not None and preset not in PRESETS:
        raise CheckpointError(f"no backbone preset is called {preset!r}.{choices(preset, PRESETS)}")
    possible = [
        name
        for name, fields in PRESETS.items()
        if fields["backbone"].kind == layout.backbone and name.startswith(layout.presets)
    ]
    names = [preset] if preset else possible
    best: Fit | None = None
    for name in names:
        found = _try(name, translated, heads)
        if found is not None and not found.differences:
            return found
        if found is not None and (best is None or len(found.differences) < len(best.differences)):
            best = found
    if preset is not None:
        other = fit(translated, layout, origin, None, skeletons)
        detail = f" ({_first_difference(best)})" if best else ""
        raise CheckpointError(f"{origin} holds the weights of {other.preset}, not of {preset}{detail}.")
    if best is None:
        raise CheckpointError(f"{origin}: no preset has a backbone of kind {layout.backbone} for these weights.")
    raise CheckpointError(f"{origin} fits no preset; the closest is {best.preset}: {_first_difference(best)}.")


def check_backbone(model: PoseModel, preset: str, origin: str) -> None:
    """Refuses a model of ours that is not of a preset.

    Raises:
        CheckpointError: its backbone has other tensors.
    """
    found = {name: tensor.shape for name, tensor in model.backbone.state_dict().items()}
    with without_memory():
        backbone = PRESETS[preset]["backbone"].build(model.input_size, list(model.heads))
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    if differing := [name for name in {**expected, **found} if expected.get(name) != found.get(name)]:
        raise CheckpointError(f"{origin} is not a {preset}: backbone.{differing[0]} differs.")


def _skeletons(heads: Mapping[str, int], stated: Mapping[str, Skeleton], origin: str) -> dict[str, Skeleton]:
    skeletons = {}
    for dataset, num_points in heads.items():
        if dataset not in stated and dataset not in SKELETONS:
            raise CheckpointError(f"{origin}: head {dataset!r} has {counted(num_points, 'point')}; state its skeleton.")
        skeleton = stated[dataset] if dataset in stated else load_skeleton(SKELETONS[dataset])
        if skeleton.num_keypoints != num_points:
            raise CheckpointError(
                f"{origin}: head {dataset!r} has {counted(num_points, 'point')}, but skeleton {skeleton.name} has "
                f"{skeleton.num_keypoints}; name the dataset this head was trained on."
            )
        skeletons[dataset] = skeleton
    return skeletons


def _try(preset: str, translated: Translated, skeletons: Mapping[str, Skeleton]) -> Fit | None:
    """How the tensors fit one preset, or None where the preset cannot even be built with what the tensors decide."""
    fields = dict(translated.architecture)
    fields["backbone"] = {"preset": preset, **fields.get("backbone", {})}
    try:
        architecture = parse_config(fields, ModelConfig, origin=preset)
        conventions = {
            dataset: architecture.of_head(dataset).on(LABELS.get(dataset, LabelConventions())) for dataset in skeletons
        }
        card = ModelCard(architecture=architecture, skeletons=dict(skeletons), conventions=conventions)
        with without_memory():
            expected = {name: tensor.shape for name, tensor in PoseModel(card).state_dict().items()}
    except ValueError:  # such as experts without a head, or an input size that is no multiple of the patch
        return None
    found = {name: tensor.shape for name, tensor in translated.tensors.items()}
    differences = [
        f"{name} is {_size(found[name])} instead of {_size(shape)}" if name in found else f"{name} is missing"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    differences += [f"{name} has no place" for name in found if name not in expected]
    return Fit(preset, card, tuple(differences))


def _size(shape: torch.Size) -> str:
    return "×".join(map(str, shape)) or "a number"


def _first_difference(found: Fit) -> str:
    more = len(found.differences) - 1
    return found.differences[0] + (f", and {counted(more, 'other difference')}" if more else "")
