"""What is written for a labelling tool comes back through the tool's reader, and what does not is counted."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

import posecore.datasets
from posecore import cli
from posecore.datasets.discovery import load_dataset, read_split
from posecore.datasets.recognise import plain_definition, recognise
from posecore.errors import DatasetError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.labels.export import WRITERS, export, pictures_of_files, read_predictions
from posecore.schema import Record, Reject
from posecore.shards.store import open_store
from tests.support.two_mice import BOB, EVE, SCORES, SKELETON, body, picture, records

FOREIGN = Path(__file__).parents[2] / "support" / "foreign"


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    def run(kind: str, some: list[Record] | None = None) -> tuple[Path, Any]:
        pictures = [(record, picture()) for record in (records() if some is None else some)]
        return tmp_path / kind, export(pictures, SKELETON, "train", kind, tmp_path / kind)

    return run


def read_back(folder: Path, **options: Any) -> tuple[dict[str, Record], list[Reject]]:
    found = recognise(folder)
    assert found.names == SKELETON.names
    found.reader_options |= options
    (split,) = [split for name, split in found.splits.items() if name != "val"]
    if found.kind == "YOLO-pose":
        split.options = {"part": "train"}
    if found.kind in ("COCO", "CVAT"):
        split.images = "images/train"
    items = list(read_split(plain_definition(found, split), "all", folder))
    back = [item for item in items if isinstance(item, Record)]
    return {Path(item.image).name: item for item in back}, [item for item in items if isinstance(item, Reject)]


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_come_back(kind: str, exported: Callable[..., Any]) -> None:
    folder, done = exported(kind)
    assert (done.num_pictures, done.num_bodies, done.missing) == (3, 2, ())
    assert all(path.is_file() for path in done.files)
    back, _ = read_back(folder)
    assert sorted(back) == ["0.png", "1.png", "b_0.png"]
    assert all((folder / record.image).is_file() for record in back.values())
    (bob,) = back["0.png"].instances
    assert bob.keypoints == pytest.approx(np.array(BOB, np.float32), abs=1e-3)
    assert back["1.png"].instances == []
    if kind != "sleap":
        assert bob.bbox_xywh == pytest.approx((9, 10, 60, 40), abs=1e-3)
        assert bob.category == "mouse"
    assert (bob.subject_id or back["0.png"].instances[0].subject_id, bob.track_id) in {
        "coco": [("m7", "t1")], "cvat": [("m7", "t1")], "sleap": [(None, "t1")], "yolo": [(None, None)],
        "label-studio": [(None, None)],
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["sleap", "label-studio", "cvat"])
def test_what_a_model_drew_is_no_label_until_it_is_corrected(kind: str, exported: Callable[..., Any]) -> None:
    folder, _ = exported(kind)
    back, rejects = read_back(folder)
    assert back["b_0.png"].instances == []
    assert [(reject.reason, reject.outcome) for reject in rejects if reject.reason != "other-annotation"] == [
        ("predicted-body", "skipped")
    ]
    back, _ = read_back(folder, predictions=True)
    (eve,) = back["b_0.png"].instances
    assert eve.keypoints == pytest.approx(np.array(EVE, np.float32), abs=1e-3)
    if kind == "sleap":
        assert eve.extras["scores"] == SCORES


def test_a_corrected_prelabel_says_which_points_a_person_touched(exported: Callable[..., Any]) -> None:
    folder, _ = exported("cvat")
    path = folder / "train.xml"
    # what CVAT writes when somebody has moved one point of a body that a model drew
    text = path.read_text()
    start = text.index('source="auto"')
    corrected = text[start:].replace('source="auto"', 'source="semi-auto"', 1)
    corrected = corrected.replace('label="tail" source="auto"', 'label="tail" source="manual"', 1)
    path.write_text(text[:start] + corrected)
    (eve,) = read_back(folder)[0]["b_0.png"].instances
    assert eve.extras == {"touched": ["tail"]}


def test_what_a_format_cannot_hold_is_counted(exported: Callable[..., Any]) -> None:
    outside = [[-5, 12, 2], *EVE[1:]]
    crowd = body(EVE, 5, is_crowd=True)
    some = [replace(records()[0], instances=[body(outside, 1, subject_id="m7"), crowd])]
    folder, done = exported("yolo", some)
    assert done.lost == {"crowd regions": 1, "points outside the picture": 1, "subjects": 1}
    (back,) = read_back(folder)[0]["0.png"].instances
    assert back.keypoints[0].tolist() == [0, 0, 0]
    assert exported("label-studio", some)[1].lost == {"crowd regions": 1}


def test_yolo_says_how_points_are_mirrored(exported: Callable[..., Any]) -> None:
    found = recognise(exported("yolo")[0])
    assert found.pairs == (("left ear", "right ear"),)
    assert found.links == (("nose", "left ear"), ("nose", "tail"))


def test_pictures_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    here, gone = records()[:2]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(picture())
    done = export(pictures_of_files([here, gone], tmp_path), SKELETON, "train", "coco", tmp_path / "out")
    assert (done.num_pictures, done.missing) == (1, (f"b/0.png is not below {tmp_path}",))
    with pytest.raises(DatasetError, match="exists; export into another"):
        export(pictures_of_files([here], tmp_path), SKELETON, "train", "coco", tmp_path / "out")
    with pytest.raises(DatasetError, match="no picture to export"):
        export(pictures_of_files([gone], tmp_path), SKELETON, "train", "coco", tmp_path / "none")


def predicted(folder: Path, score: float = 0.1) -> None:
    folder.mkdir()
    category = {"id": 1, "name": "lab_mouse", "keypoints": list(SKELETON.names), "skeleton": [[1, 2], [1, 4]]}
    image = {"id": 1, "file_name": "0.png", "width": 80, "height": 60}
    (folder / "images.json").write_text(json.dumps({"images": [image], "categories": {"mice": [category]}}))
    points = [value for x, y, _ in EVE for value in (x, y, 0.5)]
    points[2] = score
    result = {"image_id": 1, "keypoints": points, "score": 0.5, "bbox": [9, 10, 60, 40], "track_id": 3}
    (folder / "coco_mice.json").write_text(json.dumps([result]))


def test_predictions_become_prelabels_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted(tmp_path / "predicted")
    (tmp_path / "0.png").write_bytes(picture())
    out = tmp_path / "out"
    command = ["datasets", "export", f"{tmp_path / 'predicted'}", "--format=sleap", f"--out={out}", "--min-score=0.3"]
    assert cli.main(command) == 2
    assert "--pictures FOLDER" in capsys.readouterr().err
    assert cli.main([*command, f"--pictures={tmp_path}"]) == 0
    assert "1 picture, 1 body" in capsys.readouterr().out
    monkeypatch.setenv("POSECORE_DATASETS", str(tmp_path / "defs"))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    found = recognise(out)
    found.reader_options["predictions"] = True
    (split,) = found.splits.values()
    (record,) = [item for item in read_split(plain_definition(found, split), "all", out) if isinstance(item, Record)]
    (eve,) = record.instances
    assert eve.keypoints[:, 2].tolist() == [0, 2, 2, 2]
    assert (eve.track_id, eve.extras["predicted"]) == ("3", True)
    with pytest.raises(DatasetError, match="no head 'cats'; it has mice"):
        read_predictions(tmp_path / "predicted", "cats")
    with pytest.raises(DatasetError, match="has written"):
        read_predictions(tmp_path)


def test_a_point_that_was_not_found_is_no_label(tmp_path: Path) -> None:
    predicted(tmp_path / "predicted", score=0.0)
    (record,) = read_predictions(tmp_path / "predicted").records
    assert record.instances[0].keypoints[:, 2].tolist() == [0, 2, 2, 2]
    assert record.instances[0].keypoints[0].tolist() == [0, 0, 0]


def test_a_definition_for_corrected_files_is_written_by_the_same_command(
    tmp_path: Path, exported: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = exported("cvat")
    (tmp_path / "defs").mkdir()
    monkeypatch.setenv("POSECORE_DATASETS", str(tmp_path / "defs"))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    assert cli.main(["datasets", "new", f"--from={folder}", "--name=corrected"]) == 0
    definition = load_dataset("corrected")
    assert definition.skeleton.flip_pairs == SKELETON.flip_pairs
    assert definition.skeleton.links == SKELETON.links


@pytest.fixture
def mice(tmp_path: Path, exported: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a set of one's own, of COCO files, and beside them a pre-label that somebody corrected."""
    exported("coco", records()[:1])
    exported("cvat", records()[1:2])
    text = (tmp_path / "cvat" / "train.xml").read_text().replace('source="auto"', 'source="semi-auto"', 1)
    moved = text.replace('label="tail" source="auto"', 'label="tail" source="manual"', 1)
    (tmp_path / "cvat" / "train.xml").write_text(moved)
    (tmp_path / "defs").mkdir()
    monkeypatch.setenv("POSECORE_DATASETS", str(tmp_path / "defs"))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    assert cli.main(["datasets", "new", f"--from={tmp_path / 'coco'}", "--name=mice"]) == 0
    path = tmp_path / "defs" / "mice" / "dataset.yaml"
    text = path.read_text().replace("annotations: ", "annotations: coco/").replace("images: ", "images: coco/")
    path.write_text(text)
    return tmp_path


