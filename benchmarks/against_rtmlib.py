"""How long does a body take beside rtmlib, and a frame of a video that is predicted and drawn?

One RTMPose-m with random weights, exported for rtmlib and given to our predictor; the same photographs and boxes; one
thread. Kinds take turns, round after round, so that what else the machine does hits all of them; medians of processor
time and of the clock. A video is drawn by rtmlib as its examples do, and written with OpenCV's ``mp4v``; ours by
``predict_sources`` with its defaults, encoded on a thread of its own.

    OMP_NUM_THREADS=1 python benchmarks/against_rtmlib.py SAMPLES/coco
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import rtmlib
import torch
from torch.utils.flop_counter import FlopCounterMode

from posecore.config import parse_config
from posecore.evaluation.exported import as_inputs
from posecore.models.architecture import ModelConfig
from posecore.models.export.onnx_file import export_onnx
from posecore.models.export.reduced_precision import to_int8
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.weights.read import read_weights
from posecore.prediction.instances import Boxes
from posecore.prediction.predict_sources import predict_sources
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.prediction.sources import find_sources
from posecore.skeletons.library import load_skeleton
from posecore.viz.predictions import DrawnFiles

FRAME_SIZE = (480, 640)


def random_model() -> PoseModel:
    torch.manual_seed(0)
    config = parse_config({"backbone": "rtmpose-m"}, ModelConfig, origin="benchmark")
    model = build_model(config, {"coco": load_skeleton("coco17")})
    for module in model.modules():  # as learned ones, no two alike: those of a fresh model are folded into one tensor
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.normal_(std=0.01)
    return model.eval()


def photos_and_boxes(folder: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photographs with two bodies or more, RGB, and their boxes (N, 4) x, y, width, height."""
    document = json.loads(next(folder.rglob("person_keypoints_val*.json")).read_text())
    boxes: dict[int, list[list[float]]] = {}
    for body in document["annotations"]:
        if not body["iscrowd"] and min(body["bbox"][2:]) > 20:
            boxes.setdefault(body["image_id"], []).append(body["bbox"])
    found = []
    for image in document["images"]:
        path = next(folder.rglob(image["file_name"]), None)
        if path is not None and len(boxes.get(image["id"], [])) >= 2:
            found.append((cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.array(boxes[image["id"]])))
    return found[:count]


def one_threaded(path: Path) -> rtmlib.RTMPose:
    """Rtmlib's class, whose session is opened with one thread as it cannot be asked to."""
    pose = rtmlib.RTMPose(str(path), model_input_size=(192, 256))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    pose.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return pose


def int8_file(model: PoseModel, pictures: list[tuple[np.ndarray, np.ndarray]], path: Path) -> Path:
    """The model in int8, by the ranges that these pictures have in it."""
    graph = export_onnx(model, "coco", path, "crops")
    boxed = [(torch.from_numpy(image), torch.from_numpy(boxes).float()) for image, boxes in pictures]
    to_int8(path, [as_inputs(graph, graph.given(image, boxes)) for image, boxes in boxed])
    return path


