#!/usr/bin/env python
"""What is each way of adapting worth? Rendered adults and animals to rendered infants, with 10 to 1000 labels.

    python -m benchmarks.adaptation --out results/adaptation --seeds 0 1 2
    python -m benchmarks.adaptation --out results/adaptation --seeds 0 1 2 --real SyRIP

One parent learns adults and four-legged animals. Its children learn infants, who lie in any direction and have other
proportions: by every strategy, with 10, 50, 200 and 1000 labelled pictures (``<strategy>@<pictures>``), in equal steps.
A seed draws other infants and another order. ``fresh@…`` are models of infants alone that know no parent,
``<strategy>+<what>@…`` keep the old by replay, distillation (LwF) or L2-SP, or take half of their crops from 950
further pictures without labels, which a mean teacher labels (``teacher``); ``own`` shows it the labelled pictures
once more, to tell what more pictures are worth from what a teacher is.

With ``--real`` the infants are photographs: a folder in SyRIP's layout. Judged are those official evaluation pictures
whose film is known and is none of the training pictures' (``val_other_films``). ``rendered`` has learned 1000 rendered
infants and no photograph; ``rendered+<strategy>@…`` goes on from there.

With ``--net larger`` the net has 5.1 M parameters and crops of 128×96, and the parent knows adults alone.

Learning rates are those that did best for every strategy with 50 pictures, on infants that are in no table.
``--rates`` tries some, and the best of those that were tried in ``--out`` counts more than what is written here.
Every run is one line of ``results.jsonl`` and is not repeated when the command is given again. Tables are printed at
the end, or alone with ``--steps 0``.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import cv2
import numpy as np
import orjson
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.rendered import LYING, NETS, STANDING, Net
from benchmarks.repeated import Results, spread, trained
from posecore.config import parse_config
from posecore.datasets.definition import EvaluationDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.protocols import evaluate
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.labels.bodies import LabelledBodies
from posecore.labels.contradictions import proportions_of
from posecore.loading.loader import LoadingConfig
from posecore.methods.adaptation import AdaptationConfig, AdaptationTerms
from posecore.methods.heads import HeadsConfig
from posecore.methods.strategies import Roles
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import CARD_FILE, load_model, load_outline, save_model
from posecore.models.sources import ModelFolder, StartFolder
from posecore.models.warm_start import warm_start
from posecore.schema import Record
from posecore.shards.store import open_store
from posecore.storage import write_atomically
from posecore.synth.writers import DatasetName, write_dataset
from posecore.training.gpus import find_gpu
from posecore.training.loop import TrainingConfig
from posecore.training.planner import AdaptedParts, PlannedRun, plan
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.multidataset_worker import MultiDatasetWorker

TARGET = "syrip"
COUNTS = (10, 50, 200, 1000)
NUM_VAL = 300
RENDERED_STEPS = 600


@dataclass(frozen=True)
class Learned:
    """What a parent learns.

    Attributes:
        known: training pictures of every set.
        steps: of the parent.
        warm: of them, its warm-up.
    """

    known: Mapping[DatasetName, int]
    steps: int
    warm: int = 20


LEARNED: Mapping[str, Learned] = {
    "micro": Learned({"coco": 4000, "ap10k": 1500}, 6000),
    "larger": Learned({"coco": 1500}, 2500, 100),
}
"""By the name of the net."""
STILL = {"half_body_probability": 0, "scale_factor": 0, "rotation_probability": 0, "center_jitter": "off"}
"""Of pictures that a teacher labels, who sees them as they are; what its student sees of them is turned and resized."""
RATES = (1e-3, 3e-3, 1e-2)
REAL_COUNTS = (10, 50, 200)
REAL_STRATEGIES = ("full", "lora")
LONGEST_SIDE_PX = 256
"""Of photographs, which are shrunk first: a crop has 64 pixels, and a large picture takes long to decode."""
TRIED_SEED = 100
NUM_UNLABELLED = 950
UNLABELLED_SEEDS = 1000
"""Added to a seed, these name infants that nobody has labelled."""
FILM = "film"


@dataclass(frozen=True)
class Arm:
    """One way of adapting.

    Attributes:
        strategy: what learns.
        rate: learning rate.
        replay: share of the crops that come from what the parent knows.
        l2_sp: pull to the parent's weights.
        length: steps, relative to those of other arms.
        rendered: whether the parent has learned rendered infants before.
        film: pictures from which half of the crops come, to be labelled by a mean teacher: ``further`` ones, or the
            labelled ones as ``own``.
        prior: whose proportions are a term of the loss: the target's own ``infants``, or the parent's ``adults``.
        terms: further fields of the method.
    """

    strategy: Any
    rate: float
    replay: float = 0.0
    l2_sp: float = 0.0
    length: int = 1
    rendered: bool = False
    film: Literal["further", "own"] | None = None
    prior: Literal["infants", "adults"] | None = None
    terms: Mapping[str, Any] = field(default_factory=dict)


STRATEGIES: Mapping[str, Arm] = {
    "full": Arm("full", 3e-3),
    "two-stage": Arm("two-stage", 3e-3),
    "last-n": Arm({"kind": "last-n", "blocks": 2}, 1e-2),
    "lora": Arm("lora", 1e-2),
    "dora": Arm("dora", 1e-2),
    "adapter": Arm({"kind": "adapter", "width": 32}, 1e-2),
    "bitfit": Arm("bitfit", 3e-3),
    "expert": Arm("expert", 1e-2),
    "frozen-backbone": Arm("frozen-backbone", 3e-3),
    "prototypes": Arm("prototypes", 3e-3),
}
"""With the best of three learning rates each; dora has lora's, two-stage full's, prototypes those of a head alone."""
KEPT: Mapping[str, Mapping[str, Any]] = {
    "replay": {"replay": 0.25},
    "lwf": {"terms": {"distillation": 1.0}},
    "replay+lwf": {"replay": 0.25, "terms": {"distillation": 1.0}},
    "weak-l2sp": {"l2_sp": 1.0},
    "l2sp": {"l2_sp": 10.0},
    "half": {"replay": 0.5, "length": 2},
    "half+lwf": {"replay": 0.5, "length": 2, "terms": {"distillation": 1.0}},
}
"""The last two see as many infants as ``full`` alone, and as many crops of what the parent knows."""
KEPT_COUNTS = (50, 1000)
TAUGHT: Mapping[str, Mapping[str, Any]] = {
    "teacher": {"film": "further", "terms": {"unlabelled": {}}},
    "own": {"film": "own", "terms": {"unlabelled": {}}},
}
TAUGHT_COUNTS = (10, 50)
FILM_SHARE = 0.5
PRIORS: Mapping[str, Mapping[str, Any]] = {"prior": {"prior": "infants"}, "adults": {"prior": "adults"}}
PRIOR_COUNTS = (50, 200)
"""Fewer than 20 bodies have no proportions."""


@dataclass(frozen=True)
class World:
    """Rendered data and the parent, made when they are first asked for.

    Attributes:
        out: folder of the experiment.
        batch: crops per step.
        net: the net.
        learned: what the parent learns.
        real: folder of photographs in SyRIP's layout, or None for rendered infants.
    """

    out: Path
    batch: int
    net: Net = NETS["micro"]
    learned: Learned = LEARNED["micro"]
    real: Path | None = None

    @cached_property
    def strategies(self) -> Mapping[str, Arm]:
        """Every strategy with the best learning rate that was tried in this experiment, else with the one it has."""
        found: dict[str, tuple[float, float]] = {}
        for row in Results(self.out / "rates").rows():
            name, _, rate = row["arm"].partition(":")
            found[name] = max(found.get(name, (-1.0, 0.0)), (row["metrics"][TARGET]["AP"], float(rate)))
        return {name: replace(arm, rate=found[name][1]) if name in found else arm for name, arm in STRATEGIES.items()}

    def infants(self, count: int, seed: int) -> str:
        """Location of the target's training shards: other pictures for every seed."""
        if self.real is None:
            return self.split(TARGET, "train", count, seed)
        return self.photographs("train", f"{count}_{seed}", count, seed)

    def photographs(self, split: str, name: str, count: int | None = None, seed: int = 0) -> str:
        """Location of shards of so many photographs, drawn by the seed; all of them if no count is given."""
        assert self.real is not None
        definition = load_dataset(TARGET)
        root = shrunk(self.real, self.out / "data" / "photographs")
        records = [r for r in read_split(definition, split, root) if isinstance(r, Record)]
        if count is not None:
            order = np.random.default_rng([seed, count]).permutation(len(records))
            records = [records[place] for place in sorted(order[:count])]
        job = ingest_job(definition, split, root, self.out / "shards" / f"photographs_{name}", IngestSettings())
        ingest(job, records)
        return str(job.folder)

    def split(self, name: DatasetName, split: str, pictures: int, seed: int = 0) -> str:
        """Location of ingested shards; equal arguments name the same pictures."""
        definition = load_dataset(name)
        counts = (pictures, 0) if split == "train" else (0, pictures)
        root = write_dataset(name, self.out / "data" / f"{name}_{split}_{pictures}_{seed}", *counts, (192, 192), seed)
        shards = self.out / "shards" / f"{pictures}_{seed}"
        job = ingest_job(definition, split, root, shards, IngestSettings())
        ingest(job, read_split(definition, split, root))
        return str(job.folder)

    @cached_property
    def known(self) -> dict[str, str]:
        """Training shards of what the parent knows."""
        return {name: self.split(name, "train", count) for name, count in self.learned.known.items()}

    @cached_property
    def held_out(self) -> dict[str, str]:
        """What parent and children are judged on: other subjects than any that is trained on."""
        known = {name: self.split(name, "val", NUM_VAL) for name in self.learned.known}
        if self.real is None:
            return {**known, TARGET: self.split(TARGET, "val", NUM_VAL)}
        return {**known, TARGET: self.photographs("val_other_films", "other_films")}

    @cached_property
    def parent(self) -> Path:
        """Folder of the model that knows adults and animals."""
        folder = self.out / "parent" / "model"
        if not (folder / CARD_FILE).exists():
            worker = MultiDatasetWorker(
                model=parse_config(self.net.model, ModelConfig, "model"),
                training=self.training(self.learned.steps, self.net.rate, seed=0, warm=self.learned.warm),
                loading=self.loading(dict.fromkeys(self.known, STANDING)),
                stores=self.known,
                method=HeadsConfig(),
            )
            trained(worker, folder.parent)
        return folder

    @cached_property
    def start(self) -> Path:
        """Folder of the parent with a head for infants, who have the points of adults."""
        folder, parent = self.out / "start" / "model", load_model(self.parent)
        if not (folder / CARD_FILE).exists():
            card, definition = parent.card, load_dataset(TARGET)
            model = build_model(
                card.architecture,
                {**card.skeletons, TARGET: definition.skeleton},
                {**card.conventions, TARGET: card.architecture.of_head(TARGET).on(definition.conventions)},
                {**card.licenses, TARGET: definition.license.id},
            )
            warm_start(model, parent)
            save_model(model, folder)
        return folder

    @cached_property
    def rendered(self) -> Path:
        """Folder of a child that has learned rendered infants, for photographs to go on from."""
        folder = self.out / "rendered" / "model"
        if not (folder / CARD_FILE).exists():
            worker = self.worker(self.strategies["full"], self.split(TARGET, "train", max(COUNTS)), 0, RENDERED_STEPS)
            trained(worker, folder.parent)
        return folder

    def loading(self, augment: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float] | None = None) -> Any:
        """Entries by name with their augmentation and weights."""
        entries = [
            {
                "name": name,
                "augment": how,
                "weight": weights[name] if weights else None,
                "unlabelled": "boxes" if name == FILM else None,
            }
            for name, how in augment.items()
        ]
        mixture = {"entries": entries, "sampling": "explicit" if weights else "natural"}
        return parse_config({"mixture": mixture, "num_threads": 1}, LoadingConfig, "loading")

    def training(self, steps: int, rate: float, seed: int, l2_sp: float = 0.0, warm: int = 20) -> TrainingConfig:
        """The loop; a run that was stopped loses a hundred steps at the most."""
        values = {
            "steps": steps,
            "global_batch": self.batch,
            "seed": seed,
            "optimizer": {"lr": rate, "weight_decay": 0.05, "layer_decay": 1.0, "anchor_decay": l2_sp},
            "schedule": {"kind": "cosine", "warmup_steps": min(warm, steps // 4)},
            "engine": {"kind": "torch", "precision": "bf16"},
            "checkpoint_every": min(steps, 100),
        }
        return parse_config(values, TrainingConfig, "training")

    def worker(self, arm: Arm, store: str, seed: int, steps: int) -> AdaptationWorker:
        """Trains a child on a store of infants."""
        terms = parse_config({"strategy": arm.strategy, **arm.terms, **self.prior(arm, store)}, AdaptationTerms, "arm")
        replayed = tuple(self.learned.known) if arm.replay else ()
        films = {} if arm.film is None else {FILM: store}
        if arm.film == "further":
            films = {FILM: self.split(TARGET, "train", NUM_UNLABELLED, seed + UNLABELLED_SEEDS)}
        method = AdaptationConfig(
            terms=terms,
            roles=Roles(TARGET, replayed),
            parent=ModelFolder.at(self.parent),
            old_heads=tuple(self.learned.known),
            unlabelled_sets=tuple(films),
        )
        folder = self.rendered if arm.rendered else self.start
        card = load_outline(folder).card
        weights = {name: arm.replay / len(replayed) for name in replayed} | dict.fromkeys(films, FILM_SHARE)
        weights[TARGET] = 1 - sum(weights.values())
        augment = {TARGET: LYING, **dict.fromkeys(replayed, STANDING), **dict.fromkeys(films, STILL)}
        return AdaptationWorker(
            model=card.architecture,
            method=method,
            weights=StartFolder.at(folder),
            training=self.training(steps, arm.rate, seed, arm.l2_sp),
            loading=self.loading(augment, weights),
            stores={TARGET: store, **{name: self.known[name] for name in replayed}, **films},
            parent=str(self.parent),
            card=card,
        )

    def prior(self, arm: Arm, store: str) -> dict[str, Any]:
        """The field of a method whose loss looks at proportions."""
        if arm.prior is None:
            return {}
        learned = open_store(store if arm.prior == "infants" else self.known["coco"])
        path = self.out / "proportions" / f"{learned.manifest.digest}.json"
        if not path.exists():
            proportions_of(learned, LabelledBodies.from_store(learned)).save(path)
        return {"prior": {"source": str(path), "datasets": [TARGET]}}

    def adapt(self, folder: Path, arm: Arm, store: str, seed: int, steps: int, judged: Sequence[str]) -> dict[str, Any]:
        """Trains a child on a store of infants and judges it."""
        steps *= arm.length
        worker = self.worker(arm, store, seed, steps)
        model, seconds = trained(worker, folder)
        card = worker.card
        child = build_model(
            worker.method.architecture(card.architecture), card.skeletons, card.conventions, card.licenses
        )
        learning = sum(p.numel() for p in worker.method.build(child).parameters() if p.requires_grad)
        return {"metrics": self.judge(model, judged), "step_s": seconds / steps, "trained": learning}

    def fresh(self, folder: Path, store: str, seed: int, steps: int, judged: Sequence[str]) -> dict[str, Any]:
        """Trains a model of infants alone and judges it on them."""
        worker = MultiDatasetWorker(
            model=parse_config(self.net.model, ModelConfig, "model"),
            training=self.training(steps, self.net.rate, seed),
            loading=self.loading({TARGET: LYING}),
            stores={TARGET: store},
            method=HeadsConfig(),
        )
        model, seconds = trained(worker, folder)
        learning = sum(parameter.numel() for parameter in model.parameters())
        return {"metrics": self.judge(model, judged), "step_s": seconds / steps, "trained": learning}

    def judge(self, model: PoseModel, judged: Sequence[str]) -> dict[str, dict[str, float]]:
        """By location: AP, and errors in torso lengths where bodies have a torso."""
        settings = InferenceSettings(num_threads=1, flip_test=False)
        found = {}
        for location in judged:
            store = open_store(location)
            name, definition = store.manifest.dataset, store.manifest.definition
            predictions, truth = predict_store(model, store, settings, head=name), GroundTruth.from_store(store)
            metrics = evaluate(definition.evaluation, definition.skeleton, truth, predictions)
            if {"left_shoulder", "left_hip"} <= set(definition.skeleton.names) and name == TARGET:
                torso = EvaluationDefinition(protocol="torso")
                metrics |= evaluate(torso, definition.skeleton, truth, predictions)
            found[name] = metrics
        return found


def shrunk(source: Path, folder: Path) -> Path:
    """A copy of photographs in SyRIP's layout, with their labels, none longer than :data:`LONGEST_SIDE_PX`."""
    for which in ("train", "validate"):
        name = f"annotations/person_keypoints_{which}_infant.json"
        if (folder / name).exists():
            continue
        document = orjson.loads((source / name).read_bytes())
        by_image = {entry["image_id"]: entry for entry in document["annotations"]}
        for image in document["images"]:
            path = f"images/{which}_infant/{image['file_name']}"
            pixels = cv2.imread(str(source / path))
            share = min(1.0, LONGEST_SIDE_PX / max(pixels.shape[:2]))
            small = cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / path), small)
            # A picture's sides are whole numbers, so both directions have a factor of their own.
            ratio = np.array(small.shape[1::-1]) / pixels.shape[1::-1]
            image |= {"height": small.shape[0], "width": small.shape[1]}
            label = by_image[image["id"]]
            label["bbox"] = (np.reshape(label["bbox"], (2, 2)) * ratio).ravel().tolist()
            points = np.reshape(label["keypoints"], (-1, 3)) * [*ratio, 1]
            label["keypoints"] = points.ravel().tolist()
        write_atomically(folder / name, orjson.dumps(document))
    return folder


