"""``posecore lineage``: what a model has seen, and which models have seen something."""

import argparse
from pathlib import Path

from posecore.cli.commands import Commands


def add(commands: Commands) -> None:
    """Adds ``lineage model | dataset | image | subject | license | weights | send``."""
    group = commands.add_parser("lineage", help="what a model has seen, and which models have seen something")
    group.add_argument("--folder", default="runs", help="run folder with the local tracking store (default: runs)")
    group.add_argument("--tracking-uri", help="MLflow server; default: MLFLOW_TRACKING_URI, else the run folder's file")
    group.set_defaults(run=_answer_lineage)
    questions = group.add_subparsers(dest="question", required=True)
    model = questions.add_parser("model", help="data, parents and figures of a model version")
    model.add_argument("name", help="registered model")
    model.add_argument("version", type=int, help="its version number")
    dataset = questions.add_parser("dataset", help="every model trained on a dataset, itself or its ancestors")
    dataset.add_argument("name_or_digest", help="coco, coco/train, or a digest (at least 8 digits of it)")
    dataset.add_argument("--evaluated", action="store_true", help="also models only evaluated on it")
    image = questions.add_parser("image", help="every model trained on an image")
    image.add_argument("sha256", help="hash of the image file")
    subject = questions.add_parser("subject", help="every model trained on a person or animal")
    subject.add_argument("id", help="as in the dataset's records")
    weights = questions.add_parser("weights", help="every model that started from certain published weights")
    weights.add_argument("source_or_sha256", help="as they were named, or at least 8 digits of their SHA-256")
    questions.add_parser("send", help="send the points of curves that an outage of the tracking server kept back")
    license_ = questions.add_parser(
        "license", help="every model trained on data, or started from weights, with these terms of commercial use"
    )
    license_.add_argument("commercial_use", choices=["allowed", "not stated", "forbidden"])


def _answer_lineage(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.lineage import answers
    from posecore.lineage.curve import SPOOL, send_left_behind
    from posecore.lineage.query import LineageGraph
    from posecore.lineage.tracking import TrackingConfig, connect, shown_uri
    from posecore.lineage.versions import RegisteredVersion

    tracking = connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True)
    if options.question == "send":
        sent = send_left_behind(tracking, Path(options.folder).resolve() / SPOOL)
        print(f"{sent} curves sent to {shown_uri(tracking.uri)}")
        return 0
    graph = LineageGraph.load(tracking)
    complete = True
    if options.question == "model":
        lines = answers.describe_model(graph, RegisteredVersion(options.name, options.version))
    elif options.question == "dataset":
        lines = answers.describe_sightings(graph.of_dataset(options.name_or_digest, evaluated=options.evaluated))
    elif options.question == "weights":
        lines = answers.describe_sightings(graph.of_weights(options.source_or_sha256))
    elif options.question == "license":
        lines = answers.describe_sightings(graph.of_license(options.commercial_use))
    else:
        trace = graph.of_image(options.sha256) if options.question == "image" else graph.of_subject(options.id)
        lines, complete = answers.describe_trace(trace), not trace.unread
    print("\n".join(lines))
    return 0 if complete else 1
