#!/usr/bin/env python
"""Does a model know how far off it is? Rendered adults, where it was trained, and infants, where it was not.

    python benchmarks/uncertainty.py --out results/uncertainty --seeds 0 1 2

A small net learns adults, and is calibrated on other adults. What it promises is judged on further adults and on
infants, who lie in any direction; then on infants again with a calibration on infants, and once more after it has
learned 200 infants, with the adults' calibration and with one on infants. Every seed draws other pictures of each role
and another order; coverages are means over seeds with their spread, and the interval of each seed is from resampled
pictures, for the rendered sets name no subjects. Models and predictions are kept in ``--out``; a command that was
stopped, or that ``--seconds`` stops, goes on where it was.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import orjson
import torch

from benchmarks.rendered import LYING, MODEL, STANDING
from benchmarks.repeated import spread
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.keypoint_errors import answered_distances
from posecore.evaluation.traits import Traits
from posecore.evaluation.uncertainty import UncertaintyResult, fit_uncertainty, judge_uncertainty
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import AugmentConfig
from posecore.loading.crop import decode_image
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.methods.batch import to_device
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, build_model, model_for
from posecore.models.uncertainty import HeadUncertainty
from posecore.prediction.instances import ImagePrediction
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset
from posecore.viz.encoded import encode_jpeg
from posecore.viz.predictions import draw_prediction

ADULTS, INFANTS = "coco", "syrip"
SETTINGS = InferenceSettings(flip_test=True, uncertainty=True, num_threads=1)
SAVED_EVERY = 100


class OutOfTimeError(Exception):
    """The command may be given again."""


class World:
    """Data, nets and predictions of one seed, made when they are first asked for."""

    def __init__(self, out: Path, seed: int, options: argparse.Namespace) -> None:
        self.folder, self.seed, self.options = out / str(seed), seed, options
        self.until = options.until

    def split(self, dataset: str, role: str, count: int) -> ShardStore:
        """Rendered pictures of one role, ingested."""
        folder = self.folder / "data" / f"{dataset}_{role}"
        shards = folder / "shards"
        definition = load_dataset(dataset)
        if not (shards / dataset / "train" / "manifest.json").exists():
            seed = 1000 * self.seed + 10 * ("train", "calibration", "test").index(role) + (dataset == INFANTS)
            root = write_dataset(dataset, folder / "raw", count, 0, (128, 128), seed=seed)
            ingest(
                ingest_job(definition, "train", root, shards, IngestSettings()), read_split(definition, "train", root)
            )
        return open_store(shards / dataset / "train")

    def net(self, name: str) -> PoseModel:
        """``adults``, or what has learned infants from there on, ``adapted``."""
        definitions = {dataset: load_dataset(dataset) for dataset in (ADULTS, INFANTS)}
        torch.manual_seed(self.seed)
        model = model_for(ModelConfig.model_validate(MODEL), definitions)
        if name == "adults":
            return self.learned(name, model, ADULTS, self.options.pictures, self.options.steps, 2e-3, STANDING)
        model.load_state_dict(self.net("adults").state_dict())
        model.heads[INFANTS].load_state_dict(model.heads[ADULTS].state_dict())
        return self.learned(name, model, INFANTS, 200, self.options.adapting, 2e-3, LYING)

    def learned(
        self, name: str, model: PoseModel, dataset: str, count: int, steps: int, rate: float, augment: dict[str, object]
    ) -> PoseModel:
        """A net after some steps, going on from where a command before was stopped."""
        file = self.folder / f"{name}.pt"
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
        done = 0
        if file.exists():
            kept = torch.load(file, weights_only=True)
            done = kept["done"]
            model.load_state_dict(kept["model"])
            optimizer.load_state_dict(kept["optimizer"])
            schedule.load_state_dict(kept["schedule"])
        if done == steps:
            return model.eval()
        mixture = MixtureConfig(entries=(MixtureEntry(name=dataset),))
        loading = LoadingConfig(mixture=mixture, augment=AugmentConfig.model_validate(augment), num_threads=1)
        store = self.split(dataset, "train", count)
        loader = Loader(
            {dataset: store}, loading, input_size=(64, 64), seed=self.seed, global_batch=32,
            conventions={dataset: model.conventions[dataset]}, start_step=done,
        )  # fmt: skip
        method = SupervisedHeads(model.train(), SupervisedConfig())
        for crops in islice(iter(loader), steps - done):
            loss = method(to_device(crops, torch.device("cpu")))[f"loss/{dataset}"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done % SAVED_EVERY == 0 or done == steps:
                states: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
                torch.save({"done": done, **{what: of.state_dict() for what, of in states.items()}}, file)
                print(f"seed {self.seed}, {name}: {done} of {steps} steps, loss {loss.item():.5f}", flush=True)
                if time.monotonic() > self.until and done < steps:
                    raise OutOfTimeError
        return model.eval()

    def answers(self, name: str, head: str, dataset: str, role: str) -> tuple[GroundTruth, Predictions, Traits]:
        """What a net's head says of a test or calibration set."""
        store = self.split(dataset, role, self.options.judged)
        file = self.folder / f"{name}_{head}_{dataset}_{role}.npz"
        truth, traits = GroundTruth.from_store(store), Traits.from_store(store)
        if not file.exists():
            found = predict_store(self.net(name), store, SETTINGS, head=head)
            np.savez(file, **{each: getattr(found, each) for each in KEPT})
        values = np.load(file)
        return truth, Predictions(image_ids=truth.image_ids, **{each: values[each] for each in KEPT}), traits

    def fitted(self, name: str, head: str, dataset: str, *, constant: bool = False) -> HeadUncertainty:
        """What the calibration set of a dataset makes of that."""
        truth, predictions, traits = self.answers(name, head, dataset, "calibration")
        return fit_uncertainty(
            truth, alike(predictions) if constant else predictions, traits,
            points=load_dataset(dataset).skeleton.names, level=0.9, pictures=False,
            head=head, weights="", flip_test=True, path="regression", data=f"{dataset} calibration", digest="",
        )  # fmt: skip


