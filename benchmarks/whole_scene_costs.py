"""What finding bodies in whole pictures costs, and what its maps can say at best.

    python -m benchmarks.whole_scene_costs --out results/whole_scenes ceiling
    python -m benchmarks.whole_scene_costs time
    python -m benchmarks.whole_scene_costs windows vitpose-small

``ceiling`` asks what maps of a resolution can say at all: heatmaps and tags are drawn from the labels of the judged
pictures of :mod:`benchmarks.whole_scenes`, put together to bodies, and judged.

``time`` says what a picture takes of networks as large as those in use, with random weights: crops of 256×192, and
pictures of 512×512 that are answered by heatmaps and tags as the network would draw them at best, or by as many sure
queries, so that as many bodies are put together as there are.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.whole_scenes import COUNTS, SIDE, found, rendered, show
from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.grouping import GroupingConfig, from_the_trunk, group_bodies
from posecore.codecs.queries import QueryCodec
from posecore.codecs.scene import SceneReading
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.nms import suppress_duplicates
from posecore.evaluation.protocols import evaluate
from posecore.evaluation.scenes import FoundBodies
from posecore.methods.batch import normalise
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, model_for
from posecore.models.presets import PRESETS
from posecore.synth.scene import render_group

TIMED: dict[str, dict[str, Any]] = {
    "top-down": {"backbone": "vitpose-small", "input_size": [256, 192]},
    "bottom-up": {"backbone": {"preset": "vitpose-small"}, "head": "associative", "input_size": [512, 512]},
    "one-stage": {"backbone": {"preset": "vitpose-small"}, "head": "queries", "input_size": [512, 512]},
}


def measure(repetitions: int, counts: Sequence[int]) -> None:
    """Time of a picture by the number of bodies, all ways turn by turn in one run."""
    torch.set_num_threads(1)
    known = {"coco": load_dataset("coco")}
    models = {name: model_for(parse_config(TIMED[name], ModelConfig, name), known).eval() for name in TIMED}
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(repetitions):
        for count in counts:
            for name, run in (
                ("top-down", _crops(models["top-down"], count)),
                ("bottom-up", _picture(models["bottom-up"], count)),
                ("one-stage", _set(models["one-stage"], count)),
            ):
                began = time.process_time()
                run()
                taken.setdefault((name, count), []).append(time.process_time() - began)
    rows = [{"model": name, "bodies": count, "s": median(times)} for (name, count), times in sorted(taken.items())]
    show(rows, ("s",))


def ceiling(out: Path) -> None:
    """OKS AP of bodies put together from maps that are drawn from the labels, by the side of the input."""
    stores, skeleton = rendered(out), load_dataset("coco").skeleton
    order, rows = from_the_trunk(skeleton), []
    for side in (256, 512):
        codec = AssociativeCodec(input_size=(side, side), heatmap_size=(side // 4, side // 4), heatmap_sigma=2.0)
        for count in COUNTS:
            store = stores[f"of_{count}"]
            truth = GroundTruth.from_store(store)
            answers: list[FoundBodies] = []
            for row in range(store.num_images):
                bodies = np.flatnonzero((truth.image_row == row) & truth.labelled)
                points = torch.from_numpy(truth.keypoints[None, bodies] * (side - 1) / (SIDE - 1)).float()
                maps = _drawn(codec, points, torch.from_numpy(truth.visibility[None, bodies] > 0).float())
                (bodies_found,) = group_bodies(*maps, order)
                answers.append(
                    FoundBodies(
                        bodies_found.keypoints.astype(np.float64) * (SIDE - 1) / (codec.frame_size[0] - 1),
                        bodies_found.keypoint_scores.astype(np.float64),
                        bodies_found.scores.astype(np.float64),
                    )
                )
            counts = [len(each.scores) for each in answers]
            predictions = Predictions(
                image_ids=truth.image_ids,
                image_row=np.repeat(np.arange(store.num_images), counts),
                instance_row=np.full(sum(counts), -1),
                keypoints=np.concatenate([each.keypoints for each in answers]),
                keypoint_scores=np.concatenate([each.keypoint_scores for each in answers]),
                scores=np.concatenate([each.scores for each in answers]),
                category_id=np.ones(sum(counts), np.int64),
                crop_area=np.concatenate([each.areas for each in answers]),
            )
            assert skeleton.oks_sigmas is not None
            predictions = suppress_duplicates(predictions, skeleton.oks_sigmas)
            metrics = evaluate(store.manifest.definition.evaluation, skeleton, truth, predictions)
            rows.append({"model": f"maps of {side} px", "bodies": count, **metrics, **found(truth, predictions)})
    (out / "ceiling.json").write_text(json.dumps(rows, indent=1))
    show(rows, ("AP", "AP50", "found50", "found75"))


def _drawn(codec: AssociativeCodec, keypoints: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Heatmaps and tags as a network would draw them at best, at the finer resolution.

    Args:
        codec: of the maps.
        keypoints: (1, M, K, 2) x, y in pixels of the input.
        weights: (1, M, K).
    """
    coarse, fine = codec.draw(keypoints, weights)
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in codec.heatmap_size), indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).flatten(0, 1).float()
    far = torch.where(weights > 0, 0.0, torch.inf)[0].T
    places = codec.on_map(keypoints, codec.heatmap_size)[0].transpose(0, 1)
    nearest = (torch.cdist(grid, places) + far[:, None]).argmin(dim=2)  # (K, h · w): every pixel has the nearest's tag
    tags = 3.0 * nearest.unflatten(1, codec.heatmap_size).float()[None]
    return codec.merged(coarse, fine), codec.enlarged(tags)[:, None]


