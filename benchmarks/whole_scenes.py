"""Crops of bodies against whole pictures: accuracy and errors by the number of bodies in a picture.

    python -m benchmarks.whole_scenes --out results/whole_scenes train top-down
    python -m benchmarks.whole_scenes --out results/whole_scenes train bottom-up
    python -m benchmarks.whole_scenes --out results/whole_scenes train one-stage
    python -m benchmarks.whole_scenes --out results/whole_scenes judge
    python -m benchmarks.whole_scenes --out results/whole_scenes --infants train top-down   # then the others, and judge

Rendered adults, who hide parts of each other, 1 to 40 in a picture. All models have the same backbone and learn from
the same pictures: the top-down one from nothing, the others from its backbone, as one begins with published weights.
They are judged on pictures of other people by COCO's protocol. A training that is stopped goes on where its last
checkpoint is.

``judge`` asks those models that have been trained. The top-down one is given the true boxes; those of a made-up
detector (:func:`posecore.synth.coco_files.detections`: every thirtieth body missed, sides off by 3 %, a false alarm on
every fifth picture); and those of the bodies that the others find. They are judged

* by the number of bodies in a picture, with bodies counted that are missed, redundant and swapped;
* all pictures of 1 to 20 together by CrowdPose's protocol, and by OCHuman's bodies, whose box is mostly shared;
* on infants in incubators with the arms of adults in the picture, which no training picture shows, unless ``--infants``
  says that each model goes on, on the same pictures and twice as many of incubators with other infants;
* on real pictures of COCO, if ``POSECORE_SAMPLES`` says where some are.

A line for each goes to ``judged.json``. What bodies in whole pictures cost is asked by
:mod:`benchmarks.whole_scene_costs`.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.repeated import trained
from posecore.config import parse_config
from posecore.datasets.definition import DatasetDefinition, EvaluationDefinition, SplitDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.body_errors import body_errors
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.oks import match_predictions, similarity
from posecore.evaluation.protocols import bodies_of, evaluate
from posecore.evaluation.results import DetectedBoxes
from posecore.evaluation.scenes import predict_images
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import LoadingConfig
from posecore.methods.heads import HeadsConfig
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model
from posecore.models.sources import StartFolder
from posecore.shards.store import ShardStore, open_store
from posecore.synth.coco_files import CocoFile, CrowdPoseFile, detections
from posecore.synth.scene import Scene, render, render_group
from posecore.synth.writers import encode_jpeg
from posecore.training.loop import TrainingConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker

COUNTS = (1, 2, 5, 10, 20, 40)
SIDE = 128
"""Of the pictures, px."""
MOST_ANSWERS = 20
"""Of a picture, that COCO's and CrowdPose's protocols look at."""
NUM_TRAIN, NUM_JUDGED = 400, 12
"""Pictures to learn from, and per number of bodies."""
NUM_INCUBATORS = 48
NUM_INCUBATORS_TRAIN = 800
FIRST_ADULT = 500_000
"""Subjects of incubators from here on are adults."""
BACKBONE: dict[str, Any] = {"preset": "vit-nano", "patch_size": 8, "patch_padding": 0}
MODELS: dict[str, dict[str, Any]] = {
    "top-down": {
        "backbone": BACKBONE,
        "head": {"kind": "classic", "channels": 32},
        "input_size": [64, 48],
        "heatmap_sigma": 1.5,
    },
    "bottom-up": {
        "backbone": BACKBONE,
        "head": {"kind": "associative", "channels": 32, "fine_channels": 16, "fine_blocks": 1},
        "input_size": [128, 128],
        "heatmap_sigma": 1.5,
    },
    "one-stage": {
        "backbone": BACKBONE,
        "head": {"kind": "queries", "num_queries": 40, "channels": 64, "num_layers": 2, "num_heads": 4, "hidden": 128},
        "input_size": [128, 128],
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "top-down": {},
    "bottom-up": {},
    # Without queries that begin with labels, with which a step takes twice as long.
    "one-stage": {"loss": {"kind": "set_prediction", "denoising": {"groups": 0}}},
}
MILD = {
    "half_body_probability": 0,
    "scale_factor": 0.15,
    "rotation_probability": 0.5,
    "rotation_degrees": 15,
    "center_jitter": "per_sample",
}
SCENES = {"fit": "long", "least_zoom": 0.85, "most_zoom": 1.5, "rotation_degrees": 15, "shift": 0.1}
STEPS = 6000
BATCH = {"top-down": 16, "bottom-up": 4, "one-stage": 4}


def definition() -> DatasetDefinition:
    """COCO's, with the rendered splits."""
    names = ["train", "mixed", *(f"of_{count}" for count in COUNTS), "incubators", "crowds"]
    splits = {name: SplitDefinition(annotations=f"{name}.json", images=name) for name in names}
    return load_dataset("coco").model_copy(update={"splits": splits})