KEPT = (
    "image_row", "instance_row", "keypoints", "keypoint_scores", "scores", "category_id", "crop_area", "covariances",
)  # fmt: skip
CASES = (
    ("adults, calibrated on adults", "adults", ADULTS, ADULTS, ADULTS),
    ("infants, calibrated on adults", "adults", ADULTS, ADULTS, INFANTS),
    ("infants, calibrated on infants", "adults", ADULTS, INFANTS, INFANTS),
    ("adapted: infants, calibrated on adults before", "adapted", INFANTS, ADULTS, INFANTS),
    ("adapted: infants, calibrated on infants", "adapted", INFANTS, INFANTS, INFANTS),
)
"""What is judged, the net, the head that answers, what it is calibrated on, and what it is judged on."""


def alike(predictions: Predictions) -> Predictions:
    """The same, as if the outputs said of every point as much: covariances by the size of the crop alone."""
    assert predictions.covariances is not None
    same = np.eye(2) * (predictions.crop_area / 64**2)[:, None, None, None]
    known = np.isfinite(predictions.covariances)
    return replace(predictions, covariances=np.where(known, np.broadcast_to(same, known.shape), np.nan))


def judged(world: World, net: str, head: str, fitted_on: str, dataset: str) -> list[tuple[UncertaintyResult, float]]:
    """By predicted sigmas, and by the size of the crop alone: the result and the median radius, pixels of the image."""
    truth, predictions, traits = world.answers(net, head, dataset, "test")
    names = load_dataset(dataset).skeleton.names
    rows = []
    for constant in (False, True):
        # Before the adaptation the adults' head answered: its calibration is what an adapted model would have kept.
        kept = fitted_on == ADULTS
        promised = world.fitted("adults" if kept else net, ADULTS if kept else head, fitted_on, constant=constant)
        said = alike(predictions) if constant else predictions
        result = judge_uncertainty(truth, said, traits, promised, names)
        rows.append((result, result.whole.radius))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pictures", type=int, default=1500, help="of adults to learn from")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--adapting", type=int, default=300, help="steps on 200 infants")
    parser.add_argument("--judged", type=int, default=300, help="pictures of each calibration set and each test set")
    parser.add_argument("--picture", type=Path, help="JPEG to draw the first seed's ellipses into")
    parser.add_argument("--cost", action="store_true", help="only measure what it costs to say it")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after a step beyond this")
    options = parser.parse_args()
    if options.cost:
        cost()
        return 0
    options.until = time.monotonic() + options.seconds
    torch.set_num_threads(1)
    found: dict[str, list[list[tuple[UncertaintyResult, float]]]] = {case[0]: [] for case in CASES}
    errors: dict[str, list[float]] = {case[0]: [] for case in CASES}
    try:
        for seed in options.seeds:
            world = World(options.out, seed, options)
            world.folder.mkdir(parents=True, exist_ok=True)
            for name, *case in CASES:
                found[name].append(judged(world, *case))
                truth, predictions, _ = world.answers(case[0], case[1], case[3], "test")
                errors[name].append(float(np.nanmedian(answered_distances(truth, predictions).pixels)))
    except OutOfTimeError:
        print("out of time: give the command again")
        return 3
    show(found, errors)
    if options.picture:
        picture(World(options.out, options.seeds[0], options), options.picture)
    return 0