def arms(strategies: Mapping[str, Arm]) -> Iterator[tuple[str, Arm, int]]:
    """Name, arm and number of pictures of every run of one seed, for rendered infants."""
    for count in COUNTS:
        for name, arm in strategies.items():
            yield f"{name}@{count}", arm, count
    for count in KEPT_COUNTS:
        for what, changes in KEPT.items():
            yield f"full+{what}@{count}", replace(strategies["full"], **changes), count
    for count in TAUGHT_COUNTS:
        for what, changes in TAUGHT.items():
            yield f"full+{what}@{count}", replace(strategies["full"], **changes), count
    for count in PRIOR_COUNTS:
        for what, changes in PRIORS.items():
            yield f"full+{what}@{count}", replace(strategies["full"], **changes), count


def real_arms(strategies: Mapping[str, Arm]) -> Iterator[tuple[str, Arm, int]]:
    """The same for photographs."""
    for count in REAL_COUNTS:
        for name in REAL_STRATEGIES:
            yield f"{name}@{count}", strategies[name], count
            yield f"rendered+{name}@{count}", replace(strategies[name], rendered=True), count


def try_rates(world: World, steps: int, strategies: Sequence[str], rates: Sequence[float]) -> None:
    """Every strategy with every learning rate, on infants that are in no table."""
    results = Results(world.out / "rates")
    train = world.split(TARGET, "train", 50, TRIED_SEED)
    val = world.split(TARGET, "val", NUM_VAL, TRIED_SEED)
    for name in strategies:
        for rate in rates:
            arm = Arm(STRATEGIES[name].strategy, rate)
            results.once(
                f"{name}:{rate:g}",
                TRIED_SEED,
                lambda folder, arm=arm: world.adapt(folder, arm, train, TRIED_SEED, steps, [val]),
            )
    table = Table(title="AP of infants in no table, in percent, by learning rate")
    rows = {row["arm"]: row for row in results.rows()}
    rates = sorted({float(name.partition(":")[2]) for name in rows})
    for column in ("strategy", *(f"{rate:g}" for rate in rates), "step s"):
        table.add_column(column)
    for name in STRATEGIES:
        found = [rows.get(f"{name}:{rate:g}") for rate in rates]
        cells = [f"{100 * row['metrics'][TARGET]['AP']:.1f}" if row else "–" for row in found]
        table.add_row(name, *cells, f"{mean([row['step_s'] for row in found if row] or [0]):.3f}")
    Console(width=120).print(table)


