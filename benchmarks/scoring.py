"""How long and how much memory does scoring a large file of results take? ``posecore score`` beside pycocotools.

500,000 predictions of 17 points on 25,000 pictures with two annotated persons each, as JSON files. Each way runs in a
process of its own, from the files to the ten numbers, in turns; medians of processor time (user and system), of the
clock, and of the largest resident memory are printed. ``whole`` is reading the file at once into arrays and judging
those, as ``evaluate`` has it; ``score`` is the command with its tables, without and with intervals.

    OMP_NUM_THREADS=1 python benchmarks/scoring.py
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WAYS = {
    "pycocotools": """
import contextlib, io
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO({truth!r})
    evaluation = COCOeval(truth, truth.loadRes({results!r}), "keypoints")
    evaluation.evaluate(); evaluation.accumulate(); evaluation.summarize()
print(*evaluation.stats)
""",
    "whole": """
from pathlib import Path
from posecore.datasets.definition import EvaluationDefinition
from posecore.evaluation.protocols import evaluate
from posecore.evaluation.results import read_results
from posecore.scoring.tasks import task_of_file
task = task_of_file({truth!r}, "coco")
arrays = task.truth.arrays
predictions = read_results(Path({results!r}), arrays.image_ids, 17, arrays.image_size)
metrics = evaluate(EvaluationDefinition(protocol="oks_per_category"), task.truth.skeleton, arrays, predictions)
print(*(metrics[name] for name in {names!r}))
""",
    "score": """
import json, sys
from posecore.cli import main
main(["score", {results!r}, "--truth", {truth!r}, "--protocol", "coco", "--resamples", "0", "--out", {out!r}])
metrics = json.load(open({out!r} + "/score.json"))["score"]["metrics"]
print(*(metrics[name] for name in {names!r}))
""",
}
WAYS["score, 200 resamples"] = WAYS["score"].replace('"--resamples", "0"', '"--resamples", "200"')
NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def write_files(folder: Path, num_images: int, per_image: int, seed: int = 0) -> tuple[Path, Path]:
    """Two persons a picture; of each picture's predictions two are near them, the others anywhere with low scores."""
    rng = np.random.default_rng(seed)
    truth, results = folder / "truth.json", folder / "results.json"
    annotations = []
    with results.open("w") as file:
        file.write("[")
        for image in range(1, num_images + 1):
            corner, size = rng.uniform(0, 400, (2, 2)), np.exp(rng.uniform(3.5, 5.7, (2, 2)))
            points = corner[:, None] + rng.random((2, 17, 2)) * size[:, None]
            for body in range(2):
                flags = rng.choice([0, 1, 2], 17, p=[0.3, 0.1, 0.6])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": 1,
                        "keypoints": np.column_stack([points[body].round(), flags]).astype(int).ravel().tolist(),
                        "num_keypoints": int((flags > 0).sum()),
                        "bbox": [*corner[body].round(2).tolist(), *size[body].round(2).tolist()],
                        "area": round(float(0.53 * size[body].prod()), 3),
                        "iscrowd": 0,
                    }
                )
            for number in range(per_image):
                spread = size[number % 2] * (0.03 if number < 2 else rng.uniform(0.05, 1.0))
                found = points[number % 2] + rng.normal(size=(17, 2)) * spread
                flat = np.column_stack([found, rng.random(17)]).round(3).ravel().tolist()
                score = rng.uniform(0.5, 1) if number < 2 else rng.uniform(0, 0.5)
                entry = {"image_id": image, "category_id": 1, "keypoints": flat, "score": float(score)}
                file.write(("," if image > 1 or number else "") + json.dumps(entry))
        file.write("]")
    images = [{"id": i, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(1, num_images + 1)]
    truth.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    )
    return truth, results


def run(way: str, truth: Path, results: Path) -> tuple[float, float, float, list[float]]:
    """Processor seconds, seconds, peak MB, and the ten numbers."""
    code = WAYS[way].format(truth=str(truth), results=str(results), out=str(truth.parent / "out"), names=NAMES)
    watch = (
        "import resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "done = subprocess.run([sys.executable, '-c', sys.argv[1]], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 1024)\n"
        "print(done.stdout.strip().splitlines()[-1] if done.returncode == 0 else sys.exit(done.stderr))\n"
    )
    done = subprocess.run([sys.executable, "-c", watch, code], capture_output=True, text=True, check=True)
    measured, numbers = done.stdout.strip().splitlines()
    processor, clock, memory = map(float, measured.split())
    return processor, clock, memory, [float(number) for number in numbers.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--per-image", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="where the files are kept, to be measured again (default: nowhere)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        truth, results = folder / "truth.json", folder / "results.json"
        if not truth.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_files(folder, options.images, options.per_image)
        if not options.repeats:
            return
        size = results.stat().st_size / 1e6
        found = {way: [] for way in options.ways}
        for _ in range(options.repeats):
            for way in options.ways:
                found[way].append(run(way, truth, results))
    reference = found[options.ways[0]][0][3]
    print(f"{options.images * options.per_image:,} predictions, {size:.0f} MB, medians of {options.repeats}")
    print("| way | processor s | clock s | peak MB | largest difference |\n|---|--:|--:|--:|--:|")
    for way, runs in found.items():
        processor, clock, memory = (statistics.median(run[column] for run in runs) for column in range(3))
        difference = max(abs(a - b) for a, b in zip(runs[0][3], reference, strict=True))
        print(f"| {way} | {processor:.2f} | {clock:.2f} | {memory:.0f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
