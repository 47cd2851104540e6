"""What each training process of the main job does: open the stores, build the model, run the loop.

It imports nothing that it does not run: the modules of its method and of its evaluation come with what it is given, and
:func:`posecore.workflows.train_step.train_step` counts them as its code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from rich.console import Console
from torch import nn

from posecore.conventions import Conventions
from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.heads import HeadsConfig
from posecore.models.architecture import ModelConfig
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel, model_for
from posecore.models.sources import Start, initial_weights
from posecore.models.warm_start import WarmStart
from posecore.schema import CropBatch
from posecore.shards.answers import AnswerStore
from posecore.shards.corrections import Corrections
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath
from posecore.training.checkpoint import Checkpoint, load_trained
from posecore.training.context import TrainContext
from posecore.training.loop import Evaluate, TrainingConfig, TrainResult, train
from posecore.training.start import MethodMakers
from posecore.training.trained import LoadedModel, TrainedModel


class Method(Protocol):
    """A method's configuration."""

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """What it makes of the architecture."""
        ...

    def build(self, model: PoseModel) -> nn.Module:
        """The method that trains the model, which is its ``model``."""
        ...


@runtime_checkable
class ToldMethod(Method, Protocol):
    """A method that needs a teacher's stored answers.

    Attributes:
        answers: by dataset, the folder of the answers to its crops; empty to do without.
    """

    answers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class MultiDatasetWorker:
    """Supervised training on several ingested datasets; a picklable function of a context.

    Attributes:
        model: the architecture; the method may add to it.
        training: the run.
        loading: mixture and augmentation.
        stores: mixture entry to the location of its ingested split.
        method: how the model shares what it knows across skeletons, who teaches it, what its teacher learns first, or
            how it is adapted.
        weights: what to start from, or None for fresh weights.
        evaluate: periodic evaluation, or None.
        corrections: by mixture entry, labels that are read as unlabelled.
        quiet: does not say what was copied from the weights.
    """

    model: ModelConfig
    training: TrainingConfig
    loading: LoadingConfig
    stores: Mapping[str, str]
    method: Method = field(default_factory=HeadsConfig)
    weights: Start | None = None
    evaluate: Evaluate | None = None
    corrections: Mapping[str, Corrections] = field(default_factory=dict)
    quiet: bool = False

    def __call__(self, context: TrainContext) -> TrainResult:
        """Trains from the newest checkpoint, or from the start, to the last step."""
        stores = self._open()
        conventions: dict[str, Conventions] = {}

        def build() -> nn.Module:
            model, warm_start = self._initial(stores)
            if warm_start is not None and context.rank == 0 and not self.quiet:
                Console(stderr=True).print(warm_start.table())
            conventions.update(model.conventions)
            return self.method.build(model)

        def outline() -> nn.Module:
            with without_memory():
                model, _ = self._initial(stores)
            conventions.update(model.conventions)
            return self.method.build(model)

        def batches(start: int) -> Iterable[CropBatch]:
            return self.batches(stores, context, start, conventions)

        return train(MethodMakers(build, outline), batches, self.training, context, self.evaluate)

    def batches(
        self,
        stores: Mapping[str, ShardStore],
        context: TrainContext,
        start: int,
        conventions: Mapping[str, Conventions],
    ) -> Iterable[CropBatch]:
        """This rank's crops from step ``start`` on, cut as the heads that learn from them read them."""
        return Loader(
            stores,
            self.loading,
            input_size=self.model.input_size,
            seed=self.training.seed,
            global_batch=self.training.global_batch,
            rank=context.rank,
            world_size=context.world_size,
            start_step=start,
            conventions={
                name: conventions[self._learner(name)].on(store.manifest.definition.conventions)
                for name, store in stores.items()
            },
            answers={name: AnswerStore(folder) for name, folder in self._answers().items()},
        )

    def trained_model(self, checkpoint: AnyPath) -> PoseModel:
        """The model as a checkpoint of this worker holds it, on the CPU, in evaluation mode.

        Its card names the weights it started from.

        Raises:
            CheckpointError: the checkpoint belongs to another architecture, or the initial weights are gone.
            IntegrityError: one of them is damaged.
        """
        model, _ = self._initial(self._open())
        method = self.method.build(model)
        load_trained(checkpoint, method)
        trained = method.model
        assert isinstance(trained, PoseModel), type(trained)
        return trained.eval()

    def trained(self, checkpoint: AnyPath) -> TrainedModel | LoadedModel:
        """The model of a checkpoint, to be written a tensor at a time; its card names the weights it started from.

        Raises:
            CheckpointError: the checkpoint belongs to another architecture, or the initial weights are gone.
            IntegrityError: one of them is damaged.
        """
        if not any(name.startswith(self._prefix) for name in Checkpoint(checkpoint).shapes("weights")):
            return LoadedModel(self.trained_model(checkpoint))  # the method trains a part of another model
        with without_memory():
            model, _ = self._initial(self._open())
            self._prepare(model)
        return TrainedModel(checkpoint, model, self._prefix)

    def decided_by(self) -> dict[str, Any]:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`."""
        fields = ("model", "method", "weights", "loading", "training")
        return {name: getattr(self, name) for name in fields}

    def given(self) -> Sequence[object]:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`."""
        return [self.method, *([] if self.weights is None else [self.weights])]

    def refined(self, corrections: Mapping[str, Corrections], evaluate: Evaluate | None) -> Self:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`."""
        return replace(self, corrections=corrections, evaluate=evaluate)

    def kept_files(self, checkpoint: AnyPath, run_dir: AnyPath) -> tuple[AnyPath, ...]:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`: none, for training that adds nothing."""
        return ()

    @property
    def _prefix(self) -> str:
        """Of the model's names in the method."""
        return "model."

    def _prepare(self, model: PoseModel) -> None:
        """Adds to the model what the method adds to it, which here is nothing."""

    def _learner(self, name: str) -> str:
        """The head that learns from a dataset."""
        return name

    def _answers(self) -> Mapping[str, str]:
        return self.method.answers if isinstance(self.method, ToldMethod) else {}

    def _open(self) -> dict[str, ShardStore]:
        return {
            name: open_store(location, corrections=self.corrections.get(name)) for name, location in self.stores.items()
        }

    def _initial(self, stores: Mapping[str, ShardStore]) -> tuple[PoseModel, WarmStart | None]:
        torch.manual_seed(self.training.seed)
        model = self._fresh(stores)
        return model, None if self.weights is None else initial_weights(model, self.weights)

    def _fresh(self, stores: Mapping[str, ShardStore]) -> PoseModel:
        definitions = {entry.name: stores[entry.name].manifest.definition for entry in self.loading.mixture.entries}
        return model_for(self.method.architecture(self.model), definitions)
