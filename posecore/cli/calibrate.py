"""``posecore calibrate``: how far off a model's points are, found out on a held-out split and kept with the model."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands, positive
from posecore.cli.model_argument import (
    MODEL_HELP,
    add_reading,
    add_registry,
    add_scene_reading,
    check_scene_reading,
    scene_settings,
    stated_skeletons,
    weights_source,
)
from posecore.counting import counted
from posecore.workflows.named_model import is_registered

if TYPE_CHECKING:
    from posecore.shards.store import ShardStore


def add(commands: Commands) -> None:
    """Adds ``calibrate``."""
    parser = commands.add_parser("calibrate")
    parser.set_defaults(run=_calibrate)
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("split", help="ingested split that the model has not learned from, local or an fsspec URL")
    parser.add_argument(
        "--out", type=Path,
        help="folder for a calibrated copy (default: the model's own folder, or the next version of a registered one)",
    )  # fmt: skip
    parser.add_argument("--head", help="the model's head that answers (default: the split's dataset's own)")
    parser.add_argument("--level", type=float, default=0.9, help="probability of the radii (default: 0.9)")
    parser.add_argument(
        "--pictures", action="store_true",
        help="promise for further pictures of the same subjects, where they are too few to speak for others",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=positive, default=64, help="crops per pass (default: 64)")
    add_scene_reading(parser)
    add_reading(parser, backbone=False)
    add_registry(parser)


def _calibrate(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, which no other command should wait for.
    from posecore.codecs.scene import SceneReading
    from posecore.config import COMMAND_LINE, parse_config
    from posecore.errors import UsageError
    from posecore.models.saving import holds_model, save_model
    from posecore.models.weights.read import read_weights
    from posecore.prediction.predictor import best_device
    from posecore.shards.store import open_store
    from posecore.workflows.calibration import calibrate

    if not 0 < options.level < 1:
        raise UsageError(f"--level {options.level:g}: a probability lies between 0 and 1, such as 0.9.")
    registered = is_registered(options.model)
    if options.out is None and not registered and not holds_model(options.model):
        raise UsageError(f"{options.model} is no model folder to write into; say with --out where the copy goes.")
    store = open_store(options.split)
    with weights_source(options) as source:
        model = read_weights(source, options.expect, stated_skeletons(options))
    reading = parse_config(scene_settings(options), SceneReading, origin=COMMAND_LINE)
    check_scene_reading(options, model.card)
    with TemporaryDirectory() as scratch:
        folder = options.out or (Path(scratch) / "model" if registered else Path(options.model))
        if options.out is not None or registered:
            save_model(model, folder)
        found = calibrate(
            folder,
            model.to(best_device()),
            store,
            head=options.head,
            level=options.level,
            pictures=options.pictures,
            batch_size=options.batch_size,
            reading=reading,
        )
        place = str(folder) if options.out is not None or not registered else _registered(options, folder, store)
    for each in found:
        radius = "of no radius" if each.whole.radius is None else f"within {each.whole.radius:.2f} predicted sigmas"
        print(
            f"{each.head}, {each.how}: {100 * each.level:g} % {radius}, for a point of a new {each.unit}, by "
            f"{counted(each.whole.points, 'point')} of {each.whole.units}"
        )
        few = [name for name, fit in each.by["keypoint"].items() if fit.radius is None]
        if few:
            print(f"  of all points together, for lack of their own: {', '.join(few)}")
        if each.whole.visible is None:
            print("  nothing is said of which points are visible: too few are labelled occluded")
    print(place)
    return 0


def _registered(options: argparse.Namespace, folder: Path, store: "ShardStore") -> str:
    """The version that the calibrated copy of a registered one has become."""
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.model_source import registered_version
    from posecore.workflows.calibrated_version import register_calibrated

    tracking = connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True)
    parent = registered_version(options.model, tracking)
    return f"{register_calibrated(tracking, parent, folder, store).uri}, whose parent is {parent.uri}"
