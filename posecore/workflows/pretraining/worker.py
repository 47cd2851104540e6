"""What each training process of the pre-training job does; its evaluation is given, and code of its own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig, pretraining_model
from posecore.models.architecture import ModelConfig
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel
from posecore.schema import CropBatch
from posecore.shards.corrections import Corrections
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath
from posecore.training.checkpoint import MANIFEST_FILE, load_trained
from posecore.training.context import TrainContext
from posecore.training.loop import Evaluate, TrainingConfig, TrainResult, train
from posecore.training.start import MethodMakers
from posecore.training.trained import TrainedModel


@dataclass(frozen=True, kw_only=True)
class PretrainingWorker:
    """Masked autoencoding on several ingested datasets; a picklable function of a context.

    Attributes:
        model: backbone and input size.
        method: what is hidden and how it is predicted.
        training: the run.
        loading: mixture, and what is cropped.
        stores: mixture entry to the location of its ingested split.
        evaluate: periodic evaluation, or None.
    """

    model: ModelConfig
    method: MaskedAutoencoderConfig
    training: TrainingConfig
    loading: LoadingConfig
    stores: Mapping[str, str]
    evaluate: Evaluate | None = None

    def __call__(self, context: TrainContext) -> TrainResult:
        """Trains from the newest checkpoint, or from the start, to the last step."""
        stores = {name: open_store(location) for name, location in self.stores.items()}

        def batches(start: int) -> Iterable[CropBatch]:
            return self.batches(stores, context, start)

        def outline() -> MaskedAutoencoder:
            with without_memory():
                model = pretraining_model(self.model)
            return MaskedAutoencoder(model, self.method)

        return train(MethodMakers(self.fresh_method, outline), batches, self.training, context, self.evaluate)

    def batches(self, stores: Mapping[str, ShardStore], context: TrainContext, start: int) -> Iterable[CropBatch]:
        """This rank's crops from step ``start`` on."""
        return Loader(
            stores,
            self.loading,
            input_size=self.model.input_size,
            seed=self.training.seed,
            global_batch=self.training.global_batch,
            rank=context.rank,
            world_size=context.world_size,
            start_step=start,
        )

    def decided_by(self) -> dict[str, Any]:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`."""
        return {name: getattr(self, name) for name in ("model", "method", "loading", "training")}

    def given(self) -> Sequence[object]:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`: nothing."""
        return ()

    def refined(self, corrections: Mapping[str, Corrections], evaluate: Evaluate | None) -> Self:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`; labels are not looked at, corrected or not."""
        return replace(self, evaluate=evaluate)

    def fresh_method(self) -> MaskedAutoencoder:
        """The method before its first step.

        Raises:
            ConfigError: backbone, input size and masking ratio do not go together.
        """
        torch.manual_seed(self.training.seed)
        return MaskedAutoencoder(pretraining_model(self.model), self.method)

    def trained(self, checkpoint: AnyPath) -> TrainedModel:
        """The encoder of a checkpoint, to be written a tensor at a time.

        Raises:
            CheckpointError: the checkpoint belongs to another architecture.
            IntegrityError: it is damaged.
        """
        with without_memory():
            return TrainedModel(checkpoint, pretraining_model(self.model), "model.")

    def trained_method(self, checkpoint: AnyPath) -> MaskedAutoencoder:
        """Encoder and decoder as a checkpoint of this worker holds them, on the CPU, in evaluation mode.

        Raises:
            CheckpointError: the checkpoint belongs to another architecture.
            IntegrityError: it is damaged.
        """
        method = self.fresh_method()
        load_trained(checkpoint, method)
        return method.eval()

    def trained_model(self, checkpoint: AnyPath) -> PoseModel:
        """The encoder as a checkpoint of this worker holds it; raises what :meth:`trained_method` raises."""
        return self.trained_method(checkpoint).model

    def kept_files(self, checkpoint: AnyPath, run_dir: AnyPath) -> tuple[AnyPath, ...]:
        """See :class:`~posecore.workflows.train_step.TrainingWorker`: the checkpoint, which has the decoder as well."""
        return (checkpoint / MANIFEST_FILE,)
