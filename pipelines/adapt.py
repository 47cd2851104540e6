#!/usr/bin/env python
"""Adaptation: a trained model in, its child for another population out, with what that cost the parent's own datasets.

::

    python pipelines/adapt.py --config pipelines/configs/adapt_demo.yaml
    python pipelines/adapt.py --config my.yaml --model models:/body@champion --target datasets/my_infants \
        --strategy lora --keep coco,mpii

A run file says everything; the flags are short for its fields ``parent``, ``target``, ``strategy`` and ``keep``. The
target, the kept sets and any independent sets of the target's population are ingested and audited, memory and time are
planned, the child is trained, parent and child are judged on everything, the gates are checked, and the child is
registered with one report that has all of it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from pipelines.adaptation_worker import AdaptationWorker
from pipelines.cluster import connect_to_ray
from pipelines.datasets_job import DatasetEntry, DatasetsJob
from pipelines.fetched_model import FetchedModel, fetch_model
from pipelines.judge_step import as_registered, judge_step
from pipelines.multidataset_train import LoaderSettings
from pipelines.ray_training import RayTrainingConfig
from pipelines.steps import Flags, Split, audit_step, check_places, ingest_splits, run_job, vouched
from pipelines.train_step import judge_while_training, train_step
from posecore.config import digest_json
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError, DatasetError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.protocols import PROTOCOLS
from posecore.evaluation.tables import Change, forgetting_table
from posecore.lineage.promotion import Check, Gate, PromotionConfig, check_gates
from posecore.lineage.registry import register_model
from posecore.lineage.steps import Outputs, StepResult, Workflow
from posecore.lineage.tracking import RunLog, Tracking, connect
from posecore.lineage.versions import RegisteredVersion
from posecore.loading.loader import LoadingConfig
from posecore.methods.adaptation import AdaptationConfig, AdaptationTerms
from posecore.models.architecture import ModelCard
from posecore.models.pose_model import build_model
from posecore.models.saving import CARD_FILE, save_model
from posecore.models.warm_start import WarmStart, warm_start
from posecore.models.weights.initial import SourceConfig, WeightsConfig, pin
from posecore.shards.store import open_store
from posecore.skeletons.compare import compare_skeletons
from posecore.training.gpus import find_gpu
from posecore.training.loop import TrainingConfig
from posecore.training.planner import AdaptedParts, PlannedRun, plan
from posecore.training.preflight import crops_per_rank
from posecore.viz.adaptation_report import AdaptationReport, ReportTable, write_adaptation_report

FEWEST_INSTANCES = 4
"""Labelled bodies in the target's train split below which nothing can be learned, or told from chance."""

Group = Literal["target", "kept", "independent"]


class GateSettings(PromotionConfig):
    """What the child must show to be worth promoting.

    Attributes:
        max_forgetting: by how much a kept set's metric may fall, in the metric's own unit; None does not ask.
        must_gain: whether the target's metric must not be worse than the parent's.
    """

    max_forgetting: float | None = Field(default=None, ge=0)
    must_gain: bool = True