def show(found: dict[str, list[list[tuple[UncertaintyResult, float]]]], errors: dict[str, list[float]]) -> None:
    """Tables of means over seeds, and everything as JSON."""
    print(
        "\n| judged on | median error, px | coverage90 | interval, seed by seed | visible | occluded | worst posture | "
        "worst keypoint | ellipse90 | radius, px | radius by crop alone | its coverage | ECE of P(visible) |"
    )
    print("|---|" + "--:|" * 12)
    for name, seeds in found.items():
        own, alone = ([rows[which][0] for rows in seeds] for which in (0, 1))
        heads = [result.headline() for result in own]

        def of(metric: str, heads: Sequence[dict[str, float]] = heads) -> str:
            values = [100 * each[metric] for each in heads if metric in each]
            return spread(values)

        ends = ", ".join(f"{100 * r.whole.coverage.low:.1f}–{100 * r.whole.coverage.high:.1f}" for r in own)
        cells = [
            f"{median(errors[name]):.1f}", of("coverage90"), ends, of("coverage90/visibility/visible"),
            of("coverage90/visibility/occluded"), worst(own, "posture"), worst(own, "keypoint"), of("ellipse90"),
            spread([float(r.whole.radius) for r in own]), spread([float(r.whole.radius) for r in alone]),
            spread([100 * r.whole.coverage.value for r in alone]), of("visible_ECE"),
        ]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")
    print(orjson.dumps({name: [rows[0][0].headline() for rows in seeds] for name, seeds in found.items()}).decode())


def picture(world: World, path: Path) -> None:
    """Test pictures with ellipses, a row each: adults, infants by the adults' promise, infants after the adaptation."""
    rows = []
    for net, head, fitted_on, dataset in (CASES[0][1:], CASES[1][1:], CASES[4][1:]):
        _, predictions, _ = world.answers(net, head, dataset, "test")
        promised, store = world.fitted(net, head, fitted_on), world.split(dataset, "test", world.options.judged)
        skeleton = load_dataset(dataset).skeleton
        cells = []
        for row in (3, 11, 20, 33):
            chosen = predictions.take(np.array([row]))
            assert chosen.covariances is not None
            factor = 2.0
            sure = promised.apply(chosen.covariances * factor**2, chosen.keypoint_scores)
            number = int(chosen.image_row[0])
            image = decode_image(store.read_image_bytes(number), 10**7, "")
            found = ImagePrediction(
                head=head, keypoints=chosen.keypoints * factor, keypoint_scores=chosen.keypoint_scores,
                scores=chosen.scores, bbox_xywh=np.array([[0.0, 0.0, 256.0, 256.0]]), box_scores=np.ones(1),
                box_rows=np.zeros(1, np.int64), points=skeleton.names, uncertainty=sure,
            )  # fmt: skip
            larger = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            cells.append(draw_prediction(larger, found, skeleton, 0.0)[:256, :256])
        rows.append(np.concatenate(cells, axis=1))
    path.write_bytes(encode_jpeg(np.concatenate(rows)))


def cost() -> None:
    """Processor time of decoding, of covariances beside it, and of the network that gives the outputs."""
    print("| outputs of 32 crops of 17 points | network, ms | decoding, ms | covariances, ms | share of all |")
    print("|---|--:|--:|--:|--:|")
    for preset in ("vitpose-small", "rtmpose-m"):
        config = ModelConfig.model_validate({"backbone": preset})
        torch.manual_seed(0)
        model = build_model(config, {"coco": load_dataset("coco").skeleton}).eval()
        codec, crops = model.codec("coco"), torch.randn(32, 3, *config.input_size)
        outputs = codec.encode(torch.rand(32, 17, 2) * 190, torch.ones(32, 17))[0]
        times: list[list[float]] = []
        for _ in range(5):
            marks = [time.process_time()]
            with torch.no_grad():
                model.predict(crops, "coco")
            marks.append(time.process_time())
            points, _ = codec.decode(outputs)
            marks.append(time.process_time())
            codec.covariances(outputs, points)
            times.append(np.diff([*marks, time.process_time()]).tolist())
        network, decoding, spread_ms = (1000 * median(column) for column in zip(*times, strict=True))
        share = spread_ms / (network + decoding + spread_ms)
        print(f"| {preset} | {network:,.0f} | {decoding:.1f} | {spread_ms:.1f} | {share:.2%} |")


def worst(results: Sequence[UncertaintyResult], trait: str) -> str:
    """The group whose mean coverage over seeds is lowest, and that."""
    by = {group.name: [] for result in results for group in result.by.get(trait, ())}
    for result in results:
        for group in result.by.get(trait, ()):
            by[group.name].append(100 * group.coverage.value)
    if not by:
        return "–"
    name = min(by, key=lambda each: float(np.mean(by[each])))
    return f"{spread(by[name])} ({name})"


if __name__ == "__main__":
    sys.exit(main())
