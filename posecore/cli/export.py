"""``posecore export``: a trained or published model as ONNX, or as a model folder of ours."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands, refuse_folder
from posecore.cli.model_argument import (
    MODEL_HELP,
    add_reading,
    add_registry,
    say_guesses,
    stated_skeletons,
    weights_source,
)
from posecore.errors import LineageError, UsageError

if TYPE_CHECKING:
    from posecore.shards.store import ShardStore


def add(commands: Commands) -> None:
    """Adds ``export``."""
    parser = commands.add_parser("export")
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "--format", default="onnx", help="onnx (default), safetensors, or a format of your own: package.module:Class"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="option of a format of your own"
    )
    parser.add_argument("--head", help="dataset whose points are wanted; needed if the model has several")
    parser.add_argument(
        "--layout", choices=["picture", "crops", "rtmlib"], default="picture",
        help="what an onnx file takes: a picture and boxes, and answers keypoints in its pixels (default); crops, and "
        "answers what must be decoded; or what rtmlib runs",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=["float32", "float16", "int8"], default="float32",
        help="of the network in an onnx file; cropping and decoding stay float32 (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--calibrate", metavar="SPLIT", help="ingested split whose pictures int8 measures ranges on; needed for int8"
    )
    parser.add_argument(
        "--judge", metavar="SPLIT",
        help="ingested split to judge the file on, beside the float32 model; what it loses is said and stands in it",
    )  # fmt: skip
    parser.add_argument(
        "--max-loss", type=float, default=0.02, metavar="SHARE",
        help="of the float32 model's figure that it may lose there and be written (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, help="file to write for onnx, folder for safetensors")
    add_reading(parser, backbone=False)
    add_registry(parser)
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, which --help should not wait for.
    from posecore.models.export.format import OURS, format_named
    from posecore.models.export.onnx_file import single_head
    from posecore.models.saving import save_model
    from posecore.models.weights.read import checksum, locate, read_weights
    from posecore.workflows.exported_file import export_file

    own = None if options.format in OURS else format_named(options.format, options.set)
    if own is None and options.set:
        raise UsageError(f"--set: {options.format} has no options; leave it out.")
    if options.format != "safetensors":
        refuse_folder(options.out, "model.onnx")
    _check_precision(options)
    calibration, judged = (split and _store(split) for split in (options.calibrate, options.judge))
    with weights_source(options) as source:
        model = read_weights(source, options.expect, stated_skeletons(options))
        weights = checksum(locate(source).path)
    say_guesses(model.card)
    heads = tuple(model.skeletons)
    if options.format == "safetensors":
        print(save_model(single_head(model, options.head) if options.head else model, options.out))
        _record(options, weights)
        return 0
    if options.head is None and len(heads) > 1:
        raise UsageError(f"the model has several heads; choose one with --head: {', '.join(heads)}.")
    out = Path(options.out)
    head = options.head or heads[0]
    if own is not None:
        print(own.write(model, head, out))
        _record(options, weights)
        return 0
    written = export_file(
        model,
        head,
        out,
        layout=options.layout,
        precision=options.precision,
        calibration=calibration,
        judged=judged,
        max_loss=options.max_loss,
    )
    print(
        f"{out}: head {head}, layout {options.layout}, {options.precision}; in float32 onnxruntime differs from "
        f"PyTorch by {written.difference:.1e} at most."
    )
    if written.loss is not None:
        print(written.loss)
    elif options.precision != "float32":
        print(f"what {options.precision} costs on pictures was not measured; --judge SPLIT does")
    _record(options, weights)
    return 0


def _store(split: str) -> "ShardStore":
    # Imported here because an export without a split does not need pyarrow, which takes a third of a second.
    from posecore.shards.store import open_store

    return open_store(split)


def _check_precision(options: argparse.Namespace) -> None:
    if options.format != "onnx" and (options.precision != "float32" or options.calibrate or options.judge):
        raise UsageError(f"--precision, --calibrate and --judge are for onnx, not for {options.format}.")
    if options.precision == "int8" and not options.calibrate:
        raise UsageError(
            "int8 measures ranges on pictures such as the model will see; name a split of them with --calibrate."
        )
    if options.precision != "int8" and options.calibrate:
        raise UsageError(f"{options.precision} measures no ranges; leave --calibrate out, or choose int8.")


def _record(options: argparse.Namespace, weights: str) -> None:
    """Writes the export down where models are recorded, if they are: a withdrawal must find the file again."""
    out = Path(options.out)
    nowhere = f"{out} is recorded nowhere: there is no tracking store at {options.folder}; --folder or --tracking-uri"
    if not (
        options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or Path(options.folder, "mlflow.db").exists()
    ):
        print(nowhere)
        return
    # Imported here because MLflow takes a second.
    from posecore.lineage.jobs.exports import record_export
    from posecore.lineage.store.tracking import TrackingConfig, connect

    try:
        config = TrackingConfig(uri=options.tracking_uri, experiment="exports")
        tracking = connect(config, options.folder, must_exist=True)
    except LineageError:
        print(nowhere)
        return
    print(f"recorded in run {record_export(tracking, weights, out)}")