class AdaptationJob(DatasetsJob):
    """A complete run; its data and its folders are those of every :class:`~pipelines.datasets_job.DatasetsJob`.

    Attributes:
        parent: ``models:/name@alias``, ``models:/name/version``, or any source of weights.
        target: the entry adapted to. Entries that are only judged and whose head is the target's are independent sets
            of its population; all others are kept sets, which go by a head of the parent.
        keep: names of kept sets; entries left out are neither trained on nor judged. None keeps all.
        method: what learns (``strategy``), what is minimised and what the parent says to it.
        replay: share of the crops that come from kept sets. None is a quarter where the strategy touches shared weights
            and a kept set has a train split, else 0.
        l2_sp: pull of inherited weights to their first values;
            see :class:`~posecore.training.optimizer.OptimizerConfig`.
        loading: batches; the mixture follows from ``replay``.
        training: the loop.
        cluster: workers.
        inference: how predictions are made for the evaluation.
        gates: what is asked before the verdict.
        plan_gpu: kind of GPU that memory and time are planned for.
    """

    parent: SourceConfig
    target: str
    keep: tuple[str, ...] | None = None
    method: AdaptationTerms
    replay: float | None = Field(default=None, ge=0, lt=1)
    l2_sp: float = Field(default=0.0, ge=0)
    loading: LoaderSettings = LoaderSettings()
    training: TrainingConfig
    cluster: RayTrainingConfig = RayTrainingConfig()
    inference: InferenceSettings = InferenceSettings()
    gates: GateSettings = GateSettings()
    plan_gpu: str = "h100"

    @model_validator(mode="before")
    @classmethod
    def _name_parent(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("parent"), str):
            return {**values, "parent": {"source": values["parent"]}}
        return values

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
        if self.replay and not self.replayed:
            raise ValueError("replay: no kept set has a train split; give one, or set it to 0.")
        return self

    def group_of(self, entry: DatasetEntry) -> Group:
        """What an entry is for."""
        if entry.name == self.target:
            return "target"
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

    def taking_part(self) -> "AdaptationJob":
        """The job with nothing in it that does not take part; kept sets that are not replayed are only judged."""
        entries = []
        for entry in self.used:
            if self.group_of(entry) == "kept" and entry.name not in self.replayed:
                entry = entry.model_copy(update={"train": None, "head": entry.answering_head})
            entries.append(entry)
        judged = tuple(entry for entry in entries if entry.roles)
        return self.model_copy(update={"datasets": judged, "keep": None, "replay": self.replay_share})

    def mixture(self) -> LoadingConfig:
        """The loader's configuration: ``replay`` of the crops from the replayed sets, in equal parts."""
        each = self.replay_share / max(1, len(self.replayed))
        weights = {self.target: 1 - self.replay_share, **dict.fromkeys(self.replayed, each)}
        trained = [e.model_copy(update={"weight": weights[e.name]}) for e in self.datasets if e.name in weights]
        loading = self.loading.model_copy(update={"sampling": "explicit", "temperature": 1.0})
        return loading.config(trained)

    def loop(self) -> TrainingConfig:
        """The loop, with the pull to the first values."""
        optimizer = self.training.optimizer.model_copy(update={"anchor_decay": self.l2_sp})
        return self.training.model_copy(update={"optimizer": optimizer})


@dataclass(frozen=True)
class Start:
    """The child before it has learned: what the parent knows, in the target's points.

    Attributes:
        folder: of the model; it stands for the parent wherever the target's points are judged.
        card: what the child is before the strategy adds to it.
        report: what came from where.
        differences: points of the target that look like the parent's and are not; one sentence each.
    """

    folder: str
    card: ModelCard
    report: WarmStart
    differences: tuple[str, ...]


