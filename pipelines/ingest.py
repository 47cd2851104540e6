#!/usr/bin/env python
"""Ingest: raw dataset → shards, index and manifest, one Ray Data task per planned shard.

::

    python pipelines/ingest.py --dataset coco --split train --root /data/coco --out /data/shards

Any path may be an fsspec URL. Run it again to continue after an interruption, to repair damaged shards, or to see in
seconds that everything is whole. The shards are the same, byte for byte, for any number of workers. With
``--verify-source`` nothing is written: reader and stages run again, and every picture is compared with what is stored.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import argparse
import sys
from collections.abc import Sequence

from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.config import COMMAND_LINE, Config, parse_config
from posecore.counting import counted
from posecore.datasets.discovery import load_dataset, source_for
from posecore.errors import IntegrityError
from posecore.formats.files import check_annotations
from posecore.ingest.job import IngestSettings
from posecore.ingest.stage_code import foreign_code
from posecore.loading.precut import PrecutSettings
from posecore.storage import as_path
from posecore.workflows.ingestion import foresee_split, ingest_split, verify_split
from posecore.workflows.machines import Machines


class IngestConfig(Config):
    """One split to ingest.

    Attributes:
        dataset: name of a dataset definition, or the path of a ``dataset.yaml``.
        split: name of the split.
        root: folder of the download, local or any fsspec URL.
        out: shards go to ``<out>/<dataset>/<split>``.
        settings: shape of the shards and depth of the examination.
        workers: shards written at a time; None takes what the cluster has.
        precut: crops for which a picture of every body is cut, too.
    """

    dataset: str
    split: str
    root: str
    out: str
    settings: IngestSettings = IngestSettings()
    workers: int | None = None
    precut: PrecutSettings | None = None


def build_parser() -> CommandParser:
    """The options of the command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="name of a dataset definition, or path of a dataset.yaml")
    parser.add_argument("--split", required=True)
    parser.add_argument("--root", required=True, help="folder of the download, local or an fsspec URL")
    parser.add_argument("--out", required=True, help="shards go to <out>/<dataset>/<split>")
    parser.add_argument("--workers", type=int, help="shards written at a time; default: what the cluster has")
    parser.add_argument("--images-per-shard", type=int, default=IngestSettings().images_per_shard)
    parser.add_argument("--decode", choices=("header", "full"), default=IngestSettings().decode)
    parser.add_argument(
        "--precut", metavar="HEIGHTxWIDTH[:PRESET]", help="cut a picture of every body, too, for crops of this size"
    )
    parser.add_argument(
        "--verify-source", action="store_true", help="prove that the shards are what the stages make of the sources"
    )
    parser.add_argument("--dry-run", action="store_true", help="read the annotations, say the plan, and write nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Ingests the split named on the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)

    def job(machines: Machines) -> None:
        others = ("images_per_shard", "decode", "precut", "verify_source", "dry_run")
        values = {name: value for name, value in vars(options).items() if name not in others}
        if options.precut:
            size, _, preset = options.precut.partition(":")
            values["precut"] = {"input_size": size.split("x"), "augment": preset or "published"}
        settings = {"images_per_shard": options.images_per_shard, "decode": options.decode}
        config = parse_config({**values, "settings": settings}, IngestConfig, origin=COMMAND_LINE)
        definition = load_dataset(config.dataset)
        if not (as_path(config.out) / definition.name / config.split).exists():  # a definition that is new here
            for line in foreign_code(definition):
                print(f"code      {definition.name} runs {line}", file=sys.stderr, flush=True)
        if options.dry_run:
            print(foresee_split(definition, config.split, config.root, config.out, config.settings))
            return
        check_annotations(source_for(definition, config.split, config.root))  # now: a cluster takes a while to start
        if options.verify_source:
            report = verify_split(machines, definition, config.split, config.root, config.out, workers=config.workers)
            print(report)
            if report.num_different:
                raise IntegrityError(
                    f"the stages make something else of the sources of {counted(report.num_different, 'picture')}."
                )
            return
        manifest = ingest_split(
            machines,
            definition,
            config.split,
            config.root,
            config.out,
            config.settings,
            workers=config.workers,
            precut=config.precut,
        )
        rejects = ", ".join(f"{reason}: {count}" for reason, count in sorted(manifest.rejects.items())) or "none"
        print(
            f"{manifest.dataset} {manifest.split}: {counted(manifest.num_images, 'image')}, "
            f"{counted(manifest.num_instances, 'instance')} in {counted(len(manifest.shards), 'shard')}; rejected: "
            f"{rejects}\ndigest {manifest.digest}"
        )

    return launched(job)


if __name__ == "__main__":
    sys.exit(main())
