"""The run file of an adaptation: what a set of data is for, what learns, and what is asked of the child."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from posecore.evaluation.bootstrap import FEW_SUBJECTS
from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.registry.gates import Requirements
from posecore.loading.loader import LoadingConfig
from posecore.methods.adaptation import AdaptationTerms
from posecore.models.architecture import ModelConfig
from posecore.models.weights.initial import SourceConfig
from posecore.schema import Json
from posecore.training.loop import TrainingConfig
from posecore.training.recipe import filled, pace
from posecore.training.recipes import RECIPES
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.datasets_job import DatasetEntry, DatasetsJob, LoaderSettings
from posecore.workflows.label_check import LabelCheckConfig, check_passes, check_shortest
from posecore.workflows.machines import WorkersConfig

Group = Literal["target", "kept", "independent", "unlabelled"]


class GateSettings(Requirements):
    """What the child must show to be worth promoting, beside what its alias's policies will ask.

    Attributes:
        target_subjects: people or animals that the target's figure must rest on at least, where they are named; fewer
            have no interval that holds what it says.
        target_bodies: labelled bodies, likewise.
        max_forgetting: by how much a kept set's metric may fall, in the metric's own unit; None does not ask.
        must_gain: whether the target's metric must not be worse than the parent's; asks nothing of a fresh head.
    """

    target_subjects: int = Field(default=FEW_SUBJECTS, ge=0)
    target_bodies: int = Field(default=30, ge=0)
    max_forgetting: float | None = Field(default=None, ge=0)
    must_gain: bool = True


class AdaptationJob(DatasetsJob):
    """A complete run, whose data and folders are those of a :class:`~posecore.workflows.datasets_job.DatasetsJob`.

    Attributes:
        parent: ``models:/name@alias``, ``models:/name/version``, or any source of weights.
        target: the entry adapted to. Entries that are only judged and whose head is the target's are independent sets
            of its population, ``unlabelled`` ones are pictures of it that nobody has labelled; all others are kept
            sets, which go by a head of the parent.
        allow_fresh_head: go on although the parent knows no point of the target, whose head then begins at chance.
        keep: names of kept sets; entries left out are neither trained on nor judged. None keeps all.
        depth_input: the child takes depth besides the picture, whether its parent does or not; at first it computes
            what the parent does. Only with strategies that change shared weights.
        method: what learns (``strategy``), what is minimised and what the parent says to it.
        replay: share of the crops that come from kept sets. None is a quarter where the strategy touches shared weights
            and a kept set has a train split, else 0.
        unlabelled_share: share of the crops that come from unlabelled sets, if there are any.
        l2_sp: pull of inherited weights to their first values;
            see :class:`~posecore.training.optimizer.OptimizerConfig`.
        own_proportions: weight of the proportions of the target's own labels as a term of the loss, see
            :mod:`posecore.methods.pose_prior`; 0 for none. Other files of proportions go under ``method.prior``.
        loading: batches; the mixture follows from ``replay``.
        training: the loop.
        cluster: workers.
        inference: how predictions are made for the evaluation.
        label_check: look for wrong labels of the target by how their losses moved as well; None does not. Its bodies'
            proportions are always looked at.
        gates: what is asked before the verdict.
        plan_gpu: kind of GPU that memory and time are planned for.
        search: find out by trials which strategy to take, within a budget; ``method.strategy``, ``replay`` and
            ``training.steps`` are then what that chose. None takes those.
    """

    parent: SourceConfig
    target: str
    allow_fresh_head: bool = False
    keep: tuple[str, ...] | None = None
    depth_input: bool = False
    method: AdaptationTerms
    replay: float | None = Field(default=None, ge=0, lt=1)
    unlabelled_share: float = Field(default=0.5, gt=0, lt=1)
    l2_sp: float = Field(default=0.0, ge=0)
    own_proportions: float = Field(default=0.0, ge=0)
    loading: LoaderSettings = LoaderSettings()
    training: TrainingConfig
    cluster: WorkersConfig = WorkersConfig()
    inference: InferenceSettings = InferenceSettings()
    label_check: LabelCheckConfig | None = None
    gates: GateSettings = GateSettings()
    plan_gpu: str = "h100"
    search: SearchConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_parent(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("parent"), str):
            return {**values, "parent": {"source": values["parent"]}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _budget_search(cls, values: Any) -> Any:
        """A search without a budget of its own has the steps of the run."""
        if not isinstance(values, Mapping):
            return values
        search, training = values.get("search"), values.get("training")
        if not (isinstance(search, Mapping) and isinstance(training, Mapping)):
            return values
        if "budget" not in search and "steps" in training:
            return {**values, "search": {**search, "budget": f"{training['steps']}steps"}}
        return values

    @model_validator(mode="after")
    def _check_passes(self) -> Self:
        if self.label_check is not None:
            check_passes(self.training)
            if self.search is not None:
                check_shortest(self.search.least_steps)
        return self

    @model_validator(mode="after")
    def _check_datasets(self) -> Self:
        """Heads may be the parent's here, which is read later; see :func:`check_roles`."""
        self._check_names()
        found = [entry for entry in self.datasets if entry.name == self.target]
        if not found or found[0].train is None or found[0].evaluate is None:
            raise ValueError(f"target: {self.target!r} must be an entry of datasets with train and evaluate splits.")
        if self.keep is not None and (stray := sorted(set(self.keep) - {entry.name for entry in self.datasets})):
            raise ValueError(f"keep: {stray[0]!r} is no entry of datasets.")
        touches = self.method.strategy.touches_shared
        if self.replay and not touches:
            raise ValueError(
                f"replay: {self.method.strategy.kind} leaves everything the kept sets use as it is; set it to 0."
            )
        if self.l2_sp and (not touches or self.method.strategy.kind in ("lora", "dora", "adapter")):
            raise ValueError(f"l2_sp: with {self.method.strategy.kind} no inherited weight learns; set it to 0.")
        if self.own_proportions and self.method.prior is not None:
            raise ValueError("own_proportions: method.prior names a file already; leave out one of them.")
        if self.method.prior is not None and self.method.prior.datasets is None:
            raise ValueError(
                "method.prior.datasets: left out, the file's proportions would be asked of the parent's populations as "
                f"well, which have others; name whose they are: [{self.target}]."
            )
        if self.depth_input and not touches:
            raise ValueError(
                f"depth_input: what reads depth is shared by all sets, and {self.method.strategy.kind} changes nothing "
                "they share; take full, two-stage, last-n, lora, dora, adapter or bitfit."
            )
        if self.replay and not self.replayed:
            raise ValueError("replay: no kept set has a train split; give one, or set it to 0.")
        return self

    @model_validator(mode="after")
    def _check_unlabelled(self) -> Self:
        for entry in self.datasets:
            if entry.unlabelled is not None and entry.head != self.target:
                raise ValueError(
                    f"datasets.{entry.name}.head: unlabelled pictures teach the target's; set {self.target}."
                )
        if not self.unlabelled:
            if self.method.unlabelled is not None:
                raise ValueError("method.unlabelled: no entry of datasets is unlabelled; mark one, or take it out.")
            return self
        if self.replay_share + self.unlabelled_share >= 1:
            raise ValueError(
                f"unlabelled_share: with replay {self.replay_share:g}, {self.unlabelled_share:g} leaves no crop for "
                "the target's labels; lower one of them."
            )
        return self

    def at_the_pace_of(self, parent: ModelConfig) -> "AdaptationJob":
        """The job with its parent's published layer decay, if it leaves that out; no other recipe is published."""
        fields: dict[str, Json] = {"training": {"optimizer": pace(parent, RECIPES)}}
        return filled(self, fields, origin="the parent's recipe")

    def group_of(self, entry: DatasetEntry) -> Group:
        """What an entry is for."""
        if entry.name == self.target:
            return "target"
        if entry.unlabelled is not None:
            return "unlabelled"
        return "independent" if entry.head == self.target else "kept"

    @property
    def used(self) -> tuple[DatasetEntry, ...]:
        """The entries that take part."""
        wanted = {entry.name for entry in self.datasets} if self.keep is None else {*self.keep}
        return tuple(entry for entry in self.datasets if self.group_of(entry) != "kept" or entry.name in wanted)

    @property
    def kept(self) -> tuple[DatasetEntry, ...]:
        """The kept sets that take part."""
        return tuple(entry for entry in self.used if self.group_of(entry) == "kept")

    @property
    def replay_share(self) -> float:
        """:attr:`replay`, or what None means."""
        if self.replay is not None:
            return self.replay
        has_data = any(entry.train is not None for entry in self.kept)
        return 0.25 if self.method.strategy.touches_shared and has_data else 0.0

    @property
    def replayed(self) -> tuple[str, ...]:
        """Kept sets that are trained on."""
        return tuple(e.name for e in self.kept if e.train is not None) if self.replay_share else ()

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Sets of unlabelled pictures of the target's population."""
        return tuple(entry.name for entry in self.datasets if entry.unlabelled is not None)

    def taking_part(self) -> "AdaptationJob":
        """The job with nothing in it that does not take part; kept sets that are not replayed are only judged."""
        entries = []
        for entry in self.used:
            if self.group_of(entry) == "kept" and entry.name not in self.replayed:
                entry = entry.model_copy(update={"train": None, "head": entry.answering_head})
            entries.append(entry)
        judged = tuple(entry for entry in entries if entry.roles)
        return self.model_copy(update={"datasets": judged, "keep": None, "replay": self.replay_share})

    def mixture(self, takes_depth: bool, whole_scenes: bool = False) -> LoadingConfig:
        """The loader's configuration: their shares of the crops to replayed and unlabelled sets, in equal parts.

        Args:
            takes_depth: whether the child does.
            whole_scenes: whether its heads find bodies in whole pictures.
        """
        shares = {self.replayed: self.replay_share, self.unlabelled: self.unlabelled_share}
        weights = {name: share / len(names) for names, share in shares.items() for name in names}
        weights[self.target] = 1 - sum(weights.values())
        trained = [e.model_copy(update={"weight": weights[e.name]}) for e in self.datasets if e.name in weights]
        loading = self.loading.model_copy(update={"sampling": "explicit", "temperature": 1.0})
        depth = takes_depth or self.method.depth is not None
        return loading.config(trained).of_heads(whole_scenes=whole_scenes).model_copy(update={"depth": depth})

    def loop(self) -> TrainingConfig:
        """The loop, with the pull to the first values."""
        optimizer = self.training.optimizer.anchored(self.l2_sp)
        return self.training.model_copy(update={"optimizer": optimizer})
