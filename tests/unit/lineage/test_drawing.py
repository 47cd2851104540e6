"""What is drawn of the graph: from source data to alias, and nothing of other models."""

import pytest

from posecore.errors import QuestionError
from posecore.lineage.ancestry.drawing import draw
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.ancestry.records import Records
from posecore.lineage.jobs.contents import Made
from posecore.lineage.store.tracking import Tracking
from tests.unit.lineage.test_graph import run, use, version

NOWHERE = Tracking("sqlite:////nowhere", "x", "0")


def world() -> LineageGraph:
    ingest = run("i", "ingest", made=[Made("split", "1" * 64, "/shards")], params={"source": "/data/coco"})
    train = run("t", "train", made=[Made("weights", "a" * 64, "/m")], uses=[use("1")], reads=["1" * 64])
    judge = run(
        "e",
        "evaluate",
        reads=["a" * 64],
        uses=[use("2", "evaluation", "mpii")],
        made=[Made("report", "e" * 64, "/evaluation/report.html")],
    )
    export = run("x", "export", made=[Made("export", "d" * 64, "/x.onnx")], reads=["a" * 64])
    other = run("o", "train", made=[Made("weights", "b" * 64, "/o")], uses=[use("3", name="aic")])
    own = version(1, sha256="a" * 64, aliases=("champion",))
    child = version(2, "models:/m/1", sha256="c" * 64)
    return LineageGraph(Records(runs=[ingest, train, judge, export, other], versions=[own, child]))


def test_from_source_data_to_alias() -> None:
    drawn = draw(NOWHERE, world(), "models:/m/1")
    titles = {(kind, title) for kind, title, _ in drawn.boxes.values()}
    assert titles == {
        ("source", "/data/coco"),
        ("split", f"coco/train {'1' * 12}"),
        ("split", f"mpii/train {'2' * 12}"),
        ("run", "ingest"),
        ("run", "train"),
        ("run", "evaluate"),
        ("run", "export"),
        ("weights", "m version 1"),
        ("weights", "m version 2"),
        ("version", "m version 1"),
        ("version", "m version 2"),
        ("export", f"export {'d' * 12}"),
        ("report", f"report {'e' * 12}"),
        ("alias", "m@champion"),
    }
    assert ("source /data/coco", "run i", "read") in drawn.arrows
    assert ("version m/1", "alias m@champion", "held by") in drawn.arrows
    assert (f"weights {'a' * 64}", f"weights {'c' * 64}", "started from") in drawn.arrows
    assert drawn.unknown == []
    of_data = draw(NOWHERE, world(), "coco")
    assert ("version", "m version 2") in {(kind, title) for kind, title, _ in of_data.boxes.values()}
    with pytest.raises(QuestionError, match="there is coco"):
        draw(NOWHERE, world(), "coca")
    with pytest.raises(QuestionError, match="not registered"):
        draw(NOWHERE, world(), "models:/m/7")
