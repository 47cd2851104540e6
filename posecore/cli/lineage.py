"""``posecore lineage``: what a model has seen, and which models have seen something.

The exit status is 0 for a complete answer, 1 for one that may not be complete, 2 for a question about nothing that is
recorded.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands
from posecore.cli.model_argument import add_registry
from posecore.counting import counted

if TYPE_CHECKING:
    from posecore.lineage.ancestry.query import Answer, LineageGraph
    from posecore.lineage.store.tracking import Tracking


def add(commands: Commands) -> None:
    """Adds ``lineage model | dataset | image | subject | license | weights | stage | code | user | show | send``."""
    group = commands.add_parser(
        "lineage",
        epilog="exit status: 0 the answer is complete, 1 it may not be, 2 nothing of that name is recorded",
    )
    add_registry(group)
    group.set_defaults(run=_answer_lineage)
    questions = group.add_subparsers(dest="question", required=True)
    model = questions.add_parser("model", help="data, parents and figures of a model version")
    model.add_argument("name", help="registered model")
    model.add_argument("version", type=int, help="its version number")
    dataset = questions.add_parser("dataset", help="every model trained on a dataset, itself or its ancestors")
    dataset.add_argument("asked", help="coco, coco/train, or a digest (at least 8 digits of it)")
    dataset.add_argument("--judged", action="store_true", help="models that were judged on it instead")
    image = questions.add_parser("image", help="every model trained on an image, or on one made from it")
    image.add_argument("asked", metavar="file", help="the image file, or its BLAKE3 or SHA-256")
    subject = questions.add_parser("subject", help="every model trained on a person or animal")
    subject.add_argument(
        "asked", metavar="dataset/id", help="as in the dataset's records; the id alone where it is one"
    )
    weights = questions.add_parser("weights", help="every model that came from certain weights")
    weights.add_argument("asked", metavar="weights", help="as they were named, or at least 8 digits of their SHA-256")
    license_ = questions.add_parser("license", help="every model under certain terms, of data, pictures or weights")
    license_.add_argument(
        "asked",
        metavar="license",
        help="an id such as CC-BY-NC-4.0, or what is forbidden, such as "
        "commercial, research, clinical, biometric or derivative",
    )
    stage = questions.add_parser("stage", help="every model trained on what an ingestion stage has handled")
    stage.add_argument("asked", metavar="stage", help="as dataset.yaml names it, such as blur_faces")
    code = questions.add_parser("code", help="every model that came out of a version of the code")
    code.add_argument("asked", metavar="digest", help="a git commit or a code digest, at least 8 digits of it")
    user = questions.add_parser("user", help="every model that came out of what somebody ran")
    user.add_argument("asked", metavar="user", help="as MLflow shows it")
    show = questions.add_parser("show", help="draw everything from source data to alias, as a page for a browser")
    show.add_argument("asked", metavar="model", help="models:/name/version, models:/name@alias, or a dataset")
    show.add_argument("--html", required=True, metavar="FILE", help="page to write")
    questions.add_parser("send", help="send the points of curves that an outage of the tracking server kept back")
    for question in questions.choices.values():
        add_registry(question, again=True)


def _answer_lineage(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.lineage import descriptions
    from posecore.lineage.ancestry.query import LineageGraph
    from posecore.lineage.store.curve import SPOOL, send_left_behind
    from posecore.lineage.store.reachable import shown_uri
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.tags import RegisteredVersion

    tracking = connect(
        TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True, records=options.question == "send"
    )
    if options.question == "send":
        sent = send_left_behind(tracking, Path(options.folder).resolve() / SPOOL)
        print(f"{counted(sent, 'curve')} sent to {shown_uri(tracking.uri)}")
        return 0
    graph = LineageGraph.load(tracking)
    if options.question == "show":
        return _show(tracking, graph, options)
    if options.question == "model":
        lines, complete = descriptions.describe_model(graph, RegisteredVersion(options.name, options.version))
    else:
        answer = _answer(tracking, graph, options)
        lines, complete = descriptions.describe_answer(graph, answer), not answer.unknown
    print("\n".join(lines))
    return 0 if complete else 1


def _show(tracking: "Tracking", graph: "LineageGraph", options: argparse.Namespace) -> int:
    from posecore.lineage.ancestry.drawing import draw
    from posecore.viz.graph_page import GraphEdge, GraphNode, write_graph_page

    drawn = draw(tracking, graph, options.asked)
    nodes = {key: GraphNode(*told) for key, told in drawn.boxes.items()}
    unknown = [f"unknown: {why}" for why in drawn.unknown]
    page = write_graph_page(options.html, drawn.title, nodes, [GraphEdge(*each) for each in drawn.arrows], unknown)
    print("\n".join([f"{counted(len(nodes), 'thing')} and what became of them: {page}", *unknown]))
    return 1 if unknown else 0


def _answer(tracking: "Tracking", graph: "LineageGraph", options: argparse.Namespace) -> "Answer":
    from posecore.lineage.ancestry import questions
    from posecore.lineage.ancestry.pictures import Editions, models_that_saw
    from posecore.lineage.withdrawal.certificate import asked_about
    from posecore.lineage.withdrawal.record import withdrawal_records

    asked: str = options.asked
    if options.question == "dataset":
        return graph.judged_on(asked) if options.judged else graph.of_dataset(asked)
    if options.question == "weights":
        return graph.of_weights(asked)
    if options.question == "code":
        return questions.of_code(graph, asked)
    if options.question == "user":
        return questions.of_user(graph, asked)
    editions = Editions.of(graph)
    if options.question in ("image", "subject"):
        meant = asked_about(editions, withdrawal_records(tracking), asked, picture=options.question == "image")
        return models_that_saw(graph, meant.found, meant.held)
    if options.question == "stage":
        return questions.of_stage(graph, editions, asked)
    return questions.of_license(graph, editions, asked)
