"""What do fewer bits of an exported file cost? Nets that learned rendered adults, on pictures they have not seen.

    OMP_NUM_THREADS=1 python -m benchmarks.fewer_bits learn heatmap --out results/fewer_bits
    OMP_NUM_THREADS=1 python -m benchmarks.fewer_bits learn simcc --out results/fewer_bits
    OMP_NUM_THREADS=1 python -m benchmarks.fewer_bits judge --out results/fewer_bits
    OMP_NUM_THREADS=1 python -m benchmarks.fewer_bits time --out results/fewer_bits

A small transformer with a classic head and a small CSPNeXt with RTMPose's head learn the same four people, one to a
picture; a command that was stopped goes on where it was. Files in float16 and int8, whose ranges are measured on 256
bodies of the training split, are judged beside float32 on further pictures of these people: average precision, and
its difference with an interval from pictures drawn anew, the same ones for both. ``time`` asks what int8 costs and
gains by which layers stay float32, at published sizes with random weights, all in turn. ``judge --model`` judges other
models of one head, of COCO's or CrowdPose's points, such as that of ``benchmarks/whole_scenes.py train top-down``.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.repeated import trained
from posecore.asides import aside_folder
from posecore.config import parse_config
from posecore.datasets.definition import SplitDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.exported import answered, as_inputs, boxed_pictures
from posecore.evaluation.image_units import Units
from posecore.evaluation.inference import InferenceSettings, PredictionTask
from posecore.evaluation.paired import compare_metrics
from posecore.evaluation.protocols import of_resamples
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import LoadingConfig
from posecore.models.architecture import ModelConfig
from posecore.models.export.backends import OpenvinoSession
from posecore.models.export.onnx_file import export_onnx
from posecore.models.export.reduced_precision import to_float16, to_int8
from posecore.models.onnx_graph import open_session
from posecore.models.pose_model import model_for
from posecore.models.saving import WEIGHTS_FILE, load_model, read_card
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import ShardStore, open_store
from posecore.storage import sha256_of
from posecore.synth.coco_files import CocoFile, CrowdPoseFile
from posecore.synth.scene import render_group
from posecore.synth.writers import encode_jpeg
from posecore.training.loop import TrainingConfig
from posecore.workflows.exported_file import CALIBRATION_BODIES
from posecore.workflows.multidataset_worker import MultiDatasetWorker

NETS: Mapping[str, Mapping[str, Any]] = {
    "heatmap": {
        "backbone": {"kind": "vit", "embed_dim": 128, "depth": 4, "num_heads": 4, "patch_size": 12, "patch_padding": 0},
        "head": {"kind": "classic", "channels": 32},
        "input_size": [96, 72],
        "heatmap_sigma": 1.5,
    },
    "simcc": {
        "backbone": {"kind": "cspnext", "deepen": 0.167, "widen": 0.25},
        "head": {"kind": "rtmcc", "token_dim": 128, "attention_dim": 64},
        "input_size": [96, 64],
    },
}
NAME = "crowdpose"
"""Whose points are learned: head, neck and limbs, and none of those of a face, which are a pixel or less here."""
FILES = {"coco": CocoFile, NAME: CrowdPoseFile}
SIZE = (160, 120)
"""Of the pictures, px."""
PEOPLE = range(4)
COUNTS = {"train": 1500, "judged": 300}
LAST = ("head.final_layer", "head.cls_x", "head.cls_y")
"""The layer that gives heatmaps, or bins; that of RTMPose's features to points is spared with it."""
FIRST = ("backbone.patch_embed", "backbone.stem")
SPARED: Mapping[str, Sequence[str]] = {
    "int8": (),
    "int8, last layers float32": LAST,
    "int8, head float32": ("head",),
    "int8, first layers float32": FIRST,
    "int8, head and first layers float32": ("head", *FIRST),
}
KEPT = ("image_row", "instance_row", "keypoints", "keypoint_scores", "scores", "category_id", "crop_area")
"""Of predictions."""
PUBLISHED = ("rtmpose-m", "vitpose-small")


