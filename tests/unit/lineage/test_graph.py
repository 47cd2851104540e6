"""The graph of lineage: content makes nodes, every walk is linear, and what cannot be known is said."""

import sys

import pytest

from posecore.errors import QuestionError
from posecore.lineage.ancestry.graph import ALL, Graph, Node, path_to
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.ancestry.records import Records, RunRecord, VersionRecord
from posecore.lineage.descriptions import describe_answer
from posecore.lineage.jobs.contents import Made, made_by, making_tags, origin_tags, origins_of, reading_tags, reads_of
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.lineage.versions.weights_use import WeightsUse, weights_in


def version(number: int, parent: str = "", sha256: str = "", **fields: object) -> VersionRecord:
    values = {
        "version": RegisteredVersion("m", number),
        "deleted": False,
        "model_id": "",
        "run_id": "",
        "user": "",
        "sha256": sha256,
        "parent": parent,
        "aliases": (),
        "uses": [],
        "weights": [],
        "tags": {},
    }
    return VersionRecord(**{**values, **fields})


def run(run_id: str, step: str, **fields: object) -> RunRecord:
    values = {
        "user": "u",
        "status": "FINISHED",
        "start_ms": 0,
        "seconds": 1.0,
        "code": "c" * 64,
        "folder": None,
        "params": {},
        "reads": [],
        "result": "",
        "made": [],
        "weights": [],
        "uses": [],
    }
    return RunRecord(run_id=run_id, step=step, **{**values, **fields})


def use(digest: str, role: str = "training", name: str = "coco") -> DatasetUse:
    return DatasetUse(name=name, split="train", digest=digest * 64, role=role, license="X")


def names(graph: LineageGraph, answer: object) -> list[str]:
    return [graph.name(seen.model) for seen in answer.sightings]


def test_a_walk_gives_the_nearest_way_in_both_directions() -> None:
    graph = Graph()
    a, b, c, d = (Node("weights", name) for name in "abcd")
    for source, target in ((a, b), (b, c), (c, d), (a, c)):
        graph.link(source, target, "started from")
    graph.link(d, d, "made")
    forward = graph.reached([a])
    assert [(edge.source, edge.target) for edge in path_to(d, forward)] == [(a, c), (c, d)]
    backward = graph.reached([d], backwards=True)
    assert [(edge.source, edge.target) for edge in path_to(a, backward)] == [(a, c), (c, d)]
    assert path_to(a, forward) == []


def test_who_was_judged_on_a_set_has_not_learned_from_it() -> None:
    """An evaluation's run reads split and model; its figures lead to no model, but its report is reached by ALL."""
    trained = run("t", "train", made=[Made("weights", "a" * 64, "/m")], uses=[use("1")], result="r1")
    judged = run("e", "evaluate", reads=["a" * 64], uses=[use("2", "evaluation", "mpii")], result="r2")
    audit = run("x", "audit", reads=["1" * 64, "2" * 64])
    records = Records(runs=[trained, judged, audit], versions=[version(1, sha256="a" * 64)])
    graph = LineageGraph(records)
    assert names(graph, graph.of_dataset("coco")) == ["m version 1"]
    assert names(graph, graph.of_dataset("mpii")) == []
    assert names(graph, graph.judged_on("mpii")) == ["m version 1"]
    assert names(graph, graph.judged_on("coco")) == []
    shown = graph.graph.reached([Node("split", "2" * 64)], ALL)
    assert set(shown) == {Node("split", "2" * 64), Node("run", "e"), Node("run", "x")}


def test_weights_are_one_node_however_they_were_named_and_wherever_they_lie() -> None:
    """A teacher given as a folder, whose student was never registered, and a version made from that student."""
    teacher = run("t", "train", made=[Made("weights", "a" * 64, "/t")], uses=[use("1")])
    record = {"source": "/copied/t", "sha256": "a" * 64, "layout": "posecore", "license": "X"}
    student = run(
        "s", "stage1", made=[Made("weights", "b" * 64, "/s")], uses=[use("2")], weights=weights_in({"teacher": record})
    )
    child = version(1, sha256="c" * 64, weights=weights_in({"weights": record | {"sha256": "b" * 64, "source": "/s"}}))
    graph = LineageGraph(Records(runs=[teacher, student], versions=[child]))
    answer = graph.of_dataset("1" * 64)
    assert names(graph, answer) == ["/copied/t (aaaaaaaaaaaa)", "/s (bbbbbbbbbbbb)", "m version 1"]
    assert answer.unknown == []
    relations = [edge.relation for edge in answer.sightings[-1].path]
    assert relations == ["trained on", "made", "taught by", "started from", "registered as"]


