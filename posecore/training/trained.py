"""The model that a checkpoint holds, written without ever being in memory: a tensor at a time, from file to file."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from posecore.models.architecture import ModelCard
from posecore.models.low_rank import is_low_rank
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel
from posecore.models.saving import refuse_other_architecture, save_model, save_streamed
from posecore.models.tensor_file import Slot
from posecore.storage import AnyPath
from posecore.training.checkpoint import Checkpoint


class TrainedModel:
    """What a checkpoint learned of a model: the average if one was kept.

    Attributes:
        model: without weights, but for those that :meth:`fill` read.

    Args:
        checkpoint: of a method that has the model.
        model: as the method trains it, low-rank updates included, on the meta device; its tensors are left there.
        prefix: of the model's names in the method, such as ``model.``.

    Raises:
        CheckpointError: the checkpoint is unfinished or belongs to another architecture.
        IntegrityError: a file is missing, truncated or changed.
    """

    def __init__(self, checkpoint: AnyPath, model: PoseModel, prefix: str) -> None:
        self._checkpoint = Checkpoint(checkpoint)
        self.model = model
        self._prefix = prefix
        found = self._checkpoint.shapes("weights") | self._checkpoint.shapes("buffers")
        own = {name.removeprefix(prefix): shape for name, shape in found.items() if name.startswith(prefix)}
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        refuse_other_architecture(expected, own, origin=str(checkpoint))

    @property
    def has_low_rank(self) -> bool:
        """Whether the model has updates beside its weights."""
        return any(is_low_rank(name) for name, _ in self.model.named_parameters())

    @property
    def card(self) -> ModelCard:
        """Of the model, as it was made."""
        return self.model.card

    def save(self, folder: str | AnyPath, card: ModelCard) -> AnyPath:
        """Writes the model folder, with low-rank updates added to the weights they belong to.

        Args:
            folder: is created; a model in it is replaced.
            card: of the model.

        Raises:
            CheckpointError: a weight is not finite, or the folder cannot be written; what was in it is still there.
            IntegrityError: a file of the checkpoint is truncated or changed.
        """
        with without_memory():
            plain = PoseModel(card).state_dict()
        slots = [Slot(name, tuple(tensor.shape), tensor.dtype) for name, tensor in plain.items()]
        return save_streamed(card, slots, self._merged, folder)

    def fill(self, wanted: Callable[[str], bool]) -> PoseModel:
        """The model with some of its tensors read, and the others still on the meta device.

        Args:
            wanted: whether a tensor of that name in the model is read.
        """
        read = {name: self._read(name) for name in self.model.state_dict() if wanted(name)}
        self.model.load_state_dict(read, strict=False, assign=True)
        return self.model

    def _read(self, name: str) -> Tensor:
        full = self._prefix + name
        return self._checkpoint.read(self._checkpoint.trained_section(full), full)

    def _merged(self, name: str) -> Tensor:
        module, _, last = name.rpartition(".")
        layer: Any = self.model.get_submodule(module)
        if not hasattr(layer, "get_base_layer"):
            return self._read(name)
        return self._merge(module, layer) if last == "weight" else self._read(f"{module}.base_layer.{last}")

    def _merge(self, path: str, layer: nn.Module) -> Tensor:
        """The weight of a linear layer with its update added, as ``peft`` adds it."""
        layer.load_state_dict({name: self._read(f"{path}.{name}") for name in layer.state_dict()}, assign=True)
        layer.merge()  # type: ignore[operator]
        weight: Tensor = layer.get_base_layer().weight.detach()  # type: ignore[operator]
        layer.to("meta")
        return weight


class LoadedModel:
    """What a checkpoint learned, in memory, for methods of which it holds the smallest part of a model."""

    def __init__(self, model: PoseModel) -> None:
        self.model = model

    @property
    def card(self) -> ModelCard:
        """See :attr:`TrainedModel.card`."""
        return self.model.card

    def save(self, folder: str | AnyPath, card: ModelCard) -> AnyPath:
        """See :meth:`TrainedModel.save`."""
        self.model.card = card
        return save_model(self.model, folder)