def split(out: Path, dataset: str, role: str) -> ShardStore:
    """One adult to a picture, with a dataset's points, rendered and ingested when it is first asked for."""
    root, first = out / "data" / dataset, sum(COUNTS.values()) * (role == "judged")
    if not (root / f"{role}.json").exists():
        document = FILES[dataset]("rendered", "")
        (root / role).mkdir(parents=True, exist_ok=True)
        for place in range(first, first + COUNTS[role]):
            scene = render_group(0, place, 1, SIZE, PEOPLE)
            (root / role / f"{place:06d}.jpg").write_bytes(encode_jpeg(scene))
            document.add(place + 1, f"{place:06d}.jpg", scene)
        (root / f"{role}.json").write_text(json.dumps(document.document()))
    rendered = {name: SplitDefinition(annotations=f"{name}.json", images=name) for name in COUNTS}
    definition = load_dataset(dataset).model_copy(update={"splits": rendered})
    job = ingest_job(definition, role, root, out / "shards", IngestSettings())
    if not (job.folder / MANIFEST_NAME).exists():
        ingest(job, read_split(definition, role, root))
    return open_store(job.folder)


def learn(out: Path, net: str, steps: int) -> None:
    """Trains a net, from its last checkpoint on."""
    augment = {"half_body_probability": 0, "scale_factor": 0.15, "rotation_probability": 0.5, "rotation_degrees": 15}
    loading = {"mixture": {"entries": [{"name": NAME, "augment": augment}]}, "num_threads": 1}
    training = {
        "steps": steps,
        "global_batch": 16,
        "seed": 0,
        "optimizer": {"lr": 2e-3, "weight_decay": 0.05, "layer_decay": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 50},
        "engine": {"kind": "torch", "precision": "bf16"},
        "checkpoint_every": 25,
        "progress": False,
        "log_every": 100,
    }
    worker = MultiDatasetWorker(
        model=parse_config(NETS[net], ModelConfig, "model"),
        training=parse_config(training, TrainingConfig, "training"),
        loading=parse_config(loading, LoadingConfig, "loading"),
        stores={NAME: str(split(out, NAME, "train").location)},
    )
    _, seconds = trained(worker, out / net)
    print(f"{net}: {seconds:.0f} s of processor time")


def answers(out: Path, folder: Path, kind: str) -> tuple[dict[str, Predictions], int]:
    """What a net and its file say of the judged split, and the file's bytes; kept."""
    kept = out / "judged" / f"{folder.parent.name}, {sha256_of(folder / WEIGHTS_FILE)[:12]}, {kind}.npz"
    (head,) = read_card(folder).skeletons
    image_ids = GroundTruth.from_store(split(out, head, "judged")).image_ids
    if not kept.exists():
        model, settings = load_model(folder), InferenceSettings(flip_test=False, num_threads=1)
        tasks = {role: PredictionTask(store=split(out, head, role), head=head, settings=settings) for role in COUNTS}
        kept.parent.mkdir(exist_ok=True)
        with aside_folder(out) as aside:
            path = aside / "file.onnx"
            graph = export_onnx(model, head, path, "picture")
            if kind == "float16":
                to_float16(path)
            if kind in SPARED:
                ranges = boxed_pictures(model, tasks["train"], CALIBRATION_BODIES)
                to_int8(path, [as_inputs(graph, graph.given(*each)) for each in ranges], SPARED[kind])
            found = answered(model, graph, path, tasks["judged"])
            values = {f"{who} {each}": getattr(found[who], each) for who in found for each in KEPT}
            np.savez(aside / kept.name, size=path.stat().st_size, **values)
            (aside / kept.name).rename(kept)
    values = dict(np.load(kept))
    return {
        who: Predictions(image_ids=image_ids, **{each: values[f"{who} {each}"] for each in KEPT})
        for who in ("model", "file")
    }, int(values["size"])


def judge(out: Path, folders: Sequence[Path], resamples: int, kinds: Sequence[str]) -> None:
    """Prints the table."""
    columns = ("net", "file", "AP", "difference", "points moved, px: mean", "median", "megabytes")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for folder in folders:
        (head,) = read_card(folder).skeletons
        store = split(out, head, "judged")
        truth, its = GroundTruth.from_store(store), store.manifest.definition
        pictures = len(truth.image_ids)
        units = Units(of_image=np.arange(pictures), kinds={"image": pictures})  # the people are known to the nets
        for kind in kinds:
            found, size = answers(out, folder, kind)
            first, second = (of_resamples(its.evaluation, its.skeleton, truth, each) for each in found.values())
            assert first is not None
            assert second is not None
            ap = compare_metrics(first, second, units, BootstrapSettings(resamples=resamples))["AP"]
            labelled = truth.visibility[found["file"].instance_row] > 0
            moved = np.linalg.norm(found["file"].keypoints - found["model"].keypoints, axis=-1)[labelled]
            print(
                f"| {folder.parent.name} | {kind} | "
                f"{ap.second.value:.3f} [{ap.second.low:.3f}, {ap.second.high:.3f}] | "
                f"{ap.difference.value:+.3f} [{ap.difference.low:+.3f}, {ap.difference.high:+.3f}] | "
                f"{moved.mean():.2g} | {np.median(moved):.2g} | {size / 1e6:.1f} |",
                flush=True,
            )