def show(results: Results, known: Sequence[str]) -> None:
    """The tables of what was gained and what was lost."""
    by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results.rows():
        by_arm[row["arm"]].append(row)
    zero = by_arm["zero-shot"][0]["metrics"]
    table = Table(title="infants; AP and PCK in percent, error in torso lengths; change of what the parent knew")
    columns = ("arm", "seeds", "infants AP", "PCK@0.2", "error", *(f"{name} AP" for name in known), "trained", "step s")
    for column in columns:
        table.add_column(column)
    for name, rows in by_arm.items():
        infants = [row["metrics"][TARGET] for row in rows]
        cells = [
            spread([100 * found["AP"] for found in infants]),
            spread([100 * found["PCK_torso_0.2"] for found in infants]),
            spread([found["torso_error"] for found in infants], 3),
        ]
        for old in known:
            changes = [100 * (row["metrics"][old]["AP"] - zero[old]["AP"]) for row in rows if old in row["metrics"]]
            absolute = f"{100 * zero[old]['AP']:.1f}" if name == "zero-shot" else spread(changes)
            cells.append(absolute)
        table.add_row(name, str(len(rows)), *cells, f"{rows[0]['trained']:,}", f"{mean(r['step_s'] for r in rows):.3f}")
    Console(width=160).print(table)


