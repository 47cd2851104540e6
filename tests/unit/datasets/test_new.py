"""Definitions of the files of real tools (``tests/support/foreign``), written, checked and read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import posecore.datasets
from posecore import cli
from posecore.datasets.discovery import load_dataset, read_split
from posecore.datasets.new import _plain
from posecore.datasets.recognise import recognise
from posecore.errors import DatasetError
from posecore.schema import Record
from posecore.skeletons.library import load_skeleton

FOREIGN = Path(__file__).parents[2] / "support" / "foreign"


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("POSECORE_DATASETS", str(tmp_path / "defs"))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    (tmp_path / "defs").mkdir()

    def run(*places: str | Path, **options: str) -> int:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        of = [f"--from={FOREIGN / place}" for place in places]
        return cli.main(["datasets", "new", "--name=mine", *of, *arguments])

    return run


def written(tmp_path: Path, name: str = "dataset.yaml") -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((tmp_path / "defs" / "mine" / name).read_text())
    return values


def num_read(root: Path) -> dict[str, int]:
    definition = load_dataset("mine")
    return {
        split: sum(isinstance(item, Record) for item in read_split(definition, split, root))
        for split in definition.splits
    }


@pytest.mark.parametrize(
    ("place", "reader", "stages", "splits"),
    [
        ("sleap/packed.pkg.slp", "sleap:SleapReader", ["packed_frames", "check_instances"], {"train": 3, "val": 1}),
        ("nwb", "nwb_pose:NwbPoseReader", ["video_frames", "check_instances"], {"all": 3}),
        (
            "nwb_estimation/estimation.nwb",
            "nwb_pose:NwbPoseReader",
            ["video_frames", "check_instances"],
            {"all": 2},
        ),
        ("datumaro", "datumaro:DatumaroReader", ["check_instances"], {"all": 2}),
        ("yolo/from_sleap", "yolo_pose:YoloPoseReader", ["check_instances"], {"train": 1}),
    ],
)
def test_a_folder_of_a_tool_becomes_a_set(
    place: str, reader: str, stages: list[str], splits: dict[str, int], new: Callable[..., int], tmp_path: Path
) -> None:
    assert new(place) == 0
    values = written(tmp_path)
    assert values["reader"] == f"posecore.formats.{reader}"
    assert values["stages"] == stages
    root = FOREIGN / place
    assert num_read(root if root.is_dir() else root.parent) == splits
    skeleton = load_skeleton("mine")
    assert skeleton.names == ("nose", "left_ear", "right_ear", "tail")
    assert skeleton.flip_pairs == ((1, 2),)
    assert len(skeleton.links) == 3
    assert skeleton.union_names == ("mine_nose", "mine_left_ear", "mine_right_ear", "mine_tail")
    assert written(tmp_path, "train.yaml")["datasets"][0]["train"] in splits


def test_guesses_are_called_guesses(new: Callable[..., int], tmp_path: Path) -> None:
    assert new("datumaro", like="coco17") == 0
    points = {point.name: point for point in load_skeleton("mine").keypoints}
    assert (points["nose"].union, points["nose"].oks_sigma, points["nose"].oks_guessed) == ("nose", 0.026, True)
    assert (points["tail"].union, points["tail"].oks_sigma) == ("mine_tail", None)
    assert "flip guessed from the names" in (tmp_path / "defs" / "mine" / "skeleton.yaml").read_text()
    assert written(tmp_path)["evaluation"] == {"protocol": "pck"}


def test_sources_of_two_tools_are_one_set(new: Callable[..., int], tmp_path: Path) -> None:
    assert new("sleap/labels.slp", "nwb") == 0
    records = [item for item in read_split(load_dataset("mine"), "all", FOREIGN) if isinstance(item, Record)]
    assert len(records) == 7
    assert {record.source_id.partition(":")[0] for record in records} == {"sleap", "nwb"}
    assert all((FOREIGN / record.image.partition("#")[0]).exists() for record in records)


def test_what_is_there_already_is_left_alone(new: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert new("datumaro") == 0
    assert new("datumaro") == 1
    assert "exists; choose another name" in capsys.readouterr().err


def test_pictures_are_looked_for(new: Callable[..., int], tmp_path: Path) -> None:
    root = tmp_path / "mice"
    (root / "some" / "where" / "default").mkdir(parents=True)
    shutil.copy(FOREIGN / "datumaro" / "annotations" / "default.json", root / "labels.json")
    for picture in (FOREIGN / "datumaro" / "images" / "default").iterdir():
        shutil.copy(picture, root / "some" / "where" / "default" / picture.name)
    assert new(root) == 0
    assert written(tmp_path)["splits"]["all"]["images"] == "some/where/default"


def test_points_without_names_are_given_some(new: Callable[..., int], tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(FOREIGN / "yolo" / "own", root)
    (root / "labels" / "train" / "2.txt").unlink()
    (root / "data.yaml").write_text((root / "data.yaml").read_text().partition("kpt_names")[0].replace("val:", "v:"))
    assert recognise(root).names == ("point_0", "point_1", "point_2", "point_3")
    new(root, names="snout,earL,earR,tail")
    skeleton = load_skeleton("mine")
    assert skeleton.names == ("snout", "earL", "earR", "tail")
    assert skeleton.flip_pairs == ((1, 2),)  # of flip_idx
    assert skeleton.union_names == ("mine_snout", "mine_left_ear", "mine_right_ear", "mine_tail")


def coco(root: Path, name: str, video: int, bodies: int = 1) -> None:
    image = {"id": 1, "file_name": f"{name}.png", "width": 80, "height": 60, "video_id": video}
    body = {"image_id": 1, "category_id": 1, "keypoints": [10, 10, 2, 20, 20, 1], "num_keypoints": 2}
    categories = [
        {"id": 1, "name": "mouse", "keypoints": ["snout", "tail"], "skeleton": [[1, 2]]},
        {"id": 2, "name": "x"},
    ]
    document = {"images": [image], "annotations": [{"id": n, **body} for n in range(bodies)], "categories": categories}
    (root / f"{name}.json").write_text(json.dumps(document))


def test_coco_files_of_parts(tmp_path: Path) -> None:
    for number, name in enumerate(("mice_train", "mice_val")):
        coco(tmp_path, name, number)
    found = recognise(tmp_path)
    assert {name: (split.annotations, split.use) for name, split in found.splits.items()} == {
        "train": ("mice_train.json", "train"),
        "val": ("mice_val.json", "eval"),
    }
    assert (found.links, found.reader_options) == (
        (("snout", "tail"),),
        {"categories": ["mouse"], "box_margin": 0.25},
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds nothing that is known"),
        ({"a.json": "{}", "b.csv": "x,y"}, "holds nothing that is known"),
        ({"a.xml": "<annotations><meta/></annotations>"}, "no label of the type skeleton"),
        ({"data.yaml": "kpt_shape: [4, 3]\ntrain: images"}, "none of the folders"),
        ({"a.slp": "no HDF5"}, "is not a SLEAP file"),
    ],
)
def test_what_is_not_known_is_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        recognise(tmp_path)


def test_several_kinds_are_not_guessed_between(tmp_path: Path) -> None:
    coco(tmp_path, "a", 1)
    shutil.copy(FOREIGN / "sleap" / "labels.slp", tmp_path / "b.slp")
    with pytest.raises(DatasetError, match=r"COCO: a.json; SLEAP: b.slp"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("leftEye", "left_eye"),
        ("L.Eye", "left_eye"),
        ("eye_R", "right_eye"),
        ("Tail-Base2", "tail_base_2"),
        ("??", "point"),
    ],
)
def test_names_are_spelled_in_one_way(name: str, plain: str) -> None:
    assert _plain(name) == plain


def test_a_part_that_is_another_one_is_not_judged_on(tmp_path: Path) -> None:
    shutil.copytree(FOREIGN / "yolo" / "own", tmp_path / "own")  # val is train there
    assert list(recognise(tmp_path / "own").splits) == ["train"]


def test_a_project_of_deeplabcut_is_known_by_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "labeled-data").mkdir()
    (tmp_path / "config.yaml").write_text(
        "Task: reach\nmultianimalbodyparts: [nose, tail]\nuniquebodyparts: [corner]\nskeleton: [[nose, tail]]\n"
    )
    found = recognise(tmp_path)
    assert (found.kind, found.names, found.links) == ("DeepLabCut", ("nose", "tail"), (("nose", "tail"),))
    assert found.reader_options == {"skip_bodyparts": ["corner"]}
