"""What each training process of an adaptation does: build the child, give it what its parent knows, run the loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.strategies import Roles, own_modules
from posecore.models.architecture import ModelCard
from posecore.models.low_rank import is_low_rank, merge_low_rank, save_adapter
from posecore.models.pose_model import PoseModel, build_model
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath
from posecore.workflows.multidataset_worker import MultiDatasetWorker


@dataclass(frozen=True, kw_only=True)
class AdaptationWorker(MultiDatasetWorker):
    """Training of a child on its target and on what is replayed; heads without data go along untouched.

    Attributes:
        parent: how files of low-rank updates name what they belong to.
        card: of the child before the strategy adds to it: the parent's heads and one for the target.
    """

    method: AdaptationConfig
    parent: str
    card: ModelCard

    def _fresh(self, stores: Mapping[str, ShardStore]) -> PoseModel:
        """See :class:`~posecore.workflows.multidataset_worker.MultiDatasetWorker`; the datasets are the card's."""
        return build_model(
            self.method.architecture(self.model), self.card.skeletons, self.card.conventions, self.card.licenses
        )

    def _learner(self, name: str) -> str:
        """The head that learns from a dataset; unlabelled pictures teach the target's."""
        return self.method.target if name in self.method.unlabelled_sets else name

    def trained_model(self, checkpoint: AnyPath) -> PoseModel:
        """The child with low-rank updates merged into its weights, so that it is an ordinary model."""
        model = super().trained_model(checkpoint)
        merge_low_rank(model)
        return model.requires_grad_(True)

    def write_beside(self, checkpoint: AnyPath, run_dir: Path) -> tuple[Path, ...]:
        """The low-rank updates in the files of ``peft``."""
        model = super().trained_model(checkpoint)
        if not any(is_low_rank(name) for name, _ in model.named_parameters()):
            return ()
        folder = run_dir / "adapter"
        roles = Roles(model.owner(self.method.target), new_depth=self.method.new_depth)
        save_adapter(model, folder, own_modules(model, roles), self.parent)
        return tuple(sorted(folder.iterdir()))