def show_memory(world: World) -> None:
    """What the planner says of a step's memory, by strategy."""
    table = Table(title=f"planned peak of tensors, {world.batch} crops, bfloat16")
    for column in ("strategy", "MiB"):
        table.add_column(column)
    points = {name: load_dataset(name).skeleton.num_keypoints for name in (*world.learned.known, TARGET)}
    for name, arm in STRATEGIES.items():
        strategy = parse_config({"strategy": arm.strategy}, AdaptationTerms, "arm").strategy
        planned = plan(
            PlannedRun(
                model=strategy.architecture(parse_config(world.net.model, ModelConfig, "model")),
                keypoints=points,
                engine=world.training(1, arm.rate, 0).engine,
                gpu=find_gpu("h100"),
                micro_batch=world.batch,
                adapted=AdaptedParts(strategy, Roles(TARGET)),
            )
        )
        table.add_row(name, f"{planned.peak_tensors / 2**20:.0f}")
    Console(width=160).print(table)


def main() -> None:
    """Trains what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of every child; 0 prints what is there")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--net", choices=[*NETS], default="micro")
    parser.add_argument("--arms", nargs="*", help="names, or their parts before @; default: all")
    parser.add_argument("--real", type=Path, help="adapt to photographs instead: a folder in SyRIP's layout")
    parser.add_argument("--rates", type=float, nargs="*", help="try these learning rates, or some, and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = World(options.out, options.batch, NETS[options.net], LEARNED[options.net], options.real)
    if options.rates is not None:
        try_rates(world, options.steps, options.arms or tuple(STRATEGIES), options.rates or RATES)
        return
    results = Results(options.out if options.real is None else options.out / "photographs")
    if options.steps:
        train_all(world, results, options.seeds, options.steps, options.arms)
    show(results, tuple(world.learned.known))
    if options.real is None:
        show_memory(world)


def train_all(world: World, results: Results, seeds: Sequence[int], steps: int, wanted: Sequence[str] | None) -> None:
    """Every run that is not there yet."""
    judged = list(world.held_out.values())
    started = {"zero-shot": world.start} | ({"rendered": world.rendered} if world.real else {})
    for name, model in started.items():
        results.once(
            name,
            0,
            lambda folder, model=model: {
                "metrics": world.judge(load_model(model), judged),
                "step_s": 0.0,
                "trained": 0,
            },
        )
    for seed in seeds:
        for name, arm, count in arms(world.strategies) if world.real is None else real_arms(world.strategies):
            if wanted is None or {name, name.partition("@")[0]} & {*wanted}:
                results.once(
                    name,
                    seed,
                    lambda folder, arm=arm, count=count, seed=seed: world.adapt(
                        folder, arm, world.infants(count, seed), seed, steps, judged
                    ),
                )
        for count in COUNTS if world.real is None else REAL_COUNTS:
            if wanted is None or "fresh" in wanted:
                results.once(
                    f"fresh@{count}",
                    seed,
                    lambda folder, count=count, seed=seed: world.fresh(
                        folder, world.infants(count, seed), seed, steps, [world.held_out[TARGET]]
                    ),
                )


if __name__ == "__main__":
    main()