def crowds_definition() -> DatasetDefinition:
    """The same people as CrowdPose has them: pictures say how crowded they are, and are judged by its protocol."""
    changes = {
        "reader": "posecore.formats.crowdpose:CrowdPoseReader",
        "area_rule": "box_053",
        "evaluation": EvaluationDefinition(protocol="crowdpose"),
    }
    return definition().model_copy(update=changes)


class _CrowdedFile(CocoFile):
    """COCO's points, with CrowdPose's measure of how crowded a picture is."""

    image_fields = CrowdPoseFile.image_fields


def _scenes() -> dict[str, list[Scene] | Iterator[Scene]]:
    """By split, its pictures; people of the judged splits are in no training picture."""
    size = (SIDE, SIDE)

    def group(number: int, counts: Sequence[int], subjects: range) -> Iterator[Scene]:
        return (render_group(number, place, count, size, subjects) for place, count in enumerate(counts))

    draws = np.random.default_rng(0).random(NUM_TRAIN)
    # As many pictures of few as of many to learn from.
    learned = np.floor(10.0**draws + 0.5).astype(int).tolist()
    scenes = {"train": group(0, learned, range(800))}
    incubators = (render("incubator", 1, place, size, range(800)) for place in range(NUM_INCUBATORS_TRAIN))
    scenes["mixed"] = chain(group(0, learned, range(800)), incubators)
    for number, count in enumerate(COUNTS, start=1):
        scenes[f"of_{count}"] = group(number, [count] * NUM_JUDGED, range(800, 1000))
    scenes["incubators"] = (render("incubator", 0, place, size, range(800, 1000)) for place in range(NUM_INCUBATORS))
    scenes["crowds"] = (
        scene
        for number, count in enumerate(COUNTS, start=1)
        if count <= MOST_ANSWERS
        for scene in group(number, [count] * NUM_JUDGED, range(800, 1000))
    )
    return scenes


def rendered(out: Path) -> dict[str, ShardStore]:
    """The ingested splits, rendered if they are not there."""
    root, stores = out / "data", {}
    for name, scenes in _scenes().items():
        if not (root / f"{name}.json").exists():
            document = _CrowdedFile("rendered", "") if name == "crowds" else CocoFile("rendered", "")
            (root / name).mkdir(parents=True, exist_ok=True)
            for place, scene in enumerate(scenes):
                (root / name / f"{place:06d}.jpg").write_bytes(encode_jpeg(scene))
                document.add(place + 1, f"{place:06d}.jpg", scene)
            (root / f"{name}.json").write_text(json.dumps(document.document()))
        stores[name] = _ingested(crowds_definition() if name == "crowds" else definition(), name, root, out)
    return stores


def real(out: Path) -> dict[str, tuple[ShardStore, Path]]:
    """The few pictures of COCO that there are, and their annotations; nothing where nobody says where they are."""
    samples = os.environ.get("POSECORE_SAMPLES")
    if samples is None:
        return {}
    root, file = Path(samples) / "coco", "annotations/person_keypoints_val2017.json"
    split = {"real": SplitDefinition(annotations=file, images="val2017")}
    known = load_dataset("coco").model_copy(update={"splits": split})
    return {"real": (_ingested(known, "real", root, out), root / file)}


def _ingested(known: DatasetDefinition, name: str, root: Path, out: Path) -> ShardStore:
    job = ingest_job(known, name, root, out / "shards", IngestSettings())
    ingest(job, read_split(known, name, root))
    return open_store(job.folder)


def train(out: Path, name: str, infants: bool, steps: int) -> None:
    """Trains one of them, from its last checkpoint; with infants, what was trained without goes on."""
    stores = rendered(out)
    mixture = {"entries": [{"name": "coco"}]}
    loading: dict[str, Any] = {"mixture": mixture, "num_threads": 1, "cache_bytes": 1 << 30}
    loading |= {"augment": MILD} if name == "top-down" else {"scenes": SCENES}
    worker = MultiDatasetWorker(
        model=parse_config(MODELS[name], ModelConfig, "model"),
        training=parse_config(
            {
                "steps": steps,
                "global_batch": BATCH[name],
                "seed": 0,
                "optimizer": {"lr": 2e-3, "weight_decay": 0.05, "layer_decay": 1.0},
                "schedule": {"kind": "cosine", "warmup_steps": 50},
                "checkpoint_every": 250,
            },
            TrainingConfig,
            "training",
        ),
        loading=parse_config(loading, LoadingConfig, "loading"),
        stores={"coco": str(stores["mixed" if infants else "train"].location)},
        method=parse_config(METHODS[name], HeadsConfig, "method"),
        weights=_start(out, name, infants),
    )
    folder = _folder(out, infants) / name
    _, seconds = trained(worker, folder)
    (folder / "seconds").write_text(f"{seconds:.0f}")


