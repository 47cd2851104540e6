"""The child before it has learned: what it takes over from its parent, and what its training will cost."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.table import Table

from posecore.config import digest_json
from posecore.counting import counted
from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.code.version import code_digest
from posecore.methods.adaptation import AdaptationConfig
from posecore.models.architecture import ModelCard
from posecore.models.pose_model import build_model
from posecore.models.saving import holds_model, save_model
from posecore.models.warm_start import WarmStart, warm_start
from posecore.skeletons.compare import compare_skeletons
from posecore.training.gpus import find_gpu
from posecore.training.planner import AdaptedParts, Plan, PlannedRun, plan
from posecore.training.preflight import crops_per_rank
from posecore.workflows.adaptation.job import AdaptationJob, Group
from posecore.workflows.fetched_model import FetchedModel


@dataclass(frozen=True)
class Start:
    """The child before it has learned: what the parent knows, in the target's points.

    Attributes:
        folder: of the model; it stands for the parent wherever the target's points are judged.
        card: what the child is before the strategy adds to it.
        report: what came from where.
        differences: points of the target that look like the parent's and are not; one sentence each.
        fresh_head: whether the target's head took nothing from the parent.
    """

    folder: str
    card: ModelCard
    report: WarmStart
    differences: tuple[str, ...]
    fresh_head: bool

    def stands_for_parent(self, group: Group) -> bool:
        """Whether its figures on such a set say anything of the parent: a fresh head's are chance."""
        return group == "kept" or not self.fresh_head


def make_start(config: AdaptationJob, definitions: Mapping[str, DatasetDefinition], parent: FetchedModel) -> Start:
    """The parent with a head for the target, which takes over all points that the parent has by the same union name."""
    definition, card = definitions[config.target], parent.model.card
    torch.manual_seed(config.training.seed)
    # Heads that the parent has come with the conventions they were trained under.
    model = build_model(
        card.architecture.with_depth() if config.depth_input else card.architecture,
        {**card.skeletons, config.target: card.skeletons.get(config.target, definition.skeleton)},
        {
            config.target: card.architecture.of_head(config.target, definition.name).on(definition.conventions),
            **card.conventions,
        },
        {config.target: definition.license.id, **card.licenses},
    )
    report = warm_start(model, parent.model)
    head = next(row for row in report.rows if row.what == f"head {model.owner(config.target)}")
    known = parent.model.skeletons.get(head.source.removeprefix("head "), definition.skeleton)
    differences = tuple(
        f"{config.target}: {each}." for each in compare_skeletons(definition.skeleton, known).lookalikes
    )
    decided = {
        "parent": parent.source.sha256,
        "card": model.card.model_dump(mode="json"),
        "seed": config.training.seed,
        "code": code_digest(["posecore.models.warm_start", "posecore.models.pose_model"]),
    }
    folder = config.folder / "start" / digest_json(decided)[:12] / "model"
    model.card = model.card.model_copy(update={"lineage": {"parent": dict(parent.record)}})
    if not holds_model(folder):
        save_model(model, folder)
    return Start(str(folder), model.card, report, differences, fresh_head=not head.copied)


def planned(config: AdaptationJob, method: AdaptationConfig, start: Start) -> Plan:
    """What the planner says of the child's training."""
    return plan(
        PlannedRun(
            model=method.architecture(start.card.architecture),
            keypoints={name: start.card.skeletons[name].num_keypoints for name in start.card.skeletons},
            engine=config.training.engine,
            gpu=find_gpu(config.plan_gpu),
            num_gpus=config.cluster.num_workers,
            micro_batch=crops_per_rank(
                config.training.global_batch, config.cluster.num_workers, config.training.accumulation
            )
            // config.training.accumulation,
            accumulation=config.training.accumulation,
            num_copies=(config.training.average is not None) + len(_asked(config)),
            adapted=AdaptedParts(method.terms.strategy, method.roles),
        )
    )


def plan_table(config: AdaptationJob, method: AdaptationConfig, start: Start) -> Table:
    """Trainable parameters, memory and time, before anything starts."""
    table = Table(title=f"plan for {counted(config.cluster.num_workers, 'GPU')} of kind {config.plan_gpu}")
    if asked := _asked(config):
        table.caption = f"{' and '.join(asked)}: the copy is counted, the forward pass is not"
    for column in ("strategy", "trained parameters", "of", "share", "peak per GPU", "step"):
        table.add_column(column)
    answer = planned(config, method, start)
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


def _asked(config: AdaptationJob) -> list[str]:
    """Models that the child's loss asks, in words."""
    asked = ["the parent"] if config.method.distillation else []
    return asked + (["the teacher"] if config.unlabelled else [])
