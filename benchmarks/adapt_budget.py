#!/usr/bin/env python
"""Is a strategy found within a budget as good as the best one that is named? Rendered adults to rendered infants.

    python -m benchmarks.adapt_budget --out results/adapt_budget --seeds 0 1 2 3 4

One parent learns adults. For every seed, which draws other infants, a search has so many steps for all its trials, of
which it carries the one that it chose to its end (``budget``); every candidate alone has as many steps for itself
(``fixed``). All are judged on infants and adults that nothing was learned or chosen from. ``--steps`` is that budget;
the search is ``posecore adapt --budget …steps`` itself, but for registration.

``--order`` names the candidates of another list, such as one that begins with a bad one; then the search alone is run
(``order``), and what it chose and the errors of its trials are told.

Every run is one line of ``results.jsonl`` and is not repeated when the command is given again; ``--seconds`` ends it
before a run that would begin later.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from benchmarks.rendered import LYING, MODEL, STANDING
from benchmarks.repeated import Results, spread, trained
from posecore.asides import aside_folder
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.keypoint_errors import relative_distances
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.protocols import evaluate
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.lineage.jobs.steps import EVERYTHING
from posecore.lineage.store.tracking import connect
from posecore.loading.loader import LoadingConfig
from posecore.methods.heads import HeadsConfig
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel
from posecore.models.saving import CARD_FILE, load_model
from posecore.shards.manifest import read_manifest
from posecore.shards.store import open_store
from posecore.synth.writers import write_dataset
from posecore.training.loop import TrainingConfig
from posecore.workflows.adaptation.child import adaptation, trainer
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.budget.candidates import Fit, as_run_file
from posecore.workflows.budget.contest import Contest, contest, find_strategy
from posecore.workflows.data_steps import Split
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.run_folder import copy_run
from posecore.workflows.without_ray import ThisProcess

ADULTS, INFANTS, JUDGED = 1500, 80, 300
SIZE = (96, 96)
PARENT_BATCH = 16
TINY: Mapping[str, Any] = {
    "backbone": {"kind": "vit", "embed_dim": 64, "depth": 3, "num_heads": 4, "patch_size": 8, "patch_padding": 0},
    "head": {"kind": "classic", "channels": 16},
    "input_size": [64, 64],
    "heatmap_sigma": 1.5,
}
PRESETS: Mapping[str, tuple[Mapping[str, Any], int]] = {"tiny": (TINY, 1000), "micro": (MODEL, 3000)}
"""The net, and how many steps the parent learns adults."""
CANDIDATES: Sequence[Mapping[str, Any]] = (
    {"name": "full", "strategy": "full", "replay": 0.0},
    {"name": "lora", "strategy": "lora", "rate": 3.0, "replay": 0.0},
    {"name": "full-replay", "strategy": "full", "replay": 0.25},
    {"name": "head", "strategy": "frozen-backbone"},
)
"""In the order of the usual ones."""


@dataclass(frozen=True)
class World:
    """Rendered data, the parent and run files, made when they are first asked for.

    Attributes:
        out: folder of the experiment.
        preset: of :data:`PRESETS`.
        steps: the budget.
        batch: crops per step.
        fields: what :meth:`known` has planned, by seed.
        order: names of the candidates.
    """

    out: Path
    preset: str
    steps: int
    batch: int
    fields: dict[int, Contest]
    order: Sequence[str] = tuple(each["name"] for each in CANDIDATES)

    def data(self, kind: str, train: int, val: int, seed: int) -> Path:
        """Folder of rendered pictures; equal arguments name the same ones."""
        folder = self.out / "data" / f"{kind}_{train}_{val}_{seed}"
        if not folder.exists():
            with aside_folder(folder.parent) as aside:
                write_dataset(kind, aside, train, val, SIZE, seed)
                aside.rename(folder)
        return folder

    @cached_property
    def parent(self) -> Path:
        """Folder of the model that knows adults."""
        folder = self.out / "parent" / "model"
        if not (folder / CARD_FILE).exists():
            root, definition = self.data("coco", ADULTS, JUDGED, 0), load_dataset("coco")
            job = ingest_job(definition, "train", root, self.out / "shards", IngestSettings())
            ingest(job, read_split(definition, "train", root))
            loading = {"mixture": {"entries": [{"name": "coco", "augment": STANDING}]}, "num_threads": 1}
            model, steps = PRESETS[self.preset]
            worker = MultiDatasetWorker(
                model=parse_config(model, ModelConfig, "model"),
                training=parse_config(
                    self.loop(steps, 2e-3, 0) | {"global_batch": PARENT_BATCH}, TrainingConfig, "training"
                ),
                loading=parse_config(loading, LoadingConfig, "loading"),
                stores={"coco": str(job.folder)},
                method=HeadsConfig(),
            )
            trained(worker, folder.parent)
        return folder

    def loop(self, steps: int, rate: float, seed: int) -> dict[str, Any]:
        """The loop; a run that was stopped loses 250 steps at the most."""
        return {
            "steps": steps,
            "global_batch": self.batch,
            "seed": seed,
            "optimizer": {"lr": rate, "weight_decay": 0.05, "layer_decay": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": 20},
            "engine": {"kind": "torch", "precision": "bf16"},
            "checkpoint_every": 250,
            "progress": False,
        }

    def job(self, seed: int) -> AdaptationJob:
        """The run file of a seed's search."""
        name, by_name = f"infants{seed}", {each["name"]: each for each in CANDIDATES}
        values = {
            "name": f"budget-{seed}",
            "run_folder": str(self.out / "run"),
            "parent": str(self.parent),
            "target": name,
            "method": {"strategy": "full"},
            "datasets": [
                {
                    "name": name,
                    "definition": "syrip",
                    "root": str(self.data("syrip", INFANTS, JUDGED, seed)),
                    "train": "train",
                    "evaluate": "val",
                    "augment": LYING,
                },
                {
                    "name": "coco",
                    "root": str(self.data("coco", ADULTS, JUDGED, 0)),
                    "train": "train",
                    "evaluate": "val",
                    "augment": STANDING,
                },
            ],
            "training": self.loop(self.steps, 3e-3, seed),
            "loading": {"num_threads": 1},
            "inference": {"flip_test": False, "num_threads": 1},
            "search": {
                "budget": f"{self.steps}steps",
                "order": "listed",
                "candidates": [by_name[name] for name in self.order],
            },
        }
        return parse_config(values, AdaptationJob, "benchmark")

    def known(self, seed: int) -> Contest:
        """The candidates of a seed's search, and what stands for the parent."""
        if seed not in self.fields:
            job = self.job(seed)
            self.fields[seed] = contest(job, connect(job.tracking, job.folder))
        return self.fields[seed]

    def budgeted(self, folder: Path, seed: int) -> dict[str, Any]:
        """Searches, and carries the chosen trial to its end."""
        began = time.process_time()
        found = find_strategy(self.job(seed), EVERYTHING, ThisProcess())
        seconds = time.process_time() - began
        if (begun := found.origin.begun) is not None and not folder.exists():
            copy_run(Path(begun.folder), folder)
        row = self.adapted(folder, found.config, seed)
        tags = found.run.tracking.client.get_run(found.run.run_id).data.tags
        return {"chosen": tags["posecore.chosen"], "search_s": seconds, "steps": found.config.training.steps, **row}

    def ordered(self, seed: int) -> dict[str, Any]:
        """Searches alone: what was chosen and why, and every trial's error after its last rung, in percent."""
        run, origin = (found := find_strategy(self.job(seed), EVERYTHING, ThisProcess())).run, found.origin
        query = f"tags.`posecore.kind` = 'trial' AND tags.`mlflow.parentRunId` = '{origin.run_id}'"
        trials = run.tracking.client.search_runs([run.tracking.experiment_id], query)
        errors = {each.data.tags["posecore.trial"]: 100 * each.data.metrics["validation_error"] for each in trials}
        chosen = run.tracking.client.get_run(run.run_id).data.tags["posecore.chosen"]
        return {"chosen": chosen, "told": origin.told, "errors": errors}

    def fixed(self, folder: Path, fit: Fit, seed: int) -> dict[str, Any]:
        """Adapts by one candidate with all the steps."""
        known = self.known(seed).config
        return self.adapted(folder, as_run_file(known, fit.candidate, self.steps), seed)

    def adapted(self, folder: Path, config: AdaptationJob, seed: int) -> dict[str, Any]:
        """A child and what it is worth; the steps of ``posecore adapt`` between ingestion and registration."""
        known, config = self.known(seed), config.taking_part()
        names = {config.target, *config.replayed}
        splits = [self.split(config, entry) for entry in config.datasets if entry.name in names]
        worker = trainer(config, adaptation(config, known.parent), known.parent, known.start, splits)
        model, seconds = trained(worker, folder)
        return {"metrics": self.judge(model, seed), "train_s": seconds}

    def split(self, config: AdaptationJob, entry: Any) -> Split:
        """A training split that a search ingested."""
        definition = entry.load()
        location = config.folder / "shards" / entry.name / definition.name / "train"
        return Split(entry, "training", str(location), read_manifest(location).digest, definition)

    def judge(self, model: PoseModel | None, seed: int) -> dict[str, float]:
        """AP of infants and adults, in percent, of whom nothing was learned, and the infants' mean error.

        The error is the mean distance of a labelled point, in percent of √(w·h) of the body's box.
        """
        if model is None:
            model = load_model(self.known(seed).start.folder)
        settings, found = InferenceSettings(num_threads=1, flip_test=False), {}
        for name, head, kind in (("infants", f"infants{seed}", "syrip"), ("adults", "coco", "coco")):
            location = self.out / "run" / "shards" / head / kind / "val"
            store = open_store(location)
            said, truth = predict_store(model, store, settings, head=head), GroundTruth.from_store(store)
            definition = store.manifest.definition
            found[name] = 100 * evaluate(definition.evaluation, definition.skeleton, truth, said)["AP"]
            distances = relative_distances(truth, paired_distances(truth, said))
            found[f"{name} error"] = 100 * float(np.nanmean(distances))
        return found


