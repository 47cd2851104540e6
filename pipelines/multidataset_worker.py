"""What each training process of the main job does: open the stores, build the model, run the loop."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.distillation import DistillationConfig
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.methods.sharing import HeadsConfig, MethodConfig
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.warm_start import WarmStart
from posecore.models.weights.initial import WeightsConfig, initial_weights
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore, open_store
from posecore.storage import AnyPath
from posecore.training.checkpoint import load_trained
from posecore.training.context import TrainContext
from posecore.training.loop import Evaluate, TrainingConfig, TrainResult, train


@dataclass(frozen=True, kw_only=True)
class PeriodicEvaluation:
    """Judges the model in training on ingested splits, each by its own protocol.

    Every rank judges everything: under ZeRO-3 the ranks hold the weights together and must call them equally often.

    Attributes:
        stores: name of the set to the location of its ingested split.
        heads: name of the set to the head that answers.
        settings: how predictions are made.
    """

    stores: Mapping[str, str]
    heads: Mapping[str, str]
    settings: InferenceSettings

    def __call__(self, method: nn.Module, step: int) -> Mapping[str, float]:
        """Metrics as ``<set>/<metric>``."""
        model = method.model
        assert isinstance(model, PoseModel), type(model)
        metrics: dict[str, float] = {}
        for name, location in self.stores.items():
            judged = evaluate_store(model, open_store(location), self.settings, head=self.heads[name])
            metrics |= {f"{name}/{metric}": value for metric, value in judged.items()}
        return metrics


@dataclass(frozen=True, kw_only=True)
class MultiDatasetWorker:
    """Supervised training on several ingested datasets; a picklable function of a context.

    Attributes:
        model: the architecture; the method may add to it.
        training: the run.
        loading: mixture and augmentation.
        stores: mixture entry to the location of its ingested split.
        method: how the model shares what it knows across skeletons, who teaches it, or how it is adapted.
        weights: what to start from, or None for fresh weights.
        evaluate: periodic evaluation, or None.
    """

    model: ModelConfig
    training: TrainingConfig
    loading: LoadingConfig
    stores: Mapping[str, str]
    method: MethodConfig | DistillationConfig | HeadDistillationConfig | AdaptationConfig = field(
        default_factory=HeadsConfig
    )
    weights: WeightsConfig | None = None
    evaluate: Evaluate | None = None

    def __call__(self, context: TrainContext) -> TrainResult:
        """Trains from the newest checkpoint, or from the start, to the last step."""
        stores = {name: open_store(location) for name, location in self.stores.items()}
        model, warm_start = self._initial(stores)
        if warm_start is not None and context.rank == 0:
            Console(stderr=True).print(warm_start.table())
        method = self.method.build(model)

        def batches(start: int) -> Iterable[CropBatch]:
            return self.batches(stores, context, start)

        return train(method, batches, self.training, context, self.evaluate)

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
            conventions={
                name: self.model.conventions(store.manifest.definition.conventions) for name, store in stores.items()
            },
        )

    def trained_model(self, checkpoint: AnyPath) -> PoseModel:
        """The model as a checkpoint of this worker holds it, on the CPU, in evaluation mode.

        Its card names the weights it started from.

        Raises:
            CheckpointError: the checkpoint belongs to another architecture, or the initial weights are gone.
            IntegrityError: one of them is damaged.
        """
        model, _ = self._initial({name: open_store(place) for name, place in self.stores.items()})
        method = self.method.build(model)
        load_trained(checkpoint, method)
        return method.model.eval()

    def write_beside(self, checkpoint: AnyPath, run_dir: Path) -> tuple[Path, ...]:
        """Writes what a run leaves beside its model and returns the files: none, for training that adds nothing."""
        return ()

    def _initial(self, stores: Mapping[str, ShardStore]) -> tuple[PoseModel, WarmStart | None]:
        torch.manual_seed(self.training.seed)
        model = self._fresh(stores)
        return model, None if self.weights is None else initial_weights(model, self.weights)

    def _fresh(self, stores: Mapping[str, ShardStore]) -> PoseModel:
        definitions = {entry.name: stores[entry.name].manifest.definition for entry in self.loading.mixture.entries}
        return build_model(
            self.method.architecture(self.model),
            skeletons={name: definition.skeleton for name, definition in definitions.items()},
            conventions={name: definition.conventions for name, definition in definitions.items()},
            licenses={name: definition.license.id for name, definition in definitions.items()},
        )