def run(config: AdaptationJob, reuse: bool = True) -> None:
    """The whole job as a list of steps."""
    console = Console(soft_wrap=True)
    config = config.taking_part()
    definitions = {entry.name: entry.load() for entry in config.datasets}
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    check_places(config, definitions)
    tracking = connect(config.tracking, config.folder)
    parent = fetch_model(config.parent, config.folder / "parent", tracking)
    check_roles(config, definitions, parent)
    start = make_start(config, definitions, parent)
    method = adaptation(config, parent)
    console.print(start.report.table())
    for sentence in start.differences:
        console.print(f"note      {sentence}")
    planned = plan_table(config, method, start)
    console.print(planned)
    connect_to_ray()

    with Workflow(tracking, config.name, config.folder, config, reuse=reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        check_labels(next(split for split in training if split.entry.name == config.target))
        leaks = audit_step(workflow, config, training, evaluation)
        child = train(workflow, config, method, parent, start, training, evaluation)
        before = judge_step(workflow, "parent", start.folder, evaluation, config.inference)
        after = judge_step(workflow, "child", child.values["folder"], evaluation, config.inference)
        tables = outcome(config, evaluation, before, after)
        registered = register_step(workflow, config, parent, child, splits, after, leaks)
        version = RegisteredVersion(config.name, registered.values["version"])
        checks = verdict(config, evaluation, before, tracking, version)
        report = report_step(workflow, config, start, child, before, after, tables, checks, version)
        workflow.run.set_tags({"posecore.registered": version.uri, "posecore.verdict": _verdict_word(checks)})

    for title, rows in tables.items():
        console.print(changes_table(title, rows))
    for check in checks:
        console.print(f"{'holds ' if check.passed else 'FAILS '}    {check.statement}")
    console.print(f"verdict   {_verdict_word(checks)}")
    console.print(f"model     {version.uri}   (folder {child.values['folder']})")
    for path in child.values["beside"]:
        console.print(f"adapter   {path}")
    console.print(f"report    {report.values['report']}")
    console.print(f"lineage   mlflow ui --backend-store-uri {tracking.uri}")


def check_roles(config: AdaptationJob, definitions: Mapping[str, DatasetDefinition], parent: FetchedModel) -> None:
    """Refuses sets that the parent knows nothing of.

    Raises:
        ConfigError: the target shares no point with the parent or clashes with one of its heads, a kept set has no head
            of the parent's, or two sets' points differ that one head must answer.
    """
    model, target = parent.model, definitions[config.target].skeleton
    if not model.skeletons:
        raise ConfigError("parent: it is a backbone without any head; train one with multidataset_train.py first.")
    if config.target in model.skeletons and model.skeletons[config.target].union_names != target.union_names:
        raise ConfigError(
            f"target: the parent has a head {config.target!r} with other points; give the entry another name."
        )
    known = {name for skeleton in model.skeletons.values() for name in skeleton.union_names}
    if not known.intersection(target.union_names):
        raise ConfigError(
            f"target: {config.target} has the points {_shortened(target.union_names)}, none of which the parent knows "
            f"(its heads: {', '.join(model.skeletons)}); take a parent with a common point, or train with "
            "multidataset_train.py."
        )
    for entry in config.datasets:
        group, points = config.group_of(entry), definitions[entry.name].skeleton.union_names
        if group == "kept" and entry.answering_head not in model.skeletons:
            raise ConfigError(
                f"datasets.{entry.name}: the parent has no head {entry.answering_head!r} (it has "
                f"{', '.join(model.skeletons)}), so there is nothing to keep; name one with head, or leave it out."
            )
        asked = target if group != "kept" else model.skeletons[entry.answering_head]
        if points != asked.union_names:
            raise ConfigError(
                f"datasets.{entry.name}: its points are not those of the head {entry.answering_head!r} that must "
                "answer for it; leave it out, or give it a definition with the same points."
            )


def check_labels(split: Split) -> None:
    """Refuses a target from which nothing, or nothing of some joint, can be learned.

    Raises:
        DatasetError: too few labelled bodies, or a point that is labelled nowhere.
    """
    truth = GroundTruth.from_store(open_store(split.location))
    refuse_unlearnable(split.entry.name, split.definition.skeleton.names, truth.visibility[~truth.is_crowd])


def refuse_unlearnable(name: str, points: Sequence[str], visibility: NDArray[Any]) -> None:
    """The judgement of :func:`check_labels`.

    Args:
        name: of the target.
        points: K names.
        visibility: (N, K) COCO flags of every body.

    Raises:
        DatasetError: too few labelled bodies, or a point that is labelled nowhere.
    """
    count = int((visibility > 0).any(axis=1).sum())
    if count < FEWEST_INSTANCES:
        raise DatasetError(
            f"target {name}: its train split has {count} labelled bodies, fewer than the {FEWEST_INSTANCES} that a "
            "head can learn from; label more, or see in quarantine.parquet what its ingestion rejected."
        )
    never = [point for point, flags in zip(points, visibility.T, strict=True) if not (flags > 0).any()]
    if never:
        raise DatasetError(
            f"target {name}: {_shortened(never)} {'is' if len(never) == 1 else 'are'} labelled on no body of its train "
            "split, so no head could learn where; label some, or use a skeleton without."
        )


def make_start(config: AdaptationJob, definitions: Mapping[str, DatasetDefinition], parent: FetchedModel) -> Start:
    """The parent with a head for the target, which takes over all points that the parent has by the same union name."""
    definition, card = definitions[config.target], parent.model.card
    torch.manual_seed(config.training.seed)
    # A head of that name comes with the parent's own conventions, which it was trained under.
    model = build_model(
        card.architecture,
        {**card.skeletons, config.target: card.skeletons.get(config.target, definition.skeleton)},
        {config.target: definition.conventions, **card.conventions},
        {config.target: definition.license.id, **card.licenses},
    )
    report = warm_start(model, parent.model)
    origin = next(row.source for row in report.rows if row.what == f"head {model.owner(config.target)}")
    known = parent.model.skeletons.get(origin.removeprefix("head "), definition.skeleton)
    differences = tuple(
        f"{config.target}: {each}." for each in compare_skeletons(definition.skeleton, known).lookalikes
    )
    decided = {"parent": parent.source.sha256, "card": model.card.model_dump(mode="json"), "seed": config.training.seed}
    folder = config.folder / "start" / digest_json(decided)[:12] / "model"
    model.card = model.card.model_copy(update={"lineage": {"parent": dict(parent.record)}})
    if not (folder / CARD_FILE).exists():  # which is written last
        save_model(model, folder)
    return Start(str(folder), model.card, report, differences)


def adaptation(config: AdaptationJob, parent: FetchedModel) -> AdaptationConfig:
    """What every worker does to the child."""
    return AdaptationConfig(
        **{name: getattr(config.method, name) for name in AdaptationTerms.model_fields},
        parent=parent.source,
        target=config.target,
        replayed=config.replayed,
        old_heads=tuple(dict.fromkeys(entry.answering_head for entry in config.kept)),
        parent_has_embedding=parent.model.config.embedding is not None,
    )


def plan_table(config: AdaptationJob, method: AdaptationConfig, start: Start) -> Table:
    """Trainable parameters, memory and time, before anything starts."""
    table = Table(title=f"plan for {config.cluster.num_workers} GPUs of kind {config.plan_gpu}")
    for column in ("strategy", "trained parameters", "of", "share", "peak per GPU", "step"):
        table.add_column(column)
    keypoints = {name: start.card.skeletons[name].num_keypoints for name in start.card.skeletons}
    model = method.architecture(start.card.architecture)
    answer = plan(
        PlannedRun(
            model=model,
            keypoints=keypoints,
            engine=config.training.engine,
            gpu=find_gpu(config.plan_gpu),
            num_gpus=config.cluster.num_workers,
            micro_batch=crops_per_rank(
                config.training.global_batch, config.cluster.num_workers, config.training.accumulation
            )
            // config.training.accumulation,
            accumulation=config.training.accumulation,
            keeps_average=config.training.average_decay is not None,
            adapted=AdaptedParts(config.method.strategy, config.target, config.replayed, method.parent_has_embedding),
        )
    )
    total, trained = answer.total_parameters, answer.trained_parameters
    table.add_row(
        config.method.strategy.kind,
        f"{trained:,}",
        f"{total:,}",
        f"{trained / total:.2%}",
        f"{answer.peak / 2**30:.2f} GiB",
        f"{1e3 * answer.step_s:.3g} ms",
    )
    return table


def train(
    workflow: Workflow,
    config: AdaptationJob,
    method: AdaptationConfig,
    parent: FetchedModel,
    start: Start,
    training: Sequence[Split],
    evaluation: Sequence[Split],
) -> StepResult:
    """Shards to a child whose card names its parent and the parent's terms."""
    worker = AdaptationWorker(
        model=start.card.architecture,
        method=method,
        weights=pin(WeightsConfig(source=start.folder)),
        training=config.loop(),
        loading=config.mixture(),
        stores={split.entry.name: split.location for split in training},
        evaluate=judge_while_training(evaluation, config.inference),
        parent=str(parent.record["source"]),
        card=start.card,
    )

    def adapted(card: ModelCard) -> ModelCard:
        # The weights are the parent's: the folder they were read from belongs to this run alone.
        weights = {"copied": start.report.as_dict(), **parent.record}
        strategy = config.method.strategy.model_dump(mode="json")
        lineage = {**card.lineage, "weights": weights, "parent": dict(parent.record), "strategy": strategy}
        return card.model_copy(update={"lineage": lineage})

    return train_step(workflow, "train", config, config.cluster, worker, training, adapted)


def outcome(
    config: AdaptationJob, evaluation: Sequence[Split], before: StepResult, after: StepResult
) -> dict[str, list[Change]]:
    """What was gained on the target, forgotten of kept sets and gained on independent ones; no empty tables."""
    tables = {}
    titles: dict[str, Group] = {"target": "target", "forgetting": "kept", "generalisation": "independent"}
    for title, group in titles.items():
        splits = {split.entry.name: split for split in evaluation if config.group_of(split.entry) == group}
        if splits:
            parent, child = ({name: result.values["metrics"][name] for name in splits} for result in (before, after))
            protocols = {name: split.definition.evaluation.protocol for name, split in splits.items()}
            tables[title] = forgetting_table(parent, child, protocols)
    return tables


def verdict(
    config: AdaptationJob,
    evaluation: Sequence[Split],
    before: StepResult,
    tracking: Tracking,
    child: RegisteredVersion,
) -> list[Check]:
    """Every gate, those of the run file and those that follow from the parent's own figures."""
    gates = list(config.gates.gates)
    for split in evaluation:
        group, protocol = config.group_of(split.entry), PROTOCOLS[split.definition.evaluation.protocol]
        allowed = {"target": 0.0 if config.gates.must_gain else None, "kept": config.gates.max_forgetting}.get(group)
        if allowed is None:
            continue
        value = before.values["metrics"][split.entry.name][protocol.primary]
        sign = 1 if protocol.higher_is_better else -1
        gates.append(
            Gate(
                metric=f"{split.entry.name}/{protocol.primary}",
                operator=">=" if protocol.higher_is_better else "<=",
                bound=value - sign * allowed,
            )
        )
    return check_gates(tracking, child, None, config.gates.model_copy(update={"gates": tuple(gates)}))


def register_step(
    workflow: Workflow,
    config: AdaptationJob,
    parent: FetchedModel,
    child: StepResult,
    splits: Sequence[Split],
    judged: StepResult,
    leaks: StepResult,
) -> StepResult:
    """The child as a new version in the registry, its parent named, low-rank updates as further artifacts."""
    evaluation = [split for split in splits if split.role == "evaluation"]

    def execute(log: RunLog) -> Outputs:
        for path in child.values["beside"]:
            log.log_file(Path(path), "adapter")
        version = register_model(
            log,
            config.name,
            Path(child.values["folder"]),
            [split.use for split in splits],
            as_registered(evaluation, judged),
            parent=parent.version,
            tags={
                "training_run_id": child.run_id,
                "leaked_pairs": str(leaks.values["shared"]),
                "strategy": config.method.strategy.kind,
                "target": config.target,
            },
            summary=f"Adapted to {config.target} from {parent.record['source']} by {config.method.strategy.kind}.",
        )
        return Outputs({"uri": version.uri, "version": version.version})

    inputs = {
        "name": config.name,
        "model": child,
        "parent": parent.version.uri if parent.version else None,
        "judged": judged,
        "audit": leaks,
    }
    return workflow.step("register", execute, inputs=inputs, code=["posecore.lineage.registry"])


def report_step(
    workflow: Workflow,
    config: AdaptationJob,
    start: Start,
    child: StepResult,
    before: StepResult,
    after: StepResult,
    tables: Mapping[str, Sequence[Change]],
    checks: Sequence[Check],
    version: RegisteredVersion,
) -> StepResult:
    """One HTML file with everything; the worst cases are in the two reports it names."""
    path = Path(child.values["run_dir"]) / "adaptation.html"
    earlier, later = before.values["errors"], after.values["errors"]
    errors = {
        name: {point: (earlier[name][point], error) for point, error in points.items()}
        for name, points in later.items()
    }

    def execute(log: RunLog) -> Outputs:
        report = AdaptationReport(
            title=f"{config.target}: {version.uri}",
            facts={
                "parent": str(config.parent.source),
                "strategy": config.method.strategy.model_dump_json(),
                "kept": ", ".join(entry.name for entry in config.kept) or "nothing",
                "replay": f"{config.replay_share:g} of the crops",
                "distillation from the parent": f"{config.method.distillation:g}",
                "L2-SP": f"{config.l2_sp:g}",
                "model": child.values["folder"],
            },
            verdict=_verdict_word(checks),
            checks=[(check.passed, check.statement) for check in checks],
            changes={title: list(rows) for title, rows in tables.items()},
            errors=errors,
            warm_start=ReportTable(
                ("part", "from", "copied", "freshly initialised"),
                [
                    (r.what, r.source, f"{r.copied} of {r.total} {r.unit}", ", ".join(r.fresh))
                    for r in start.report.rows
                ],
            ),
            differences=start.differences,
            details={"parent": before.values["report"], "child": after.values["report"]},
        )
        write_adaptation_report(path, report)
        log.log_file(path)
        return Outputs({"report": str(path)}, vouched(path))

    inputs = {
        "before": before,
        "after": after,
        "checks": [check.model_dump() for check in checks],
        "start": start.report.as_dict(),
        "differences": list(start.differences),
        "version": version.uri,
        "out": str(path),
    }
    return workflow.step("report", execute, inputs=inputs, code=["posecore.viz.adaptation_report"])


def changes_table(title: str, rows: Sequence[Change]) -> Table:
    """Parent and child, one row per set."""
    table = Table(title=title)
    for column in ("set", "metric", "parent", "child", "gain"):
        table.add_column(column, overflow="fold")
    for row in rows:
        values = [f"{value:.4f}" if value is not None else "–" for value in (row.parent, row.child)]
        table.add_row(row.eval_set, row.metric, *values, f"{row.gain:+.4f}" if row.gain is not None else "–")
    return table


def _verdict_word(checks: Sequence[Check]) -> str:
    return "may be promoted" if all(check.passed for check in checks) else "must not be promoted"


def _shortened(names: Sequence[str], limit: int = 5) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the job's own flags."""
    parser.add_argument("--model", metavar="MODEL", help="the parent: models:/name@alias or /version, a file, a name")
    parser.add_argument("--target", metavar="DATASET", help="the entry to adapt to, by its name or its folder")
    parser.add_argument("--strategy", help="what learns, such as full, lora or two-stage")
    parser.add_argument("--keep", metavar="SET,SET", help="entries whose accuracy is to be kept; default: all")


def overrides(options: argparse.Namespace) -> list[str]:
    """What the flags change in the run file, as ``key=value``."""
    changes = {
        "parent": options.model,
        "target": options.target and Path(options.target).name,
        "method.strategy": options.strategy,
        "keep": None if options.keep is None else f"[{options.keep}]",
    }
    return [f"{key}={value}" for key, value in changes.items() if value]


FLAGS = Flags(declare, overrides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return run_job(__doc__, AdaptationJob, run, arguments, FLAGS)


if __name__ == "__main__":
    sys.exit(main())
