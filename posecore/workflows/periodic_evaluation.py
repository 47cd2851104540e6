"""What is done between the steps of a training, every ``training.evaluate_every``: judge the model, record losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from torch import nn

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.inference import InferenceSettings, evaluate_shared
from posecore.evaluation.label_losses import LabelLossRecorder
from posecore.models.pose_model import PoseModel
from posecore.schema import Json
from posecore.shards.corrections import Corrections
from posecore.shards.manifest import read_manifest
from posecore.shards.store import ShardStore, open_store
from posecore.storage import as_path
from posecore.training.loop import Evaluate


class ShowSamples(Protocol):
    """Shows to people what a model in training says of a set."""

    def __call__(self, name: str, step: int, store: ShardStore, truth: GroundTruth, predictions: Predictions) -> None:
        """Called on rank 0, after each evaluation."""
        ...


@dataclass(frozen=True, kw_only=True)
class PeriodicEvaluation:
    """Judges the model in training on ingested splits, each by its own protocol.

    The ranks share the work; rank 0 knows the result.

    Attributes:
        stores: name of the set to the location of its ingested split.
        heads: name of the set to the head that answers.
        settings: how predictions are made.
        show: shows some of them, which decides nothing; None shows none.
    """

    stores: Mapping[str, str]
    heads: Mapping[str, str]
    settings: InferenceSettings
    show: ShowSamples | None = None

    def decided_by(self) -> dict[str, Json]:
        """See :class:`~posecore.workflows.train_step.Judge`."""
        manifests = {name: read_manifest(as_path(at)) for name, at in self.stores.items()}
        return {
            "data": {name: each.digest for name, each in manifests.items()},
            "protocols": {name: each.definition.evaluation.model_dump(mode="json") for name, each in manifests.items()},
            "heads": dict(self.heads),
            "settings": self.settings.model_dump(mode="json"),
        }

    def __call__(self, method: nn.Module, step: int) -> Mapping[str, float]:
        """Metrics as ``<set>/<metric>``, on rank 0."""
        model = method.model
        assert isinstance(model, PoseModel), type(model)
        metrics: dict[str, float] = {}
        for name, location in self.stores.items():
            store = open_store(location)
            show = None if self.show is None else partial(self.show, name, step, store)
            judged = evaluate_shared(model, store, self.settings, self.heads[name], show)
            metrics |= {f"{name}/{metric}": value for metric, value in (judged or {}).items()}
        return metrics


@dataclass(frozen=True, kw_only=True)
class LabelRecording:
    """Records the loss of every label of some sets, and then judges.

    Attributes:
        stores: by head, the location of the set's ingested split.
        corrections: by head, labels that are read as unlabelled.
        folder: receives a folder per head; every node must see it.
        settings: batch size and threads.
        judge: what is done besides, or None.
    """

    stores: Mapping[str, str]
    corrections: Mapping[str, Corrections]
    folder: str
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    judge: Evaluate | None = None

    def __call__(self, method: nn.Module, step: int) -> Mapping[str, float]:
        """What the judge says."""
        model = method.model
        assert isinstance(model, PoseModel), type(model)
        stores = {
            name: open_store(location, corrections=self.corrections.get(name)) for name, location in self.stores.items()
        }
        LabelLossRecorder(stores=stores, folder=self.folder, settings=self.settings)(model, step)
        return {} if self.judge is None else self.judge(method, step)