def test_a_model_from_elsewhere_brings_what_its_card_says_and_one_that_says_nothing_is_unknown() -> None:
    silent = {"source": "/old", "sha256": "a" * 64, "layout": "posecore", "license": "X"}
    telling = silent | {"sha256": "b" * 64, "data": [use("1").portable], "origin": {**silent, "layout": "vitpose"}}
    graph = LineageGraph(Records(versions=[version(1, sha256="c" * 64, weights=weights_in({"weights": telling}))]))
    answer = graph.of_dataset("coco")
    assert names(graph, answer) == ["/old (bbbbbbbbbbbb)", "m version 1"]
    assert answer.unknown == []
    assert answer.on_trust == ["what /old was trained on is known to its publisher"]
    graph = LineageGraph(Records(versions=[version(1, sha256="c" * 64, weights=weights_in({"weights": silent}))]))
    (unknown,) = graph.unknown()
    assert unknown == "no record says what /old (aaaaaaaaaaaa), from which m version 1 was made, was made from"


def test_a_circle_of_parents_ends() -> None:
    graph = LineageGraph(Records(versions=[version(1, "models:/m/2", uses=[use("1")]), version(2, "models:/m/1")]))
    assert names(graph, graph.of_dataset("coco")) == ["m version 1", "m version 2"]


@pytest.mark.parametrize("asked", ["coc", "coco/val", "2" * 64, "1111111"])
def test_a_misspelt_name_is_a_mistake_and_not_an_empty_answer(asked: str) -> None:
    graph = LineageGraph(Records(versions=[version(1, uses=[use("1")])]))
    with pytest.raises(QuestionError, match="there is coco"):
        graph.of_dataset(asked)


def chain(length: int) -> Records:
    links = [version(number, f"models:/m/{number - 1}" if number else "", uses=[use("1")]) for number in range(length)]
    return Records(versions=links)


def lines_run(records: Records) -> int:
    """Lines run by loading and by asking: work that no neighbour of this process changes."""
    counted = 0

    def count(*_: object) -> object:
        nonlocal counted
        counted += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        graph = LineageGraph(records)
        describe_answer(graph, graph.of_dataset("coco"))
        graph.behind(records.versions[-1].version)
    finally:
        sys.settrace(before)
    return counted


def test_questions_about_a_chain_of_models_take_linear_work() -> None:
    short, long = lines_run(chain(50)), lines_run(chain(500))
    assert long < 11 * short
    graph = LineageGraph(chain(1000))
    answer = graph.of_dataset("coco")
    assert len(answer.sightings) == 1000
    assert len(graph.ancestry(RegisteredVersion("m", 999))) == 1000


def test_what_a_run_says_of_its_contents_is_read_back() -> None:
    digests = [f"{number:064x}" for number in range(250)]
    tags = reading_tags({"data": {"a": digests[0]}, "others": [digests], "no digest": "f" * 63, "longer": "e" * 65})
    assert sorted(reads_of(tags)) == digests
    assert max(map(len, tags.values())) <= 8000
    made = [Made("split", "a" * 64, "/data, with 'signs'"), Made("export", "b" * 64, "/x.onnx")]
    weights = weights_in(
        {"weights": {"source": "x", "sha256": "c" * 64, "layout": "vitpose", "license": "Apache-2.0", "origin": None}}
    )
    tags = making_tags("d" * 64, made) | origin_tags(weights)
    assert list(made_by(tags)) == made
    assert origins_of(tags) == weights
    assert isinstance(weights[0], WeightsUse)
    assert weights[0].published