def written(out: Path, preset: str, kinds: Sequence[str], crops: int) -> dict[str, Path]:
    """By kind a file of a published size with random weights, made if it is not there."""
    files = {kind: out / "timed" / f"{preset}, {kind}.onnx" for kind in kinds}
    plain = out / "timed" / f"{preset}.onnx"
    height, width = parse_config({"backbone": preset}, ModelConfig, preset).input_size
    images = torch.randn(crops, 3, height, width, generator=torch.Generator().manual_seed(0)).numpy()
    if not plain.exists():
        torch.manual_seed(0)
        config = parse_config({"backbone": preset}, ModelConfig, preset)
        export_onnx(model_for(config, {NAME: load_dataset(NAME)}).eval(), NAME, plain, "crops")
    for kind, path in files.items():
        if not path.exists():
            with aside_folder(out / "timed") as folder:
                aside = Path(shutil.copy(plain, folder / "file.onnx"))
                if kind == "float16":
                    to_float16(aside)
                if kind in SPARED:
                    to_int8(aside, [{"images": images[:2]}], SPARED[kind])
                aside.rename(path)
    return files


def measure(out: Path, rounds: int, presets: Sequence[str], kinds: Sequence[str], crops: int) -> None:
    """Prints the time of a body in each file, of onnxruntime and of OpenVINO."""
    print("| network | file | runtime | processor, ms a body | of float32 |\n|---|---|---|---|---|")
    for preset in presets:
        runs: dict[tuple[str, str], Callable[[], object]] = {}
        for kind, path in written(out, preset, kinds, crops).items():
            data = path.read_bytes()
            height, width = parse_config({"backbone": preset}, ModelConfig, preset).input_size
            given = {"images": np.random.default_rng(0).standard_normal((crops, 3, height, width), np.float32)}
            for runtime, session in (
                ("onnxruntime", open_session(data)),
                ("openvino", OpenvinoSession(data, "float32", (crops,))),
            ):
                runs[kind, runtime] = partial(session.run, ["outputs"], given)
        square = np.ones((1024, 1024), np.float32)
        runs["", "one product of 1024×1024 matrices"] = lambda square=square: square @ square
        taken: dict[tuple[str, str], list[float]] = {each: [] for each in runs}
        for turn in range(rounds + 1):
            for each, run in list(runs.items())[:: 1 if turn % 2 else -1]:
                began = time.process_time()
                run()
                if turn:
                    taken[each].append(1000 * (time.process_time() - began))
        medians = {each: statistics.median(times) for each, times in taken.items()}
        for (kind, runtime), value in medians.items():
            share = value / medians[kinds[0], runtime] if kind else 1.0
            print(f"| {preset} | {kind} | {runtime} | {value / (crops if kind else 1):.1f} | {share:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    learning = actions.add_parser("learn")
    learning.add_argument("net", choices=list(NETS))
    learning.add_argument("--steps", type=int, default=2400)
    judging = actions.add_parser("judge")
    judging.add_argument("--resamples", type=int, default=500)
    judging.add_argument(
        "--model", type=Path, nargs="+", help="folders of models of one head each, instead of the nets"
    )
    judging.add_argument("--kinds", nargs="+", default=["float32", "float16", *SPARED])
    timing = actions.add_parser("time")
    for action in (learning, judging, timing):
        action.add_argument("--out", type=Path, required=True)
    timing.add_argument("--rounds", type=int, default=5)
    timing.add_argument("--presets", nargs="+", default=PUBLISHED)
    timing.add_argument(
        "--kinds", nargs="+", default=["float32", *SPARED], help="the first is what others are compared with"
    )
    timing.add_argument("--crops", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.action == "learn":
        learn(options.out, options.net, options.steps)
    elif options.action == "judge":
        judge(
            options.out,
            options.model or [options.out / net / "model" for net in NETS],
            options.resamples,
            options.kinds,
        )
    else:
        measure(options.out, options.rounds, options.presets, options.kinds, options.crops)


if __name__ == "__main__":
    main()