def _start(out: Path, name: str, infants: bool) -> StartFolder | None:
    if infants:
        return StartFolder.at(out / name / "model")
    return None if name == "top-down" else StartFolder.at(out / "top-down" / "model")


def _folder(out: Path, infants: bool) -> Path:
    return out / "infants" if infants else out


def judge(out: Path, infants: bool) -> None:
    """All that were trained, in all ways, on all pictures."""
    folder = _folder(out, infants)
    models = {name: load_model(folder / name / "model") for name in MODELS if (folder / name / "model").is_dir()}
    judged = {name: store for name, store in rendered(out).items() if name not in {"train", "mixed"}}
    splits = {name: (store, out / "data" / f"{name}.json") for name, store in judged.items()}
    rows = []
    for name, (store, annotations) in (splits | real(out)).items():
        for way, predictions, seconds in _answers(models, store, json.loads(annotations.read_text())):
            row = {"model": way, "pictures": name, "ms": 1000 * seconds / store.num_images}
            rows.append(row | _judged(store, predictions))
    (folder / "judged.json").write_text(json.dumps(rows, indent=1))
    for columns in SHOWN.values():
        show([row for row in rows if all(column in row for column in columns)], columns, "pictures")


SHOWN = {
    "bodies": ("AP", "found50", "labelled", "answers", "missed", "redundant", "swapped", "ms"),
    "crowding": ("AP", "AP_easy", "AP_medium", "AP_hard", "ochuman", "ochuman_moderate", "ochuman_hard"),
    "infants": ("infants", "infants_missed", "infants_redundant", "adults", "adults_missed", "swapped"),
}
"""Columns of the tables; a row is in those of which it has everything."""


def _answers(
    models: Mapping[str, PoseModel], store: ShardStore, document: dict[str, Any]
) -> Iterator[tuple[str, Predictions, float]]:
    """Name of the way, what it says, and seconds of processor for all pictures, a made-up detector's left out."""
    settings = InferenceSettings(num_threads=1, flip_test=False)
    crops = models.get("top-down")
    if crops is not None:
        yield "top-down, true boxes", *_timed(crops, store, settings, None)
        yield "top-down, boxes nearly true", *_timed(crops, store, settings, _nearly_true(document))
    for name, model in models.items():
        if not model.config.whole_scenes:
            continue
        predictions, seconds = _timed(model, store, settings, None)
        yield name, predictions, seconds
        boxes = _boxes_of(model, store, settings)
        if crops is not None and len(boxes.scores):
            again, more = _timed(crops, store, settings, boxes)
            yield f"top-down, boxes of {name}", again, seconds + more


def _timed(
    model: PoseModel, store: ShardStore, settings: InferenceSettings, boxes: DetectedBoxes | None
) -> tuple[Predictions, float]:
    began = time.process_time()
    return predict_store(model, store, settings, head="coco", boxes=boxes), time.process_time() - began


def _nearly_true(document: dict[str, Any]) -> DetectedBoxes:
    found = detections(document, 0)
    return DetectedBoxes(
        image_ids=tuple(str(box["image_id"]) for box in found),
        bbox_xywh=np.array([box["bbox"] for box in found], np.float64).reshape(-1, 4),
        scores=np.array([box["score"] for box in found], np.float64),
        category_id=np.ones(len(found), np.int64),
    )


def _boxes_of(model: PoseModel, store: ShardStore, settings: InferenceSettings) -> DetectedBoxes:
    """Boxes of the bodies that a model of whole pictures finds; those around points alone grow by a tenth each way."""
    rows = np.arange(store.num_images)
    found = list(predict_images(model, store, "coco", rows, batch_size=64, flip_test=False, reading=settings.reading))
    boxes = np.concatenate([np.zeros((0, 4)), *(bodies.bbox_xywh for bodies in found)])
    if all(bodies.said_xywh is None for bodies in found):
        boxes[:, :2] -= 0.1 * boxes[:, 2:]
        boxes[:, 2:] *= 1.2
    images = store.images["source_id"].to_pylist()
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1.0)
    return DetectedBoxes(
        image_ids=tuple(images[row] for row, bodies in enumerate(found) for _ in bodies.scores),
        bbox_xywh=boxes,
        scores=np.concatenate([np.zeros(0), *(bodies.scores for bodies in found)]),
        category_id=np.ones(len(boxes), np.int64),
    )