def test_corrected_files_come_back_as_a_split_of_the_set_with_what_a_person_touched(
    mice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (mice / "defs" / "mice" / "dataset.yaml").read_text()
    add = ["datasets", "add", "mice", f"--root={mice}", f"--from={mice / 'cvat'}"]
    assert cli.main(add) == 0
    assert "a person has set or moved 1 point of 1 body" in capsys.readouterr().out
    definition = load_dataset("mice")
    first, *others = definition.splits
    assert others == ["corrected"]
    added = definition.splits["corrected"]
    assert (added.reader, added.annotations) == ("posecore.formats.cvat:CvatReader", "cvat/train.xml")
    line = next(one for one in (mice / "defs" / "mice" / "dataset.yaml").read_text().splitlines() if "corrected" in one)
    assert (mice / "defs" / "mice" / "dataset.yaml").read_text().replace(f"{line}\n", "") == before
    for split, count in ((first, 1), ("corrected", 1)):
        job = ingest_job(definition, split, mice, mice / "shards", IngestSettings())
        assert ingest(job, read_split(definition, split, mice)).num_instances == count
    store = open_store(job.folder)
    assert store.read_sample(0).record.instances[0].extras["touched"] == ["tail"]
    assert cli.main(add) == 1
    assert "mice has a split 'corrected' already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("splits:", "splits:  # mine"), None),
        (lambda text: re.sub(r"splits:\n((?: .*\n)+)", _in_one_line, text), "add this line below splits:"),
    ],
)
def test_a_definition_that_a_line_cannot_be_put_into_is_left_alone(
    change: Callable[[str], str], said: str | None, mice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mice / "defs" / "mice" / "dataset.yaml"
    path.write_text(text := change(path.read_text()))
    assert cli.main(["datasets", "add", "mice", f"--root={mice}", f"--from={mice / 'cvat'}"]) == 0
    assert (path.read_text() == text) == (said is not None)
    assert (said or "split corrected is in") in capsys.readouterr().out


def _in_one_line(block: re.Match[str]) -> str:
    return f"splits: {json.dumps(yaml.safe_load(block[0])['splits'])}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--root={mice}/coco", "--from={mice}/cvat"], "is not below"),
        (["--root={mice}", "--from={mice}/cvat", "--split=a b"], "is no name of a split"),
        (["--root={mice}", "--from={foreign}/datumaro"], "has the points nose, left_ear, right_ear, tail; mice has"),
    ],
)
def test_what_is_no_split_of_the_set_is_refused(
    arguments: list[str], said: str, mice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "{foreign}" in arguments[1]:
        arguments = ["--root={foreign}", arguments[1]]
    given = [argument.format(mice=mice, foreign=FOREIGN) for argument in arguments]
    assert cli.main(["datasets", "add", "mice", *given]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", WRITERS)
def test_exports_are_those_that_the_tools_have_read(kind: str, exported: Callable[..., Any]) -> None:
    """``tests/support/foreign_files.py`` has given the same files to the tools, and written down what they read."""
    folder, _ = exported(kind)
    theirs = FOREIGN / "exports" / kind
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".png"]
    assert names == [
        one.relative_to(theirs) for one in sorted(theirs.rglob("*")) if one.is_file() and one.suffix != ".png"
    ]
    for name in names:
        if name.suffix != ".slp":
            assert (folder / name).read_text() == (theirs / name).read_text()
            continue
        with h5py.File(folder / name) as ours, h5py.File(theirs / name) as checked:
            assert ours["metadata"].attrs["json"] == checked["metadata"].attrs["json"]
            for table in set(ours) - {"metadata"}:
                assert str(ours[table][...]) == str(checked[table][...])


def test_the_tools_read_what_was_exported() -> None:
    """What is written down of them, against the labels."""
    read = json.loads((FOREIGN / "read.json").read_text())["exports"]
    bob = {name: [x, y, flag == 2] for name, (x, y, flag) in zip(SKELETON.names, BOB, strict=True) if flag}
    assert read["sleap"]["0/0"]["bodies"] == [{"predicted": False, "track": "t1", "points": bob}]
    assert read["sleap"]["0/1"]["bodies"][0]["predicted"] is True
    assert read["sleap skeleton"]["pairs"] == [["left ear", "right ear"]]
    assert read["sleap skeleton"]["links"] == [list(link) for link in SKELETON.links]
    assert np.array(read["yolo"]["0.png"]["points"][0]) == pytest.approx(np.array(BOB), abs=1e-4)
    assert read["yolo"]["1.png"] == {"classes": [], "boxes": [], "points": []}
    flat = [value for x, y, _ in BOB for value in (x, y)]
    assert read["datumaro of coco"]["0"] == [pytest.approx([*flat, *(flag for *_, flag in BOB)], abs=0.01)]
    assert read["label-studio"] == [[True]] * 3  # its own validation of annotations and predictions
