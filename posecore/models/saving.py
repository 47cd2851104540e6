"""Models on disk: ``model.safetensors`` with the weights, ``model.json`` with everything else.

``model.json`` is written last and holds the hash of the weights, so a folder is a whole model or none. Neither file
can run code when it is read.

A model that is there already is replaced by two steps: both files are written beside it, the card last, and then they
take the places of the old ones, the card last again. Until the new card lies beside the old model, that is the model;
from then on the new one is, and whoever reads the folder next finishes what was interrupted.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import safetensors
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from posecore.config import parse_config
from posecore.errors import CheckpointError, IntegrityError
from posecore.models.architecture import ModelCard
from posecore.models.finite import is_finite, refuse_nonfinite
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel
from posecore.models.tensor_file import Slot, write_tensor_file
from posecore.storage import AnyPath, as_path, read_at_most, sha256_of

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
MAX_CARD_BYTES = 64 << 20
FORMAT = 1
_NEXT_WEIGHTS, _NEXT_CARD, _PART_CARD = f".next.{WEIGHTS_FILE}", f".next.{CARD_FILE}", f".part.{CARD_FILE}"
_MAX_HEADER_BYTES = 100 << 20
"""As the safetensors format allows."""
_UNREADABLE = (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError)
"""The last four: from a type of numbers that the format has and torch does not."""
_NONFINITE_ADVICE = "the training that wrote it went wrong; use another."


def save_model(model: PoseModel, folder: str | AnyPath) -> AnyPath:
    """Writes a model folder; killed at any time, it leaves the model that was there, or this one.

    Args:
        model: its :attr:`~PoseModel.card` says what is written beside the weights.
        folder: is created; a model in it is replaced, for which there must be space beside it.

    Returns:
        The folder.

    Raises:
        CheckpointError: a weight is not finite, or the folder cannot be written; what was in it is still there.
    """
    state = model.state_dict()
    slots = [Slot(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()]
    return save_streamed(model.card, slots, state.__getitem__, folder)


def save_streamed(
    card: ModelCard, slots: Sequence[Slot], values: Callable[[str], Tensor], folder: str | AnyPath
) -> AnyPath:
    """Writes a model folder from tensors that come one at a time, as :func:`save_model` does.

    Args:
        card: what is written beside the weights.
        slots: the model's tensors.
        values: given a name, the tensor; it may be on any device.
        folder: see :func:`save_model`.

    Returns:
        The folder.

    Raises:
        CheckpointError: as :func:`save_model`.
    """
    folder = as_path(folder)
    bad: dict[str, Tensor] = {}

    def checked(name: str) -> Tensor:
        tensor = values(name)
        if not is_finite(tensor):
            bad[name] = tensor
        return tensor

    try:
        _finish_saving(folder)
        digest = hashlib.sha256()
        with _beside(folder / _NEXT_WEIGHTS) as file:

            def write(data: bytes | memoryview) -> None:
                digest.update(data)
                file.write(data)

            write_tensor_file(write, slots, checked)
            refuse_nonfinite(bad, f"the model for {folder}", "it is not saved; train again from a finite checkpoint.")
        _write_card(folder, card, digest.hexdigest())
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def replace_card(folder: str | AnyPath, card: ModelCard) -> None:
    """Writes another card beside the weights of a saved model; killed at any time, it leaves the old one or this.

    Raises:
        CheckpointError: there is no model in the folder, or it cannot be written.
        IntegrityError: its card is damaged.
    """
    folder = as_path(folder)
    _, sha256 = _read_card(folder)
    try:
        _write_card(folder, card, sha256)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_card(folder: AnyPath, card: ModelCard, sha256: str) -> None:
    """The last step of saving: what was found of other weights is left out."""
    card = card.model_copy(update={"uncertainty": tuple(each for each in card.uncertainty if each.weights == sha256)})
    value = {"format": FORMAT, "weights_sha256": sha256, "card": card.model_dump(mode="json")}
    with _beside(folder / _PART_CARD) as file:
        file.write(json.dumps(value, indent=1).encode())
    _replace(folder, _PART_CARD, _NEXT_CARD)
    _finish_saving(folder)


def _unwritable(folder: AnyPath, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder}: the model cannot be written ({error.strerror or error}), and what was there is left as it was; "
        "free some space or choose another folder."
    )


def holds_model(folder: str | AnyPath) -> bool:
    """Whether a whole model was saved in a folder; finishes saving it if that was interrupted.

    Raises:
        IntegrityError: it was, and the folder cannot be written.
    """
    folder = as_path(folder)
    try:
        _finish_saving(folder)
    except OSError as error:
        raise IntegrityError(
            f"{folder}: saving a model was interrupted and cannot be finished here ({error.strerror or error}); "
            "read it once where the folder can be written."
        ) from None
    return (folder / CARD_FILE).exists()


def load_model(folder: str | AnyPath) -> PoseModel:
    """Reads a model folder; the model comes in evaluation mode.

    Raises:
        CheckpointError: there is no whole model in the folder, its weights are of another architecture, or not finite.
            Nothing is allocated for an architecture that the file of weights is too small for.
        IntegrityError: the weights are not those that were saved.
        ConfigError: the card describes no model.
    """
    folder = as_path(folder)
    card, sha256 = _read_card(folder)
    weights = _read_weights(folder, card)
    _check_hash(folder, hashlib.sha256(weights).hexdigest(), sha256)
    try:
        tensors = load_tensors(weights)
    except _UNREADABLE as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} is not a safetensors file ({error}).") from None
    model = PoseModel(card)
    load_weights(model, tensors, origin=str(folder / WEIGHTS_FILE))
    return model.eval()


def verify_model(folder: Path) -> None:
    """Reads a saved model once, a tensor at a time, before it is handed on.

    Raises:
        CheckpointError: there is no whole model in the folder, or a weight is not finite.
        IntegrityError: the weights are not those that were saved.
    """
    _, sha256 = _read_card(folder)
    path = folder / WEIGHTS_FILE
    try:
        _check_hash(folder, sha256_of(path), sha256)
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 (it is no mapping)
            refuse_nonfinite(tensors, str(path), _NONFINITE_ADVICE)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no whole model: {WEIGHTS_FILE} is missing.") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}).") from None


def load_outline(folder: str | AnyPath) -> PoseModel:
    """A saved model without its weights, on the meta device: takes no memory and computes nothing.

    Raises:
        CheckpointError: there is no model in the folder.
        IntegrityError: its card is damaged.
    """
    card, _ = _read_card(as_path(folder))
    return _outline(card)


def read_card(folder: str | AnyPath) -> ModelCard:
    """The card of a saved model, without looking at its weights.

    Raises:
        CheckpointError: there is no model in the folder.
        IntegrityError: its card is damaged.
        ConfigError: the card describes no model.
    """
    return _read_card(as_path(folder))[0]


def weights_digest(folder: str | AnyPath) -> str:
    """SHA-256 of the weights that belong to a saved model's card, without looking at them.

    Raises:
        CheckpointError: there is no model in the folder.
        IntegrityError: its card is damaged.
    """
    return _read_card(as_path(folder))[1]


def _outline(card: ModelCard) -> PoseModel:
    with without_memory():
        return PoseModel(card).eval()


def _read_card(folder: AnyPath) -> tuple[ModelCard, str]:
    """The card, and the SHA-256 of the weights that belong to it."""
    holds_model(folder)
    path = folder / CARD_FILE
    try:
        value = json.loads(read_at_most(path, MAX_CARD_BYTES))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no whole model: {CARD_FILE} is missing.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError):
        raise IntegrityError(f"{path} is not readable as JSON; copy the model again.") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a model card of format {FORMAT}; was it written by posecore?")
    card, sha256 = value.get("card"), value.get("weights_sha256")
    if not isinstance(card, dict) or not isinstance(sha256, str):
        raise IntegrityError(f"{path} lacks the card or the hash of the weights; copy the model again.")
    return parse_config(card, ModelCard, origin=str(path)), sha256


def _read_weights(folder: AnyPath, card: ModelCard) -> bytes:
    """The file of weights, if it has a size that such a model's can have: decided before any of it is read."""
    path = folder / WEIGHTS_FILE
    values = sum(tensor.numel() for tensor in _outline(card).state_dict().values())
    try:
        size = path.stat().st_size
        if values <= size <= 8 * values + _MAX_HEADER_BYTES:  # a value has 1 to 8 bytes
            return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no whole model: {WEIGHTS_FILE} is missing.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from None
    raise CheckpointError(
        f"{path} has {size} bytes, which cannot hold the {values} values of the model that {CARD_FILE} describes; they "
        "do not belong together, or one is damaged: copy the model again."
    )