def windows(preset: str, repetitions: int) -> None:
    """Time of a preset's backbone with windows of several sizes, turn by turn in one run."""
    torch.set_num_threads(1)
    plain = PRESETS[preset]["backbone"]
    rows = []
    for side, windows in ((512, (0, 8, 16)), (640, (0, 8, 10, 20))):
        nets = {
            window: plain.model_copy(update={"window": window}).build((side, side), ()).eval() for window in windows
        }
        picture = torch.randn(1, 3, side, side)
        taken: dict[int, list[float]] = {window: [] for window in windows}
        for _ in range(repetitions + 1):
            for window, net in nets.items():
                began = time.process_time()
                with torch.inference_mode():
                    net(picture)
                taken[window].append(time.process_time() - began)
        medians = {window: median(times[1:]) for window, times in taken.items()}  # the first is of cold caches
        for window, seconds in medians.items():
            rows.append({"model": f"{preset} at {side}", "window": window, "s": seconds, "ratio": seconds / medians[0]})
    show(rows, ("s", "ratio"), "window")


def _crops(model: PoseModel, count: int) -> Callable[[], object]:
    height, width = model.input_size
    crops = torch.zeros(count, height, width, 3, dtype=torch.uint8)

    def run() -> object:
        return [model.codec("coco").decode(model.predict(normalise(part), "coco")) for part in crops.split(16)]

    return run


def _picture(model: PoseModel, count: int) -> Callable[[], object]:
    """The network on a picture, and the grouping of maps drawn from the labels of a rendered one."""
    codec, skeleton = model.codec("coco"), model.skeletons["coco"]
    assert isinstance(codec, AssociativeCodec)
    scene = render_group(99, count, count, codec.input_size)
    names = tuple(point.union for point in skeleton.keypoints)
    points = np.stack([body.keypoints(names) for body in scene.bodies])
    maps = _drawn(codec, torch.from_numpy(points[None, ..., :2]), torch.from_numpy(points[None, ..., 2] > 0).float())
    picture = torch.zeros(1, *codec.input_size, 3, dtype=torch.uint8)
    order = from_the_trunk(skeleton)

    def run() -> object:
        model.predict(normalise(picture), "coco")
        return group_bodies(*maps, order, GroupingConfig())

    return run


def _set(model: PoseModel, count: int) -> Callable[[], object]:
    """The network on a picture, and the reading of so many sure bodies among its queries."""
    codec, skeleton = model.codec("coco"), model.skeletons["coco"]
    assert isinstance(codec, QueryCodec)
    picture = torch.zeros(1, *codec.input_size, 3, dtype=torch.uint8)
    outputs = model.predict(normalise(picture), "coco")
    outputs[..., 0] = -10.0
    outputs[:, :, :count, 0] = 2.0

    def run() -> object:
        model.predict(normalise(picture), "coco")
        return codec.bodies(outputs, None, skeleton, SceneReading())

    return run


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/whole_scenes"))
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("ceiling")
    windowed = parts.add_parser("windows")
    windowed.add_argument("preset")
    timed = parts.add_parser("time")
    for measured in (timed, windowed):
        measured.add_argument("--repetitions", type=int, default=3)
    timed.add_argument("--bodies", type=int, nargs="+", default=COUNTS)
    options = parser.parse_args()
    if options.part == "ceiling":
        ceiling(options.out)
    elif options.part == "windows":
        windows(options.preset, options.repetitions)
    else:
        measure(options.repetitions, options.bodies)


if __name__ == "__main__":
    main()
