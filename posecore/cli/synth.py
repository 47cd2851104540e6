"""``posecore synth`` and ``posecore synth-sheet``: synthetic datasets and a picture of them."""

import argparse
from typing import get_args

from tqdm import tqdm

from posecore.cli.commands import Commands
from posecore.errors import UsageError
from posecore.storage import as_path, write_atomically
from posecore.synth.minirgbd_files import write_minirgbd
from posecore.synth.writers import OF_INCUBATORS, DatasetName, SceneName, write_dataset
from posecore.viz.encoded import encode_jpeg
from posecore.viz.synthetic_sheet import synthetic_sheet


def add(commands: Commands) -> None:
    """Adds ``synth`` and ``synth-sheet``."""
    synth = commands.add_parser("synth")
    synth.add_argument("--dataset", required=True, choices=(*get_args(DatasetName), "minirgbd"), help="whose format")
    synth.add_argument("--out", required=True, help="folder of the dataset, made if missing")
    synth.add_argument("--num-train", type=int, default=200, help="training pictures (default: 200)")
    synth.add_argument("--num-val", type=int, default=50, help="validation pictures (default: 50)")
    synth.add_argument("--seed", type=int, default=0, help="the same seed, the same pictures (default: 0)")
    synth.add_argument(
        "--size",
        type=int,
        default=256,
        help="side of the square pictures in pixels (default: 256; minirgbd is always 640x480)",
    )
    synth.add_argument(
        "--scenes",
        choices=get_args(SceneName),
        default="usual",
        help=f"incubator: an infant with the arms of adults in the picture, for {', '.join(OF_INCUBATORS)}",
    )
    synth.set_defaults(run=_synthesise)
    sheet = commands.add_parser("synth-sheet")
    sheet.add_argument("--out", required=True, help="JPEG file to write")
    sheet.add_argument("--seed", type=int, default=0, help="of the bodies shown (default: 0)")
    sheet.set_defaults(run=_write_synthetic_sheet)


def _synthesise(options: argparse.Namespace) -> int:
    with tqdm(total=options.num_train + options.num_val, unit="image", desc=options.dataset, delay=0.2) as bar:
        if options.dataset == "minirgbd":
            if options.scenes != "usual":
                raise UsageError("--scenes: minirgbd has one infant in a picture and nobody else; leave it out.")
            write_minirgbd(
                options.out, options.num_train, options.num_val, options.seed, lambda done, total: bar.update()
            )
            print(options.out)
            return 0
        root = write_dataset(
            options.dataset,
            options.out,
            options.num_train,
            options.num_val,
            (options.size, options.size),
            options.seed,
            progress=lambda done, total: bar.update(),
            scenes=options.scenes,
        )
    print(root)
    return 0


def _write_synthetic_sheet(options: argparse.Namespace) -> int:
    write_atomically(as_path(options.out), encode_jpeg(synthetic_sheet(options.seed)))
    print(options.out)
    return 0