@contextmanager
def _beside(path: AnyPath) -> Iterator[BinaryIO]:
    """Under one name, so that what a killed process leaves is overwritten by the next and not kept for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            yield file
            if isinstance(path, Path):
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _finish_saving(folder: AnyPath) -> None:
    """Puts a model that lies whole beside another, which its card says, in the other's place."""
    try:
        begun = (folder / _NEXT_CARD).exists()
    except PermissionError:  # whoever reads says it of what is read
        return
    if not begun:
        return
    for source, target in ((_NEXT_WEIGHTS, WEIGHTS_FILE), (_NEXT_CARD, CARD_FILE)):
        with suppress(FileNotFoundError):  # done before the interruption, or by another process just now
            _replace(folder, source, target)


def _replace(folder: AnyPath, source: str, target: str) -> None:
    if isinstance(folder, Path):
        (folder / source).replace(folder / target)
    else:  # an object store copies each object whole, or not at all
        folder.fs.mv((folder / source).path, (folder / target).path)


def _check_hash(folder: AnyPath, found: str, stated: str) -> None:
    if found != stated:
        raise IntegrityError(f"{folder / WEIGHTS_FILE} is not the file that was saved (hashes differ); copy it again.")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copies tensors into a module if, and only if, names and shapes are exactly the module's.

    Args:
        module: receives the weights.
        tensors: by state-dict name.
        origin: where they come from, for the error message.

    Raises:
        CheckpointError: one sentence naming what is missing, unexpected, of another shape or not finite.
    """
    refuse_other_architecture(_shapes(module.state_dict()), _shapes(tensors), origin)
    refuse_nonfinite(tensors, origin, _NONFINITE_ADVICE)
    module.load_state_dict(dict(tensors))


def refuse_other_architecture(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], origin: str
) -> None:
    """Returns if names and shapes of tensors are exactly a module's.

    Args:
        expected: name to shape in the module.
        found: name to shape of the tensors.
        origin: where they come from, for the error message.

    Raises:
        CheckpointError: one sentence naming what is missing, unexpected or of another shape.
    """
    problems = [
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        (
            "of another shape",
            [
                f"{name} {found[name]} instead of {shape}"
                for name, shape in expected.items()
                if name in found and found[name] != shape
            ],
        ),
    ]
    clauses = [f"{kind}: {_shortened(names)}" for kind, names in problems if names]
    if clauses:
        raise CheckpointError(f"{origin} belongs to another architecture; {'; '.join(clauses)}.")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _shortened(names: list[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
