"""What each training process of an adaptation does: build the child, give it what its parent knows, run the loop."""

from collections.abc import Mapping
from dataclasses import dataclass

from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.strategies import Roles, own_modules
from posecore.models.architecture import ModelCard
from posecore.models.low_rank import is_low_rank, save_adapter
from posecore.models.pose_model import PoseModel, build_model
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath
from posecore.training.trained import TrainedModel
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
        return self.method.roles.target if name in self.method.unlabelled_sets else name

    @property
    def _prefix(self) -> str:
        """See :class:`~posecore.workflows.multidataset_worker.MultiDatasetWorker`."""
        return "method.model."

    def _prepare(self, model: PoseModel) -> None:
        """See :class:`~posecore.workflows.multidataset_worker.MultiDatasetWorker`."""
        self.method.terms.strategy.apply(model, self._roles(model))

    def kept_files(self, checkpoint: AnyPath, run_dir: AnyPath) -> tuple[AnyPath, ...]:
        """The low-rank updates in the files of ``peft``; only they, and what was trained whole, are read."""
        trained = self.trained(checkpoint)
        assert isinstance(trained, TrainedModel), "a child is a model of its own"
        if not trained.has_low_rank:
            return ()
        modules = own_modules(trained.model, self._roles(trained.model))
        wanted = tuple(f"{name}." for name in modules)
        model = trained.fill(lambda name: is_low_rank(name) or name.startswith(wanted))
        folder = run_dir / "adapter"
        return save_adapter(model, folder, modules, self.parent)

    def _roles(self, model: PoseModel) -> Roles:
        return self.method.roles.of_heads(model.owner)
