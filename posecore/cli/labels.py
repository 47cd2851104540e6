"""``posecore labels``: what a population's bodies look like, and which of its labels look wrong."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from posecore.cli.commands import Commands, positive
from posecore.counting import counted
from posecore.datasets.discovery import read_pool
from posecore.datasets.recognise import plain_definition, recognise
from posecore.errors import DatasetError
from posecore.image_header import MAX_PIXELS
from posecore.labels.agreement import agreement, agreement_text
from posecore.labels.bodies import LabelledBodies
from posecore.labels.contradictions import LEAST_ENERGY, implausible_labels, proportions_of
from posecore.labels.export import WRITERS, export, pictures_of_files, read_predictions
from posecore.labels.next_pictures import next_pictures
from posecore.labels.plausibility import BodyScorer
from posecore.labels.proportions import BodyStatistics
from posecore.labels.suspects import CORRECTIONS_NAME, Suspect, corrections_of, write_suspects
from posecore.loading.crop import decode_image
from posecore.schema import Json, Record, json_text
from posecore.shards.corrections import read_corrections, write_corrections
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import ShardStore, open_store
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import as_path, write_atomically
from posecore.viz.gallery import write_gallery
from posecore.viz.overlay import draw_instances
from posecore.viz.suspects import write_suspect_gallery


def add(commands: Commands) -> None:
    """Adds ``labels learn | check | losses | prior | agreement | next``."""
    group = commands.add_parser("labels")
    actions = group.add_subparsers(dest="action", required=True)
    learn = actions.add_parser("learn", help="learn bone lengths and joint angles from labels")
    _add_split(learn)
    learn.add_argument("--out", required=True, type=Path, help="JSON file to write")
    learn.set_defaults(run=_learn)

    check = actions.add_parser("check", help="list labels that contradict the proportions of their population")
    _add_split(check)
    _add_results(check)
    check.add_argument("--against", help="statistics of `labels learn`; default: those of the split itself")
    check.add_argument(
        "--energy",
        type=float,
        default=LEAST_ENERGY,
        help=f"least energy of a suspicious label, in nats (default: {LEAST_ENERGY})",
    )
    check.set_defaults(run=_check)

    losses = actions.add_parser("losses", help="list labels that a training with label_check hardly learned")
    _add_split(losses)
    losses.add_argument("recording", help="folder label_losses/<entry> of the training")
    _add_results(losses)
    losses.set_defaults(run=_losses)

    prior = actions.add_parser("prior", help="learn a distance to plausible poses from labels")
    _add_split(prior)
    prior.add_argument("--out", required=True, type=Path, help=".safetensors file to write")
    prior.add_argument("--steps", type=positive, default=1000, help="of training (default: 1000)")
    prior.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    prior.set_defaults(run=_prior)

    compare = actions.add_parser(
        "agreement", help="OKS constants of your own points, from pictures that two people have labelled"
    )
    compare.add_argument("first", help="one's labels: an ingested split, or the file or folder of a labelling tool")
    compare.add_argument("second", help="the other's; the same file, if --annotators tells them apart")
    compare.add_argument(
        "--annotators", type=int, nargs=2, metavar=("A", "B"), help="numbers of the two in a file of Label Studio"
    )
    compare.add_argument("--out", type=Path, help="JSON file to write")
    compare.add_argument("--seed", type=int, default=0, help="of the intervals (default: 0)")
    compare.set_defaults(run=_agreement)

    following = actions.add_parser("next", help="which pictures to label next, as a page and as pre-labels to correct")
    following.add_argument("predicted", type=Path, help="folder that `posecore predict` has written")
    following.add_argument("--pictures", type=Path, required=True, help="folder of the pictures or films")
    following.add_argument("--num", type=positive, default=24, help="how many (default: 24)")
    following.add_argument(
        "--by", choices=["score", "radius"], default="score",
        help="what says how sure the model is: scores, or the radii of a calibrated one (default: score)",
    )  # fmt: skip
    following.add_argument("--head", default="", help="whose points (default: the first)")
    following.add_argument("--format", choices=list(WRITERS), default="coco", help="of the pre-labels (default: coco)")
    following.add_argument("--out", type=Path, required=True, help="folder to write into")
    following.set_defaults(run=_next)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("split", help="folder of an ingested split, local or an fsspec URL")
    parser.add_argument("--corrections", help="corrections file with labels to leave out")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, help="folder of the table and the pictures")
    parser.add_argument("--num", type=positive, default=48, help="bodies to show at most (default: 48)")
    parser.add_argument(
        "--drop-noisy", action="store_true", help=f"write {CORRECTIONS_NAME}, which sets these labels to unlabelled"
    )


def _open(options: argparse.Namespace) -> ShardStore:
    corrections = read_corrections(options.corrections) if options.corrections else None
    return open_store(options.split, corrections=corrections)


def _learn(options: argparse.Namespace) -> int:
    store = _open(options)
    statistics = proportions_of(store, LabelledBodies.from_store(store))
    print(
        f"{statistics.save(options.out)}: {counted(len(statistics.bones), 'bone')} and "
        f"{counted(len(statistics.angles), 'angle')} of {counted(statistics.num_bodies, 'body')} of "
        f"{statistics.dataset}"
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    store = _open(options)
    bodies = LabelledBodies.from_store(store)
    statistics = BodyStatistics.load(options.against) if options.against else proportions_of(store, bodies)
    scorer = BodyScorer(statistics, store.manifest.definition.skeleton)
    suspects = implausible_labels(scorer, bodies, options.energy)
    made_by: dict[str, Json] = {
        "check": "proportions",
        "energy": options.energy,
        "statistics_of": statistics.dataset,
        "statistics_digest": statistics.digest,
    }
    looked_at = f"{counted(int(bodies.labelled.sum()), 'label')} of {counted(len(bodies), 'body')}"
    _write(options, store, suspects, made_by, looked_at)
    return 0


def _losses(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, which no other command should wait for.
    from posecore.evaluation.label_losses import read_label_losses
    from posecore.labels.dynamics import find_noisy_labels, noisy_labels

    store = _open(options)
    losses = read_label_losses(options.recording, store)
    check = find_noisy_labels(losses)
    if options.drop_noisy and not check.is_clear:
        raise DatasetError(
            f"{options.recording}: {check}; nothing is dropped. Look at the list without --drop-noisy, or train longer."
        )
    made_by: dict[str, Json] = {"check": "loss dynamics", "separation": round(check.separation, 3)}
    _write(options, store, noisy_labels(check, losses), made_by, str(check))
    return 0


def _prior(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, which no other command should wait for.
    from posecore.methods.pose_manifold import ManifoldTraining, learn_manifold, save_manifold

    store = _open(options)
    bodies = LabelledBodies.from_store(store)
    skeleton = store.manifest.definition.skeleton
    training = ManifoldTraining(steps=options.steps, seed=options.seed)
    manifold = learn_manifold(bodies.keypoints, bodies.labelled, skeleton, training)
    name = f"{store.manifest.dataset} {store.manifest.split}"
    path = save_manifold(options.out, manifold, dataset=name, digest=store.manifest.digest, num_bodies=len(bodies))
    print(f"{path}: a distance to the poses of {counted(len(bodies), 'body')} of {name}")
    return 0


def _agreement(options: argparse.Namespace) -> int:
    who = options.annotators or (None, None)
    (first, skeleton), (second, other) = (
        _records_of(place, one) for place, one in zip((options.first, options.second), who, strict=True)
    )
    if set(skeleton.names) != set(other.names):
        raise DatasetError(
            f"the first has the points {', '.join(skeleton.names)}, the second {', '.join(other.names)}; they must be "
            "the same."
        )
    order = [other.names.index(name) for name in skeleton.names]
    for record in second:
        for body in record.instances:
            body.keypoints = body.keypoints[order]
    found = agreement(first, second, skeleton, options.seed)
    print(agreement_text(found))
    if options.out:
        write_atomically(options.out, json_text(found.to_json()))
        print(options.out)
    return 0


def _records_of(place: str, annotator: int | None) -> tuple[list[Record], Skeleton]:
    """Labels of one person, and the skeleton they have."""
    path = as_path(place)
    if (path / MANIFEST_NAME).exists():
        store = open_store(place)
        return list(map(store.read_record, range(store.num_images))), store.manifest.definition.skeleton
    found = recognise(Path(place))
    if annotator is not None:
        found.reader_options["annotator"] = annotator
    definitions = [plain_definition(found, split) for split in found.splits.values()]
    items = [item for one in definitions for item in read_pool(one, "all", found.root)]
    return [item for item in items if isinstance(item, Record)], definitions[0].skeleton


def _next(options: argparse.Namespace) -> int:
    found = read_predictions(options.predicted, options.head)
    chosen = next_pictures(found.records, options.num, options.by)
    pictures = list(pictures_of_files((found.records[one.row] for one in chosen), options.pictures))
    done = export(pictures, found.skeleton, "next", options.format, options.out)
    shown = (
        (
            draw_instances(decode_image(data, MAX_PIXELS, record.image), record.instances, found.skeleton),
            f"{record.image}: doubt {one.doubt:.2f}, distance from those before {one.distance:.2f}",
        )
        for one, (record, data) in zip(chosen, pictures, strict=True)
        if isinstance(data, bytes)
    )
    page = write_gallery(shown, options.out / "page", "To label next")
    print(f"{counted(done.num_pictures, 'picture')} of {len(found.records)}, the first first\n{page}")
    for path in done.files:
        print(path)
    for reason in done.missing[:3]:
        print(f"  left out: {reason}")
    return 0


def _write(
    options: argparse.Namespace, store: ShardStore, suspects: Sequence[Suspect], made_by: dict[str, Json], told: str
) -> None:
    table = write_suspects(options.out, store, suspects)
    title = f"Suspicious labels: {store.manifest.dataset} {store.manifest.split}"
    page = write_suspect_gallery(options.out, store, suspects, title, options.num)
    print(f"{counted(len(suspects), 'suspicious label')} ({told})\n{table}\n{page}")
    if options.drop_noisy:
        corrections = corrections_of(store, suspects, made_by)
        path = options.out / CORRECTIONS_NAME
        write_corrections(path, corrections)
        print(f"{path}: {counted(corrections.num_points, 'label')} to drop, digest {corrections.digest[:12]}")
