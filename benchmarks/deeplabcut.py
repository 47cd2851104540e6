"""Few labelled frames of a real DeepLabCut project: what is a model worth that was trained on other bodies?

    python -m benchmarks.deeplabcut --data Reaching-Mackenzie-2018-08-30 --out results/deeplabcut --seeds 0 1 2

The parent is trained once, on synthetic people and animals, which share no point with the project. Every seed draws its
own frames of the training part (the smaller draw is part of the larger) and trains on them: ``scratch`` from fresh
weights, every other arm from the parent by the strategy of that name, all in equally many steps. ``<arm>@<frames>`` is
judged by pixel error on the held-out frames, which are of the same video. The crop is the whole picture, as for a user
who has no labels yet; arms in ``points'`` boxes are told where the labels lie, held-out ones included.

What needs no model is judged in the same way: the mean place of each point in the training frames, relative to the
box, and the labels of the training frame that is nearest in time among those of the same size.

Every run is one line of ``results.jsonl`` and is not repeated when the command is given again. The table is printed at
the end, or alone with ``--steps 0``; ``predictions.jpg`` shows the held-out frames, label and prediction side by side.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.repeated import Results, spread, trained
from posecore.config import parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.protocols import evaluate
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import LoadingConfig
from posecore.methods.adaptation import AdaptationConfig, AdaptationTerms
from posecore.methods.strategies import Roles
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder, StartFolder
from posecore.models.warm_start import warm_start
from posecore.shards.corrections import CorrectedInstance, Corrections
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset
from posecore.training.loop import TrainingConfig
from posecore.viz.close_ups import worst_cases
from posecore.viz.encoded import contact_sheet, encode_jpeg
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.multidataset_worker import MultiDatasetWorker

TARGET = "deeplabcut"
Boxes = Literal["picture", "points"]
FRAMES = (10, 20, 40)
"""Frames trained on; 40 are all."""
FURTHER = ("lora", "frozen-backbone", "two-stage")
"""Strategies that are tried with the fewest frames and with all."""
ANIMALS_AND_PEOPLE = {"coco": 1600, "ap10k": 1200}
"""Pictures that the parent is trained on."""
NEAR_PX = 10.0
RATE, SLOWER = 1e-3, 3e-4
"""Learning rates; the lower one is tried in case the usual one destroys what the parent knows."""
MODEL: dict[str, Any] = {
    "backbone": {"preset": "vit-micro", "patch_size": 8, "patch_padding": 0},
    "head": {"kind": "classic", "channels": 32},
    "input_size": [128, 128],
    "heatmap_sigma": 1.5,
}
BODIES = {"half_body_probability": 0, "scale_factor": 0.15, "rotation_probability": 0.5, "rotation_degrees": 20}
FIXED_CAMERA = {
    # Nothing is ever mirrored, and turned or moved only as much as a camera that is put up again.
    "flip_probability": 0,
    "half_body_probability": 0,
    "scale_factor": 0.15,
    "rotation_probability": 0.5,
    "rotation_degrees": 10,
    "center_jitter": "per_sample",
    "center_jitter_probability": 0.5,
    "center_jitter_extent": 0.2,
}
INFERENCE = InferenceSettings(num_threads=1, flip_test=False)


@dataclass(frozen=True)
class Project:
    """The project, ingested with one kind of box.

    Attributes:
        train: the part that training frames are drawn from.
        test: the held-out frames.
    """

    train: ShardStore
    test: ShardStore

    def draw(self, frames: int, seed: int) -> NDArray[np.int64]:
        """Rows of the training frames of a seed, in ascending order; the smallest draw labels every point."""
        labelled = GroundTruth.from_store(self.train).visibility > 0
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(labelled))
        while not labelled[order[: FRAMES[0]]].any(axis=0).all():
            order = generator.permutation(len(labelled))
        return np.sort(order[:frames])

    def without_others(self, rows: NDArray[np.int64]) -> Corrections:
        """What makes every label outside these rows unlabelled."""
        truth, manifest = GroundTruth.from_store(self.train), self.train.manifest
        names = np.array(manifest.definition.skeleton.names)
        others = tuple(
            CorrectedInstance(
                image=truth.image_ids[truth.image_row[row]],
                instance=truth.instance_ids[row],
                unlabelled=tuple(map(str, names[truth.visibility[row] > 0])),
            )
            for row in np.setdiff1d(np.arange(len(truth)), rows)
        )
        return Corrections(
            dataset=manifest.dataset,
            split=manifest.split,
            dataset_digest=manifest.digest,
            made_by={"benchmark": "deeplabcut", "frames": rows.tolist()},
            instances=others,
        )


def project(data: Path, out: Path, boxes: Boxes) -> Project:
    """Ingests both parts of the project."""
    options: dict[str, Any] = {"reader_options": {"box": boxes}}
    definition = load_dataset(TARGET)
    if boxes == "picture":
        options["conventions"] = definition.conventions.model_copy(update={"padded": True})
    definition = definition.model_copy(update=options)
    return Project(*(_ingested(definition, split, data, out / boxes) for split in ("frames_train", "frames_test")))


def _ingested(definition: DatasetDefinition, split: str, root: Path, out: Path) -> ShardStore:
    job = ingest_job(definition, split, root, out, IngestSettings())
    ingest(job, read_split(definition, split, root))
    return open_store(job.folder)


class Experiment:
    """Trains, judges and remembers.

    Args:
        data: the project's folder.
        out: folder of the experiment.
        steps: of every arm.
        batch: crops per step.
    """

    def __init__(self, data: Path, out: Path, steps: int, batch: int) -> None:
        self.results = Results(out)
        self.projects: dict[Boxes, Project] = {
            "picture": project(data, out / "shards", "picture"),
            "points": project(data, out / "shards", "points"),
        }
        self.steps = steps
        self.batch = batch

    def parent(self, steps: int, batch: int) -> None:
        """Trains the parent, once for all seeds."""

        def run(folder: Path) -> dict[str, Any]:
            stores = {}
            for name, count in ANIMALS_AND_PEOPLE.items():
                root = write_dataset(name, self.results.out / "data" / name, count, 100, (192, 192))
                for split in ("train", "val"):
                    out = self.results.out / "shards"
                    stores[name, split] = _ingested(load_dataset(name), split, root, out)
            worker = MultiDatasetWorker(
                model=parse_config(MODEL, ModelConfig, "model"),
                training=_training(steps, batch, 0, 2e-3),
                loading=_loading({name: BODIES for name in ANIMALS_AND_PEOPLE}),
                stores={name: str(stores[name, "train"].location) for name in ANIMALS_AND_PEOPLE},
            )
            model, seconds = trained(worker, folder)
            judged = {}
            for name in ANIMALS_AND_PEOPLE:
                store = stores[name, "val"]
                judged[name] = _judge(store, predict_store(model, store, INFERENCE))["AP"]
            return {"AP": judged, "seconds": seconds}

        self.results.once("parent", 0, run)

    def arms(self, seed: int) -> None:
        """Trains and judges every arm of one seed."""
        for arm in ("scratch", "full"):
            for frames in FRAMES:
                self._arm(arm, frames, seed, "picture")
            self._arm(arm, FRAMES[-1], seed, "points")
        for arm in FURTHER:
            for frames in (FRAMES[0], FRAMES[-1]):
                self._arm(arm, frames, seed, "picture")
        for frames in (FRAMES[0], FRAMES[-1]):
            self._arm("full", frames, seed, "picture", SLOWER)

    def _arm(self, arm: str, frames: int, seed: int, boxes: Boxes, rate: float = RATE) -> None:
        its = self.projects[boxes]

        def run(folder: Path) -> dict[str, Any]:
            common: dict[str, Any] = {
                "training": _training(self.steps, self.batch, seed, rate),
                "loading": _loading({TARGET: FIXED_CAMERA}),
                "stores": {TARGET: str(its.train.location)},
                "corrections": {TARGET: its.without_others(its.draw(frames, seed))},
            }
            if arm == "scratch":
                worker = MultiDatasetWorker(model=parse_config(MODEL, ModelConfig, "model"), **common)
            else:
                worker = self._adaptation(arm, its.train.manifest.definition, seed, folder, common)
            model, seconds = trained(worker, folder)
            return {"metrics": _judge(its.test, predict_store(model, its.test, INFERENCE)), "seconds": seconds}

        self.results.once(_name(arm if rate == RATE else f"{arm}, slower", frames, boxes), seed, run)

    def _adaptation(
        self, strategy: str, definition: DatasetDefinition, seed: int, folder: Path, common: Mapping[str, Any]
    ) -> AdaptationWorker:
        at = self.results.folder("parent", 0) / "model"
        parent = load_model(at)
        torch.manual_seed(seed)
        start = build_model(
            parent.config,
            {**parent.card.skeletons, TARGET: definition.skeleton},
            {**parent.card.conventions, TARGET: parent.config.of_head(TARGET).on(definition.conventions)},
            {**parent.card.licenses, TARGET: definition.license.id},
        )
        warm_start(start, parent)
        method = AdaptationConfig(
            terms=AdaptationTerms.model_validate({"strategy": strategy}),
            roles=Roles(TARGET),
            parent=ModelFolder.at(at),
        )
        weights = StartFolder.at(save_model(start, folder / "start"))
        return AdaptationWorker(
            model=start.config, method=method, weights=weights, parent=str(at), card=start.card, **common
        )


def _name(arm: str, frames: int, boxes: Boxes) -> str:
    return f"{arm}@{frames}" + (" points' boxes" if boxes == "points" else "")


def _training(steps: int, batch: int, seed: int, rate: float) -> TrainingConfig:
    values = {
        "steps": steps,
        "global_batch": batch,
        "seed": seed,
        "optimizer": {"lr": rate, "weight_decay": 0.05, "layer_decay": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": min(50, steps // 4)},
        "engine": {"kind": "torch", "precision": "bf16"},
        "checkpoint_every": steps,
        "log_every": 50,
    }
    return parse_config(values, TrainingConfig, "training")


def _loading(augment: Mapping[str, Any]) -> LoadingConfig:
    entries = [{"name": name, "augment": values} for name, values in augment.items()]
    return parse_config({"mixture": {"entries": entries}, "num_threads": 1}, LoadingConfig, "loading")


def _judge(store: ShardStore, predictions: Predictions) -> dict[str, float]:
    """The metrics of the set's protocol; of pixel error also ``within`` and ``<point>``, its mean error."""
    definition, truth = store.manifest.definition, GroundTruth.from_store(store)
    metrics = evaluate(definition.evaluation, definition.skeleton, truth, predictions)
    if definition.evaluation.protocol == "pixel":
        pixels = paired_distances(truth, predictions).pixels
        metrics["within"] = float((pixels[np.isfinite(pixels)] <= NEAR_PX).mean())
        metrics |= dict(zip(definition.skeleton.names, np.nanmean(pixels, axis=0).tolist(), strict=True))
    return metrics


