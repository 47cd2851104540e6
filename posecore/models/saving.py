"""Models on disk: ``model.safetensors`` with the weights, ``model.json`` with everything else.

``model.json`` is written last and holds the hash of the weights, so a folder is a whole model or none. Neither file
can run code when it is read.
"""

import hashlib
import json
from collections.abc import Mapping

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from posecore.config import parse_config
from posecore.errors import CheckpointError, IntegrityError
from posecore.models.architecture import ModelCard
from posecore.models.pose_model import PoseModel
from posecore.storage import AnyPath, as_path, write_atomically

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
FORMAT = 1


def save_model(model: PoseModel, folder: str | AnyPath) -> AnyPath:
    """Writes a model folder.

    Args:
        model: its :attr:`~PoseModel.card` says what is written beside the weights.
        folder: is created; a model in it is replaced.

    Returns:
        The folder.
    """
    folder = as_path(folder)
    (folder / CARD_FILE).unlink(missing_ok=True)
    weights = save_tensors({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    write_atomically(folder / WEIGHTS_FILE, weights)
    value = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "card": model.card.model_dump(mode="json"),
    }
    write_atomically(folder / CARD_FILE, json.dumps(value, indent=1).encode())
    return folder


def load_model(folder: str | AnyPath) -> PoseModel:
    """Reads a model folder; the model comes in evaluation mode.

    Raises:
        CheckpointError: there is no whole model in the folder, or its weights are of another architecture.
        IntegrityError: the weights are not those that were saved.
    """
    folder = as_path(folder)
    card, sha256 = _read_card(folder)
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no whole model: {WEIGHTS_FILE} is missing.") from None
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise IntegrityError(f"{folder / WEIGHTS_FILE} is not the file that was saved (hashes differ); copy it again.")
    model = PoseModel(card)
    try:
        tensors = load_tensors(weights)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} is not a safetensors file ({error}).") from None
    load_weights(model, tensors, origin=str(folder / WEIGHTS_FILE))
    return model.eval()


def load_outline(folder: str | AnyPath) -> PoseModel:
    """A saved model without its weights, on the meta device: takes no memory and computes nothing.

    Raises:
        CheckpointError: there is no model in the folder.
        IntegrityError: its card is damaged.
    """
    card, _ = _read_card(as_path(folder))
    with torch.device("meta"):
        return PoseModel(card).eval()


def _read_card(folder: AnyPath) -> tuple[ModelCard, str]:
    """The card, and the SHA-256 of the weights that belong to it."""
    try:
        value = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no whole model: {CARD_FILE} is missing.") from None
    except ValueError:
        raise IntegrityError(f"{folder / CARD_FILE} is not readable as JSON; copy the model again.") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CARD_FILE} is not a model card of format {FORMAT}; was it written by posecore?"
        )
    return parse_config(value["card"], ModelCard, origin=str(folder / CARD_FILE)), value["weights_sha256"]


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copies tensors into a module if, and only if, names and shapes are exactly the module's.

    Args:
        module: receives the weights.
        tensors: by state-dict name.
        origin: where they come from, for the error message.

    Raises:
        CheckpointError: one sentence naming what is missing, unexpected or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems = [
        ("missing", [name for name in expected if name not in tensors]),
        ("unexpected", [name for name in tensors if name not in expected]),
        (
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {shape}"
                for name, shape in expected.items()
                if name in tensors and tuple(tensors[name].shape) != shape
            ],
        ),
    ]
    found = [f"{kind}: {_shortened(names)}" for kind, names in problems if names]
    if found:
        raise CheckpointError(f"{origin} belongs to another architecture; {'; '.join(found)}.")
    module.load_state_dict(dict(tensors))


def _shortened(names: list[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
