"""``posecore score``: a file of results held against published annotations."""

import argparse
import sys

from posecore.cli.commands import Commands
from posecore.config import apply_override
from posecore.counting import counted
from posecore.datasets.discovery import load_dataset
from posecore.errors import EvaluationError, UsageError
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.schema import Json
from posecore.scoring.comparison import compare
from posecore.scoring.pages import as_html, as_json, as_markdown
from posecore.scoring.tasks import PROTOCOLS, Task, num_results, score, task_of_definition, task_of_file
from posecore.storage import as_path, write_atomically

_AREAS = ("annotated", "box", "box_053", "box_plus_one")


def add(commands: Commands) -> None:
    """Adds ``score``."""
    parser = commands.add_parser("score")
    parser.add_argument("results", help="file of results in the dataset's own submission format")
    parser.add_argument("--truth", metavar="ANNOTATIONS", help="annotations as published")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="by which they are judged")
    parser.add_argument("--dataset", help="instead of both: a dataset, or the path of a dataset.yaml")
    parser.add_argument("--root", help="with --dataset: folder of the download")
    parser.add_argument("--split", help="with --dataset: default is its first split that is meant for evaluation")
    parser.add_argument("--skeleton", help="of the files' points, where not the protocol's: a name or a YAML file")
    parser.add_argument("--area", choices=_AREAS, help="what OKS divides by, where not the protocol's own")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the protocol, such as neck=[neck]"
    )
    parser.add_argument("--compare", metavar="OTHER", help="another file of results, held against the first, paired")
    parser.add_argument(
        "--resamples",
        type=int,
        default=200,
        help="of subjects, for intervals; 0 for none, else from 100 (default: 200)",
    )
    parser.add_argument("--images", help="folder of the images, to draw the worst pictures of")
    parser.add_argument("--out", help="folder to write score.json, score.md and score.html into")
    parser.add_argument(
        "--dry-run", action="store_true", help="say whether annotations and results go together, and write nothing"
    )
    parser.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    if options.images and not as_path(options.images).is_dir():
        raise EvaluationError(f"--images {options.images}: no such folder.")
    if options.out and as_path(options.out).is_file():
        raise UsageError(f"--out {options.out} is a file; name a folder.")
    task = _task(options)
    bootstrap = None
    if options.resamples:
        if options.resamples < 100:
            raise UsageError(f"--resamples {options.resamples}: an interval needs 100 and more; 0 makes none.")
        bootstrap = BootstrapSettings(resamples=options.resamples)
    if options.dry_run:
        print(_foreseen(options, task, bootstrap))
        return 0
    scored = score(task, options.results, bootstrap)
    comparison = None
    if options.compare:
        other = score(task, options.compare, bootstrap)
        comparison = compare(scored, other, bootstrap)
    text = as_markdown(scored.score, comparison)
    sys.stdout.write(text)
    if options.out:
        folder = as_path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {}
        if options.images:
            from posecore.scoring.pictures import worst_pictures  # OpenCV, which nothing else here needs

            pictures = worst_pictures(scored, as_path(options.images))
        write_atomically(folder / "score.json", as_json(scored.score, comparison))
        write_atomically(folder / "score.md", text.encode())
        write_atomically(folder / "score.html", as_html(scored.score, comparison, pictures))
        print(f"\nwritten: {folder / 'score.html'}, score.md and score.json beside it", file=sys.stderr)
    return 0


def _foreseen(options: argparse.Namespace, task: Task, bootstrap: BootstrapSettings | None) -> str:
    """What would be scored; files that do not go together are refused as they would be."""
    arrays = task.truth.arrays
    annotated = f"{counted(len(arrays), 'annotation')} of {counted(len(arrays.image_ids), 'picture')}"
    lines = [f"truth     {task.truth.origin}: {annotated}"]
    lines += [
        f"results   {file}: {num_results(task, file)}" for file in filter(None, (options.results, options.compare))
    ]
    lines.append(
        f"protocol  {task.name}, {counted(bootstrap.resamples, 'resample') if bootstrap else 'without intervals'}"
    )
    return "\n".join([*lines, f"out       {options.out or 'printed only'}"])


def _task(options: argparse.Namespace) -> Task:
    if options.dataset:
        if options.truth or options.protocol or options.skeleton or options.area or options.option:
            raise UsageError(
                "--dataset states annotations and protocol; leave out --truth, --protocol and their options."
            )
        if not options.root:
            raise UsageError("--dataset needs the folder of the download: --root FOLDER.")
        definition = load_dataset(options.dataset)
        judged = [name for name, split in definition.splits.items() if split.use == "eval"]
        return task_of_definition(definition, options.split or (judged or list(definition.splits))[0], options.root)
    if not options.truth or not options.protocol:
        raise UsageError("name the annotations and how they are judged: --truth FILE --protocol NAME, or a --dataset.")
    chosen: dict[str, Json] = {}
    for override in options.option:
        apply_override(chosen, override)
    return task_of_file(
        options.truth,
        options.protocol,
        skeleton=options.skeleton,
        area=options.area,
        options=chosen,
    )