def corners(bbox_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([bbox_xywh[:, :2], bbox_xywh[:, :2] + bbox_xywh[:, 2:]], axis=1)


def in_turn(kinds: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """By kind, the medians of processor and clock seconds."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for run in kinds.values():
        run()
    for number in range(rounds):
        for name in list(kinds)[:: 1 if number % 2 else -1]:
            clock, processor = time.perf_counter(), time.process_time()
            kinds[name]()
            taken[name].append((time.process_time() - processor, time.perf_counter() - clock))
    return {
        name: (statistics.median(p for p, _ in all_), statistics.median(c for _, c in all_))
        for name, all_ in taken.items()
    }


def print_table(title: str, taken: dict[str, tuple[float, float]], units: int, first: str) -> None:
    print(
        f"\n| {title} | processor, ms | clock, ms | of rtmlib's processor time | of its clock |\n|---|---|---|---|---|"
    )
    for name, (processor, clock) in taken.items():
        print(
            f"| {name} | {1000 * processor / units:.1f} | {1000 * clock / units:.1f} | "
            f"{processor / taken[first][0]:.2f} | {clock / taken[first][1]:.2f} |"
        )


def predictors(model: PoseModel, int8: Path, kinds: Iterable[str]) -> dict[str, Predictor]:
    """By a name of backend and precision; onnxruntime is who runs a file unless something else is asked for."""
    found = {}
    for kind in kinds:
        backend, precision = kind.split(", ")
        if precision == "int8":
            settings = PredictorSettings(backend="torch" if backend == "onnxruntime" else backend)
            found[kind] = Predictor(read_weights(int8), settings)
        else:
            found[kind] = Predictor(model, PredictorSettings(backend=backend, precision=precision))
    return found


def bodies(
    model: PoseModel, exported: Path, int8: Path, pictures: list[tuple[np.ndarray, np.ndarray]], rounds: int
) -> None:
    theirs = one_threaded(exported)
    as_read = [(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), corners(boxes)) for image, boxes in pictures]
    ours = [image for image, _ in pictures], [Boxes(boxes.astype(float)) for _, boxes in pictures]
    kinds: dict[str, Callable[[], object]] = {"rtmlib": lambda: [theirs(image, boxes) for image, boxes in as_read]}
    ways = ("torch, float32", "onnxruntime, float32", "openvino, float32", "openvino, bfloat16")
    for name, predictor in predictors(model, int8, (*ways, "onnxruntime, int8", "openvino, int8")).items():
        kinds[name] = partial(predictor.predict, *ours)
    count = sum(len(boxes) for _, boxes in pictures)
    print(f"{len(pictures)} photographs, {count} bodies, {rounds} rounds, {torch.get_num_threads()} thread")
    square = torch.randn(1024, 1024)
    kinds["product"] = lambda: [square @ square for _ in range(10)]
    taken = in_turn(kinds, rounds)
    per_second = 10 * 2 * len(square) ** 3 / taken.pop("product")[0]
    print_table("a body", taken, count, "rtmlib")
    operations = operations_of(model)
    print(
        f"\nThe network is {operations / 1e9:.2f} GFLOP; this core does {per_second / 1e9:.0f} GFLOP/s in products of "
        f"large matrices: {1000 * operations / per_second:.1f} ms at the least."
    )


def operations_of(model: PoseModel) -> int:
    """Floating-point operations of one crop in convolutions and products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.predict(torch.zeros(1, 3, *model.input_size), "coco")
    return counter.get_total_flops()


def videos(
    model: PoseModel, exported: Path, int8: Path, picture: np.ndarray, frames: int, rounds: int, folder: Path
) -> None:
    """One body that fills a frame of :data:`FRAME_SIZE`, moving a little."""
    height, width = FRAME_SIZE
    still = cv2.resize(picture, (width, height))
    film = folder / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    for number in range(frames):
        writer.write(np.roll(still, (number, 2 * number), (0, 1)))
    writer.release()
    theirs = one_threaded(exported)

    def rtmlib_film() -> None:
        capture = cv2.VideoCapture(str(film))
        out = cv2.VideoWriter(
            str(folder / "theirs.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height)
        )
        while (read := capture.read())[0]:
            keypoints, scores = theirs(read[1])
            out.write(rtmlib.draw_skeleton(read[1], keypoints, scores, kpt_thr=0.3))
        out.release()

    def our_film(predictor: Predictor) -> None:
        sources = find_sources([str(film)])
        skeletons = {"coco": load_skeleton("coco17")}
        with DrawnFiles.open(folder / "drawn", sources, skeletons, 0.3) as drawn:
            predict_sources(predictor, sources, ["coco"], [drawn], show_progress=False)

    kinds: dict[str, Callable[[], object]] = {"rtmlib": rtmlib_film}
    ways = ("torch, float32", "openvino, float32", "openvino, bfloat16", "openvino, int8")
    for name, predictor in predictors(model, int8, ways).items():
        kinds[name] = partial(our_film, predictor)
    print_table("a frame, predicted and drawn", in_turn(kinds, rounds), frames, "rtmlib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path, help="folder of COCO's annotations and val2017 pictures")
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    assert os.environ.get("OMP_NUM_THREADS") == "1", "set OMP_NUM_THREADS=1: OpenCV and PyTorch are to have one thread"
    cv2.setNumThreads(1)
    model = random_model()
    pictures = photos_and_boxes(options.samples, options.photos)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "rtmlib.onnx"
        export_onnx(model, "coco", exported, "rtmlib")
        int8 = int8_file(model, pictures, Path(folder) / "int8.onnx")
        bodies(model, exported, int8, pictures, options.rounds)
        videos(model, exported, int8, pictures[0][0], options.frames, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
