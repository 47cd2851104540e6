#!/usr/bin/env python
"""Evaluate: a model × ingested splits → metrics by each dataset's own protocol, result files, an HTML report.

::

    python pipelines/evaluate.py --model runs/x/model --store coco=/data/shards/coco/val --out runs/x/evaluation

Repeat ``--store`` for several splits. ``--head syrip=coco`` lets another dataset's head answer, ``--boxes coco=FILE``
judges on detected boxes (a COCO detection list) instead of annotated ones, and ``--parent MODEL`` evaluates a second
model as well and prints what was gained and forgotten. Any path may be an fsspec URL.

A file of weights, of any layout that is known or ONNX, is judged likewise; whose points it finds is said by ``--heads``
where the file does not: ``--model rtmpose.onnx --heads coco``.

A registered version, ``--model models:/pose/3`` or ``models:/pose@champion``, is judged as jobs judge their own models:
the evaluation is recorded with the digests of weights and data, so that promotions believe it, and what this code has
measured before in the same folder is not measured again.

Splits whose protocol is ``torso``, and those that name subjects and have shoulders and hips, are also judged for
clinics (``docs/clinical_evaluation.md``): in the report, and in ``<out>/<name>/clinical.json``. ``--clinic`` demands
that of every split, ``--no-clinic`` leaves it out.

Predictions are made by processes of the cluster that hold the model once. The batches do not depend on how many there
are, so the numbers are those of :func:`posecore.evaluation.inference.predict_store` in one process.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import argparse
import sys
from collections.abc import Mapping, Sequence

import orjson

from posecore.cli.model_argument import (
    MODEL_HELP,
    add_reading,
    add_registry,
    add_scene_reading,
    check_scene_reading,
    scene_settings,
    stated_heads,
    stated_skeletons,
)
from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.config import COMMAND_LINE, parse_config
from posecore.errors import UsageError
from posecore.evaluation.inference import InferenceSettings, PredictionTask, answering_columns
from posecore.evaluation.results import read_boxes
from posecore.evaluation.tables import as_markdown, forgetting_table
from posecore.lineage.store.tracking import TrackingConfig, connect
from posecore.lineage.versions.model_source import registered_version
from posecore.models.saving import read_card
from posecore.models.weights.read import read_weights
from posecore.shards.manifest import read_manifest
from posecore.shards.store import open_store
from posecore.storage import AnyPath, as_path
from posecore.workflows.evaluation import EvaluationResult, evaluate_stores
from posecore.workflows.fetched_model import fetch_judged
from posecore.workflows.machines import ActorSettings, Machines
from posecore.workflows.measurement import judged_set, measure
from posecore.workflows.named_model import is_registered, named_weights


def _pairs(values: Sequence[str] | None, flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values or ():
        name, separator, target = value.partition("=")
        if not separator or not name or not target:
            raise UsageError(f"{flag} {value}: expected NAME=VALUE, for example {flag} coco=/data/shards/coco/val.")
        pairs[name] = target
    return pairs


def _foreseen(
    options: argparse.Namespace,
    stores: Mapping[str, str],
    settings: InferenceSettings,
    heads: Mapping[str, str],
    boxes: Mapping[str, str],
) -> str:
    """What would be judged by which head; whatever does not go together is refused as it would be."""
    lines = []
    for source in filter(None, (options.model, options.parent)):
        with named_weights(source, options.folder, options.tracking_uri) as weights:
            model = read_weights(weights, options.expect, stated_skeletons(options))
        check_scene_reading(options, model.card)
        lines.append(f"model     {source}: {', '.join(model.skeletons)}")
        for name, place in stores.items():
            task = PredictionTask(
                store=open_store(place),
                head=heads.get(name) or read_manifest(as_path(place)).dataset,
                settings=settings,
                boxes=read_boxes(as_path(boxes[name])) if name in boxes else None,
                whole_scenes=model.config.whole_scenes,
            )
            answering_columns(model, task)
            protocol = task.store.manifest.definition.evaluation.protocol
            amount = f"{len(task.rows)} {'pictures' if task.whole_scenes else 'crops'}"
            lines.append(f"split     {name}: {amount} of {place} by head {task.head}, judged as {protocol}")
    lines.append(f"out       {options.out}")
    return "\n".join(lines)


def build_parser() -> CommandParser:
    """The options of the command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        required=True,
        help=MODEL_HELP,
    )
    add_reading(parser, backbone=False)
    parser.add_argument("--store", action="append", required=True, metavar="NAME=FOLDER", help="an ingested split")
    parser.add_argument("--out", required=True, help="folder for metrics, result files and report")
    parser.add_argument("--head", action="append", metavar="NAME=HEAD", help="the model's head that answers a split")
    parser.add_argument("--boxes", action="append", metavar="NAME=FILE", help="COCO detection list for a split")
    parser.add_argument("--parent", help="a second model, likewise, to print gains and losses against")
    parser.add_argument("--actors", type=int, help="processes; default: what the cluster has")
    parser.add_argument("--gpus-per-actor", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=InferenceSettings().batch_size)
    parser.add_argument(
        "--path",
        choices=("regression", "prototypes", "average"),
        default="regression",
        help="heatmaps of the head, of its prototypes, or the mean of both",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no-flip-test", action="store_true", help="one forward pass per crop instead of two")
    add_scene_reading(parser)
    parser.add_argument("--worst-cases", type=int, default=12)
    parser.add_argument(
        "--clinic",
        action=argparse.BooleanOptionalAction,
        help="torso-normalised errors by group with intervals, missed bodies, calibration; default: where subjects or "
        "films are named or the protocol is torso",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say whether model and splits go together, and what would be done; write nothing",
    )
    add_registry(parser)
    parser.add_argument("--experiment", default="evaluations", help="of the records (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates what the command line names; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.parent and (is_registered(options.model) or is_registered(options.parent)):
        parser.error("--parent compares folders; judge registered versions one by one, and ask posecore for both")

    def job(machines: Machines) -> None:
        settings = parse_config(
            {
                "batch_size": options.batch_size,
                "path": options.path,
                "precision": options.precision,
                "flip_test": not options.no_flip_test,
                **scene_settings(options),
            },
            InferenceSettings,
            origin=COMMAND_LINE,
        )
        actors = parse_config(
            {"actors": options.actors, "gpus_per_actor": options.gpus_per_actor}, ActorSettings, origin=COMMAND_LINE
        )
        stores = _pairs(options.store, "--store")
        heads, boxes = _pairs(options.head, "--head"), _pairs(options.boxes, "--boxes")
        if options.dry_run:
            print(_foreseen(options, stores, settings, heads, boxes))
            return
        if is_registered(options.model):
            if scene_settings(options):  # else any model goes by it, and its files are fetched once
                with named_weights(options.model, options.folder, options.tracking_uri) as weights:
                    check_scene_reading(options, read_card(as_path(weights)))
            tracking = connect(
                TrackingConfig(uri=options.tracking_uri, experiment=options.experiment), options.folder, must_exist=True
            )
            found = measure(
                machines,
                tracking,
                registered_version(options.model, tracking),
                [judged_set(name, place, heads.get(name), boxes.get(name)) for name, place in stores.items()],
                settings,
                as_path(options.out),
                worst_cases=options.worst_cases,
                clinic=options.clinic,
            )
            print(orjson.dumps(found.values["metrics"], option=orjson.OPT_INDENT_2).decode())
            print(f"report {found.values['report']}")
            return

        def fetched(model: str) -> AnyPath:
            folder = fetch_judged(model, as_path(options.out) / "models", options.expect, stated_heads(options))
            check_scene_reading(options, read_card(folder))
            return folder

        def judged(folder: AnyPath, out: AnyPath) -> EvaluationResult:
            return evaluate_stores(
                machines,
                folder,
                stores,
                settings,
                out=out,
                heads=heads,
                boxes=boxes,
                worst_cases=options.worst_cases,
                actors=actors,
                clinic=options.clinic,
            )

        own, other = fetched(options.model), fetched(options.parent) if options.parent else None
        with machines.kept():
            result = judged(own, as_path(options.out))
            print(orjson.dumps(result.metrics, option=orjson.OPT_INDENT_2).decode())
            parent = None if other is None else judged(other, as_path(options.out) / "parent")
        if parent is not None:
            protocols = {
                name: open_store(location).manifest.definition.evaluation.protocol for name, location in stores.items()
            }
            print(as_markdown(forgetting_table(parent.metrics, result.metrics, protocols)))
        print(f"report {result.report}")

    return launched(job)


if __name__ == "__main__":
    sys.exit(main())
