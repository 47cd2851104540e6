"""``posecore withdraw`` and ``posecore certify``: a person or picture is taken out of everything, and proof of it."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands
from posecore.cli.model_argument import add_registry

if TYPE_CHECKING:
    from posecore.lineage.ancestry.pictures import Editions, Found


def add(commands: Commands) -> None:
    """Adds ``withdraw`` and ``certify``."""
    withdraw = commands.add_parser(
        "withdraw",
        epilog="exit status: 0 the list is complete or all was done, 1 it may not be, 2 nothing of that name is there",
    )
    what = withdraw.add_mutually_exclusive_group(required=True)
    what.add_argument("--subject", metavar="DATASET/ID", help="a person or animal")
    what.add_argument("--picture", metavar="FILE", help="one picture: its file, or the BLAKE3 or SHA-256 of it")
    what.add_argument("--video", metavar="DATASET/ID", help="all pictures of a video")
    what.add_argument("--dataset", metavar="NAME", help="all of a dataset; it is not ingested again")
    withdraw.add_argument("--reason", default="", help="who asked for it and when; required with --apply")
    withdraw.add_argument("--apply", action="store_true", help="do it; without, nothing is changed")
    withdraw.add_argument("--policy", help="YAML file with the kinds of files that go")
    withdraw.add_argument("--key", help="file with a key that signs the record (HMAC-SHA-256)")
    withdraw.add_argument("--experiment", default="withdrawals", help="of the records (default: %(default)s)")
    add_registry(withdraw)
    withdraw.set_defaults(run=_withdraw)
    certify = commands.add_parser(
        "certify",
        epilog="exit status: 0 it never saw it, 1 it did, or that cannot be proven, 2 a mistake in the question",
    )
    certify.add_argument("model", help="models:/name/version, models:/name@version or models:/name@alias")
    asked = certify.add_mutually_exclusive_group(required=True)
    asked.add_argument("--never-saw", metavar="DATASET/ID", help="a person or animal")
    asked.add_argument(
        "--never-saw-picture", metavar="FILE", help="a picture: its file, or the BLAKE3 or SHA-256 of it"
    )
    asked.add_argument("--never-saw-dataset", metavar="NAME", help="all of a dataset")
    certify.add_argument(
        "--trust-publishers", action="store_true", help="take for granted that published weights have not seen it"
    )
    certify.add_argument("--key", help="file with the key that signed the records of withdrawals")
    certify.add_argument("--out", help="write the certificate there as JSON")
    add_registry(certify)
    certify.set_defaults(run=_certify)


def _withdraw(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.config import load_config
    from posecore.lineage.ancestry.pictures import Editions, subject_of
    from posecore.lineage.ancestry.query import LineageGraph
    from posecore.lineage.descriptions import describe_done, describe_plan
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.withdrawal.execution import WithdrawalPolicy, apply_withdrawal
    from posecore.lineage.withdrawal.plan import plan_withdrawal
    from posecore.lineage.withdrawal.record import read_key

    policy = WithdrawalPolicy() if options.policy is None else load_config(options.policy, WithdrawalPolicy)
    key = None if options.key is None else read_key(options.key)
    config = TrackingConfig(uri=options.tracking_uri, experiment=options.experiment)
    tracking = connect(config, options.folder, must_exist=True)
    graph = LineageGraph.load(tracking)
    editions = Editions.of(graph)
    name, found = _meant(editions, options)
    of = subject_of(editions, options.subject) if options.subject else (options.dataset or "", "")
    plan = plan_withdrawal(tracking, graph, editions, found, name, of)
    print("\n".join(describe_plan(graph, plan, policy)))
    if not options.apply:
        print("nothing was changed; --apply does it")
        return 1 if plan.unknown else 0
    done = apply_withdrawal(tracking, graph, plan, options.reason, policy, key)
    print("\n".join(describe_done(done)))
    return 1 if done.failed or plan.unknown else 0


def _meant(editions: "Editions", options: argparse.Namespace) -> tuple[str, "Found"]:
    from posecore.lineage.ancestry.pictures import find_dataset, find_picture, find_subject, find_video

    if options.subject:
        return options.subject, find_subject(editions, options.subject)
    if options.picture:
        return options.picture, find_picture(editions, options.picture)
    if options.dataset:
        return f"dataset {options.dataset}", find_dataset(editions, options.dataset)
    return f"video {options.video}", find_video(editions, options.video)


def _certify(options: argparse.Namespace) -> int:
    from posecore.lineage.ancestry.pictures import Editions
    from posecore.lineage.ancestry.query import LineageGraph
    from posecore.lineage.descriptions import describe_certificate
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.model_source import named_version
    from posecore.lineage.withdrawal.certificate import asked_about, asked_about_dataset, certify
    from posecore.lineage.withdrawal.record import read_key, withdrawal_records
    from posecore.storage import as_path, write_atomically

    key = None if options.key is None else read_key(options.key)
    tracking = connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True)
    graph = LineageGraph.load(tracking)
    editions = Editions.of(graph)
    records = withdrawal_records(tracking)
    if options.never_saw_dataset:
        asked = asked_about_dataset(editions, records, options.never_saw_dataset)
    else:
        name = options.never_saw or options.never_saw_picture
        asked = asked_about(editions, records, name, picture=options.never_saw is None)
    model = named_version(options.model, tracking)
    found = certify(graph, editions, records, model, asked, trust_publishers=options.trust_publishers, key=key)
    print("\n".join(describe_certificate(found)))
    if options.out:
        write_atomically(as_path(options.out), (json.dumps(asdict(found), indent=1) + "\n").encode())
    return 0 if found.verdict == "never saw" else 1
