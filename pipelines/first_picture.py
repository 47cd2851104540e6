#!/usr/bin/env python
"""From a fresh clone to a picture with keypoints, in about a minute and with nothing downloaded: ``make picture``.

Renders people, trains a very small model on them in this process, and draws what it says of people it has not seen, and
of photos that are named. It needs neither Ray nor DeepSpeed. The model is a toy: with a published one,
``posecore predict photo.jpg --model NAME`` is the whole of it.
"""

if __name__ == "__main__":  # before the imports below, which take a second
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import posecore as pc
from posecore.cli import main as posecore
from posecore.command_parser import CommandParser
from posecore.synth.writers import write_dataset

STEPS = 240


def run(folder: Path, photos: Sequence[str], steps: int = STEPS) -> Path:
    """Renders, trains and draws; returns the page that shows it.

    Args:
        folder: of everything; what is there is used again.
        photos: to be drawn on, too.
        steps: of the training.
    """
    if not (folder / "people").exists():
        write_dataset("coco", folder / "people", num_train=160, num_val=12, image_size=(128, 128), seed=0)
    uri = pc.train(
        {
            "name": "first-picture",
            "run_folder": str(folder / "run"),
            "data_folder": str(folder),
            "datasets": [{"name": "coco", "root": "people", "train": "train", "evaluate": "val"}],
            "model": {"backbone": "vit-nano", "head": {"kind": "classic", "channels": 32}, "input_size": [64, 48]},
            "loading": {"num_threads": 1, "augment": {"half_body_probability": 0, "rotation_degrees": 20}},
            "training": {
                "steps": steps,
                "global_batch": 32,
                "optimizer": {"lr": 3.0e-3, "layer_decay": 1.0},
                "schedule": {"kind": "cosine", "warmup_steps": min(20, steps // 2)},
                "engine": {"kind": "torch"},
            },
            "inference": {"num_threads": 1},
        }
    )
    if photos:
        drawn = ["--out", str(folder / "photos"), "--model", uri, "--folder", str(folder / "run")]
        posecore(["predict", *photos, *drawn])
    return max((folder / "run").glob("training/*/*/report.html"), key=lambda page: page.stat().st_mtime)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names; returns the exit status."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", help="to draw on, beside the rendered ones")
    parser.add_argument("--folder", type=Path, default=Path("picture"), help="of everything (default: picture)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training (default: %(default)s)")
    options = parser.parse_args(arguments)
    page = run(options.folder, options.photos, options.steps)
    print(f"picture   {page.parent / 'evaluation' / 'coco' / 'coco' / 'samples.jpg'}")
    print(f"page      {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