def _judged(store: ShardStore, predictions: Predictions) -> dict[str, float]:
    truth, its = GroundTruth.from_store(store), store.manifest.definition
    figures = evaluate(its.evaluation, its.skeleton, truth, predictions) | found(truth, predictions)
    counted = bodies_of(its.evaluation, its.skeleton, truth, predictions)
    assert counted is not None
    figures |= {"labelled": counted.bodies} | {
        name: getattr(counted, name) for name in ("answers", "missed", "redundant", "doubled", "swapped")
    }
    if store.manifest.split == "crowds":
        figures |= _of_ochuman(store, truth, predictions)
    if store.manifest.split == "incubators":
        figures |= _of_incubators(store, truth, predictions)
    return figures


def _of_ochuman(store: ShardStore, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
    """COCO's AP, by the area of boxes, of bodies that share a half of their box with another's, or three quarters.

    By intersection over union: OCHuman has bodies of more than a half, moderate up to three quarters, hard from there.
    The others are neither to be found nor wrong if they are.
    """
    shared, sigmas = _shared(truth), store.manifest.definition.skeleton.oks_sigmas
    assert sigmas is not None
    limits = {"ochuman": (0.5, 1.01), "ochuman_moderate": (0.5, 0.75), "ochuman_hard": (0.75, 1.01)}
    figures = {}
    for name, (low, high) in limits.items():
        others = (shared < low) | (shared >= high)
        matching = match_predictions(truth, predictions, sigmas, area=truth.scale_area("box"), ignored=others)
        figures[name] = matching.result().summary()["AP"]
        figures[f"{name}_bodies"] = float((truth.labelled & ~others).sum())
    return figures


def _shared(truth: GroundTruth) -> np.ndarray:
    """(N,) largest intersection over union of a body's box with that of another of its picture."""
    low, high = truth.bbox_xywh[:, :2], truth.bbox_xywh[:, :2] + truth.bbox_xywh[:, 2:]
    both = np.clip(np.minimum(high[:, None], high) - np.maximum(low[:, None], low), 0, None).prod(axis=2)
    area = truth.bbox_xywh[:, 2:].prod(axis=1)
    union = both / (area[:, None] + area - both)
    others = (truth.image_row[:, None] == truth.image_row) & ~np.eye(len(truth), dtype=bool)
    return np.where(others, union, 0.0).max(axis=1, initial=0.0)


def _of_incubators(store: ShardStore, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
    """Infants and adults by themselves; against infants alone, as infants' sets are labelled, arms are redundant."""
    skeleton = store.manifest.definition.skeleton
    adult = np.array([int(subject) >= FIRST_ADULT for subject in store.instances["subject_id"].to_pylist()])
    infants, adults = (truth.take(chosen) for chosen in (~adult, adult))
    of_infants, of_adults = (body_errors(each, predictions, skeleton, each.area) for each in (infants, adults))
    return {
        "infants": of_infants.bodies,
        "infants_missed": of_infants.missed,
        "infants_redundant": of_infants.redundant,
        "adults": of_adults.bodies,
        "adults_missed": of_adults.missed,
    }


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], by: str = "bodies") -> None:
    """Prints a table."""
    table = Table("model", by, *columns)
    for row in rows:
        table.add_row(row["model"], str(row[by]), *(_figure(row[column]) for column in columns))
    Console(width=160).print(table)


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def found(truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
    """Share of the labelled bodies that some prediction is, by OKS above a half and three quarters.

    COCO's protocol looks at the 20 surest predictions of a picture and no further, so that its AP and AR say nothing of
    40 bodies.
    """
    sigmas, best = load_dataset("coco").skeleton.oks_sigmas, []
    assert sigmas is not None
    for body in np.flatnonzero(truth.labelled).tolist():
        points = predictions.keypoints[predictions.image_row == truth.image_row[body]]
        like = np.broadcast_to(truth.keypoints[body], points.shape)
        counted = np.broadcast_to(truth.visibility[body] > 0, points.shape[:2])
        oks = similarity(points, like, counted, np.full(len(points), truth.area[body]), sigmas)
        best.append(oks.max(initial=0.0))
    return {"found50": float(np.mean(np.array(best) > 0.5)), "found75": float(np.mean(np.array(best) > 0.75))}


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/whole_scenes"))
    parser.add_argument("--infants", action="store_true", help="with infants in incubators to learn from")
    parts = parser.add_subparsers(dest="part", required=True)
    training = parts.add_parser("train")
    training.add_argument("model", choices=list(MODELS))
    training.add_argument("--steps", type=int, default=STEPS)
    parts.add_parser("judge")
    options = parser.parse_args()
    if options.part == "train":
        train(options.out, options.model, options.infants, options.steps)
    else:
        judge(options.out, options.infants)


if __name__ == "__main__":
    main()
