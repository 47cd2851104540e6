"""``posecore view``: browse a split, what a model said of it, and two models side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands
from posecore.counting import counted
from posecore.errors import EvaluationError, PreflightError
from posecore.nearest import nearest

if TYPE_CHECKING:
    from posecore.storage import AnyPath
    from posecore.viz.browse import BrowsedSet

_MOST_FILES = 100


def add(commands: Commands) -> None:
    """Adds ``view``."""
    view = commands.add_parser("view")
    view.add_argument(
        "places", nargs="+", metavar="PLACE",
        help="an ingested split, or a folder with predictions: of an evaluation, a training or a whole run",
    )  # fmt: skip
    view.add_argument("--port", type=_port, default=0, help="of the page (default: any free one)")
    view.add_argument("--open", action="store_true", help="open the page in a browser")
    view.set_defaults(run=_view)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give 1 to 65535, or 0 for any free one")
    return int(text)


def _view(options: argparse.Namespace) -> int:
    from posecore.viz.view_server import ViewServer

    sets = _found(options.places)
    try:
        serving = ViewServer(sets, options.port)
    except OSError as error:
        raise PreflightError(f"port {options.port}: {error.strerror}; leave --port out for a free one.") from None
    with serving as server:
        print(f"{server.url}   (Ctrl-C ends it)", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(server.url)
        server.serve_forever()
    return 0


def _found(places: list[str]) -> "list[BrowsedSet]":
    """Every split that is named, or of which there are predictions, once."""
    from posecore.evaluation.arrays import Predictions
    from posecore.evaluation.prediction_files import PREDICTIONS_FILE, read_predictions
    from posecore.shards.manifest import MANIFEST_NAME
    from posecore.shards.store import ShardStore, open_store
    from posecore.storage import as_path
    from posecore.viz.browse import BrowsedSet

    stores: dict[str, ShardStore] = {}
    answers: dict[str, dict[str, Predictions]] = {}
    for place in places:
        folder = as_path(place)
        if (folder / MANIFEST_NAME).exists():
            store = open_store(folder)
            stores.setdefault(store.manifest.digest, store)
            continue
        files = sorted(folder.rglob(PREDICTIONS_FILE)) if folder.is_dir() else []
        if not files:
            raise EvaluationError(_nothing(folder))
        if len(files) > _MOST_FILES:
            raise EvaluationError(
                f"{folder} holds {counted(len(files), 'file')} of predictions; name a folder within it."
            )
        for file in files:
            predictions, _, store = read_predictions(file)
            stores.setdefault(store.manifest.digest, store)
            known = answers.setdefault(store.manifest.digest, {})
            known[_name(place if len(places) > 1 else "", file.parent, folder, set(known), len(files))] = predictions
    return [
        BrowsedSet(f"{store.manifest.dataset}/{store.location.name}", store, answers.get(digest, {}))
        for digest, store in stores.items()
    ]


def _name(place: str, file_folder: "AnyPath", folder: "AnyPath", taken: set[str], num_files: int) -> str:
    """What a model is called: where its evaluation lies, as short as tells it from the others.

    Args:
        place: as it was given, where several were; else empty.
        file_folder: of the predictions.
        folder: which the place is.
        taken: names of other models.
        num_files: of predictions in the folder.
    """
    below = str(file_folder.relative_to(folder))
    short = below.rpartition("evaluation/")[2]
    names = (f"{place}: {short}", f"{place}: {below}") if place else (short, below, str(folder))
    if place and num_files == 1:
        names = (place, *names)
    return next((name for name in names if name not in (*taken, ".")), f"{folder}/{below}")


def _nothing(folder: "AnyPath") -> str:
    if not folder.is_dir():
        near = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, near)
        if folder.exists():
            return f"{folder} is a file; name a folder: an ingested split, or what an evaluation has written."
        return f"{folder}: no such folder{f'; did you mean {folder.parent / close[0]}?' if close else '.'}"
    splits = sorted({path.parent for path in Path(str(folder)).glob("*/*/manifest.json")})[:3]
    near_by = f"; splits near by: {', '.join(map(str, splits))}" if splits else ""
    return (
        f"{folder}: neither an ingested split nor a folder with predictions.parquet, which evaluations write "
        f"(posecore evaluate, posecore train){near_by}."
    )