def without_a_model(its: Project, frames: int, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of the answers that need no model, by name."""
    known, asked = GroundTruth.from_store(its.train), GroundTruth.from_store(its.test)
    rows = its.draw(frames, seed)
    labelled = known.visibility[rows] > 0
    corner, size = known.bbox_xywh[rows, None, :2], known.bbox_xywh[rows, None, 2:]
    relative = np.where(labelled[..., None], (known.keypoints[rows] - corner) / size, np.nan)
    mean_place = asked.bbox_xywh[:, None, :2] + np.nanmean(relative, axis=0) * asked.bbox_xywh[:, None, 2:]

    known_times, asked_times = (store.images["frame_index"].to_numpy() for store in (its.train, its.test))
    known_sizes, asked_sizes = (truth.image_size[truth.image_row] for truth in (known, asked))
    copied = mean_place.copy()
    for row, moment in enumerate(asked_times):
        same = (known_sizes[rows] == asked_sizes[row]).all(axis=1)
        for point in range(copied.shape[1]):
            candidates = np.flatnonzero(same & labelled[:, point])
            if len(candidates):
                nearest = candidates[np.abs(known_times[rows[candidates]] - moment).argmin()]
                copied[row, point] = known.keypoints[rows[nearest], point]
    return {
        name: _judge(its.test, _answers(asked, keypoints))
        for name, keypoints in (("mean place", mean_place), ("nearest in time", copied))
    }


def _answers(asked: GroundTruth, keypoints: NDArray[np.float64]) -> Predictions:
    """One answer for every instance: (N, K, 2) points in image pixels, none surer than another."""
    ones = np.ones(len(asked))
    return Predictions(
        image_ids=asked.image_ids,
        image_row=asked.image_row,
        instance_row=np.arange(len(asked)),
        keypoints=keypoints,
        keypoint_scores=np.ones(keypoints.shape[:2]),
        scores=ones,
        category_id=asked.category_id,
        crop_area=ones,
    )


def show(results: Results, projects: Mapping[Boxes, Project], seeds: Sequence[int]) -> None:
    """Mean ± standard deviation over the seeds, one row per arm, those without a model first.

    ``always seen`` is the mean over the points that are labelled in every held-out frame.
    """
    by_arm: dict[str, list[dict[str, float]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for boxes, its in projects.items():
        for frames in FRAMES if boxes == "picture" else FRAMES[-1:]:
            for seed in seeds:
                for name, metrics in without_a_model(its, frames, seed).items():
                    by_arm[_name(name, frames, boxes)].append(metrics)
    for row in results.rows():
        if row["arm"] == "parent":
            print("parent:", ", ".join(f"{name} AP {100 * ap:.1f}" for name, ap in row["AP"].items()), end="; ")
            print(f"{row['seconds']:.0f} processor seconds")
        elif row["seed"] in seeds:
            by_arm[row["arm"]].append(row["metrics"])
            seconds[row["arm"]].append(row["seconds"])
    test = projects["picture"].test
    points = test.manifest.definition.skeleton.names
    everywhere = (GroundTruth.from_store(test).visibility > 0).all(axis=0)
    always = [point for point, labelled in zip(points, everywhere, strict=True) if labelled]
    table = Table(title="error on the held-out frames, pixels of the picture")
    for column in ("arm", "seeds", "mean", "median", f"% within {NEAR_PX:g} px", "always seen", *points, "processor s"):
        table.add_column(column)
    for arm, found in by_arm.items():
        values = [spread([metrics[name] for metrics in found]) for name in ("mean_error_px", "median_error_px")]
        values += [spread([100 * metrics["within"] for metrics in found], 0)]
        values += [spread([mean(metrics[point] for point in always) for metrics in found])]
        values += [spread([metrics[point] for metrics in found], 0) for point in points]
        table.add_row(arm, str(len(found)), *values, spread(seconds[arm], 0))
    Console(width=200).print(table)


def draw(results: Results, its: Project, arm: str, seed: int) -> None:
    """Held-out frames with label and prediction side by side, the worst first."""
    model, truth = load_model(results.folder(arm, seed) / "model"), GroundTruth.from_store(its.test)
    predictions = predict_store(model, its.test, INFERENCE)
    cases = worst_cases(its.test, its.test.manifest.definition.skeleton, truth, predictions, len(truth))
    sheet = contact_sheet([case.picture_rgb for case in cases], columns=3, cell_px=480)
    (results.out / "predictions.jpg").write_bytes(encode_jpeg(sheet))


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the project: the folder with config.yaml")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of every arm; 0 prints what is there")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--parent-steps", type=int, default=1500)
    parser.add_argument("--parent-batch", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment(options.data, options.out, options.steps, options.batch)
    if options.steps:
        experiment.parent(options.parent_steps, options.parent_batch)
        for seed in options.seeds:
            experiment.arms(seed)
    show(experiment.results, experiment.projects, options.seeds)
    drawn = _name("full", FRAMES[-1], "picture")
    if any(row["arm"] == drawn and row["seed"] == options.seeds[0] for row in experiment.results.rows()):
        draw(experiment.results, experiment.projects["picture"], drawn, options.seeds[0])


if __name__ == "__main__":
    main()