def show(results: Results, steps: int) -> None:
    """What was chosen, and how far it is from every fixed strategy."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in results.rows():
        by_arm[row["arm"]][row["seed"]] = row
    budget = by_arm.pop("budget", {})
    for arm in [arm for arm in by_arm if arm.startswith("order ")]:
        for seed, row in sorted(by_arm.pop(arm).items()):
            errors = ", ".join(f"{name} {error:.1f}" for name, error in row["errors"].items())
            print(f"{arm}, seed {seed}: {row['chosen']} chosen; errors: {errors}")
    table = Table(
        title=f"{steps} steps each; AP in percent, errors in percent of the box; differences are budget - arm"
    )
    differences = ("difference, AP", "difference, error", "difference, adults' AP")
    for column in ("arm", "seeds", "infants' AP", "adults' AP", "infants' error", *differences, "process s"):
        table.add_column(column)
    columns = {"budget": budget, **by_arm}
    for name, rows in columns.items():
        seeds = sorted(set(rows) & set(budget))
        told = ("infants", "adults", "infants error")
        of = {who: [rows[seed]["metrics"][who] for seed in seeds] for who in told}
        changes = [
            interval([budget[seed]["metrics"][who] - rows[seed]["metrics"][who] for seed in seeds])
            if name != "budget"
            else ""
            for who in ("infants", "infants error", "adults")
        ]
        seconds = [rows[seed].get("search_s", 0.0) + rows[seed].get("train_s", 0.0) for seed in seeds]
        table.add_row(name, str(len(seeds)), *(spread(values) for values in of.values()), *changes, spread(seconds, 0))
    Console(width=140).print(table)
    for seed, row in sorted(budget.items()):
        others = {name: rows[seed]["metrics"]["infants error"] for name, rows in by_arm.items() if seed in rows}
        if others and "zero-shot" in others:
            best = min(others, key=lambda name: others[name])
            own = row["metrics"]["infants error"]
            print(f"seed {seed}: {row['chosen']} chosen, error {own:.1f}; the best fixed, {best}, {others[best]:.1f}")


def interval(values: Sequence[float]) -> str:
    """Mean and its 95 % interval over seeds by Student's t."""
    if len(values) < 2:
        return spread(values)
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.1f} [{mean(values) - half:+.1f}, {mean(values) + half:+.1f}]"


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=600, help="of the whole budget; 0 prints what is there")
    parser.add_argument("--preset", choices=[*PRESETS], default="micro", help="the net")
    parser.add_argument("--batch", type=int, default=8, help="crops per step of a trial, of an adaptation")
    parser.add_argument("--fixed", nargs="*", help="named strategies to compare with; default: all")
    parser.add_argument("--order", nargs="*", choices=[each["name"] for each in CANDIDATES], help="search among these")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run later than that")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, until = Results(options.out), time.monotonic() + options.seconds
    world = World(options.out.absolute(), options.preset, options.steps, options.batch, {})
    if options.order:
        world = replace(world, order=options.order)
    for seed in options.seeds if options.steps else ():
        if time.monotonic() > until:
            break
        if options.order:
            arm = f"order {', '.join(options.order)}: {options.steps}"
            results.once(arm, seed, lambda _, seed=seed: world.ordered(seed))
            continue
        results.once("budget", seed, lambda folder, seed=seed: world.budgeted(folder, seed))
        results.once("zero-shot", seed, lambda folder, seed=seed: {"metrics": world.judge(None, seed)})
        for fit in world.known(seed).fits:
            wanted = options.fixed is None or fit.candidate.name in options.fixed
            if wanted and time.monotonic() <= until:
                results.once(
                    fit.candidate.name, seed, lambda folder, fit=fit, seed=seed: world.fixed(folder, fit, seed)
                )
    show(results, options.steps)


if __name__ == "__main__":
    main()
