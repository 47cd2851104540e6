import importlib
import pickle
import re
from pathlib import Path

import pytest
import yaml

import posecore.datasets
import posecore.formats
from posecore.cli import main
from posecore.datasets.discovery import dataset_folders, load_dataset, load_reader, read_split, source_for
from posecore.errors import ConfigError, DatasetError
from posecore.formats.coco import CocoReader
from posecore.formats.reader import COMMON_OPTIONS
from posecore.schema import Record

READER = """
from posecore.formats.reader import Source
from posecore.schema import Record


class LinesReader:
    options = frozenset({"a", "b"})

    def read(self, source: Source):
        for line in (source.root / source.annotations).read_text().splitlines():
            yield Record(
                dataset=source.dataset, split=source.split, source_id=line, image=line, width=0, height=0
            )
"""


def definition_yaml(**changes: object) -> str:
    values: dict[str, object] = {
        "name": "own",
        "title": "My own",
        "reader": "posecore.formats.coco:CocoReader",
        "skeleton": "coco17",
        "license": {"id": "CC0-1.0"},
        "splits": {"train": {"annotations": "a.json", "images": "img", "options": {"b": 2}}},
        "reader_options": {"a": 1, "b": 1},
    }
    return yaml.safe_dump(values | changes)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on POSECORE_DATASETS with one dataset, own."""
    folder = tmp_path / "more" / "own"
    folder.mkdir(parents=True)
    (folder / "dataset.yaml").write_text(definition_yaml())
    monkeypatch.setenv("POSECORE_DATASETS", str(folder.parent))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    return folder


def test_shipped_datasets_are_found():
    assert {"coco", "mpii", "ap10k", "syrip"} <= dataset_folders().keys()
    assert load_dataset("coco").skeleton.num_keypoints == 17


def test_folders_on_the_variable_are_found_and_named_by_path_too(own_folder: Path):
    definition = load_dataset("own")
    assert dataset_folders()["own"] == definition.folder == own_folder
    assert load_dataset(own_folder / "dataset.yaml") == definition


def test_a_broken_definition_silences_no_other(own_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["datasets", "list"]) == 0
    capsys.readouterr()
    (own_folder / "dataset.yaml").write_text("name: [")
    assert main(["datasets", "list"]) == 1
    said = capsys.readouterr()
    assert {line.split()[0] for line in said.out.splitlines()} >= {"coco", "mpii"}
    assert said.err.startswith(f"error: {own_folder / 'dataset.yaml'}")
    assert said.err.count("\n") == 1


def test_a_folder_on_the_variable_that_is_not_there_is_named(own_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POSECORE_DATASETS", str(own_folder / "lost"))
    with pytest.raises(DatasetError, match=r"POSECORE_DATASETS names \S+/own/lost, and there is no such folder"):
        load_dataset("coco")


def test_split_options_win_over_the_definitions(own_folder: Path):
    source = source_for(load_dataset("own"), "train", "/data")
    assert source.options == {"a": 1, "b": 2}
    assert source.root == Path("/data")
    assert source.license == "CC0-1.0"


def test_a_reader_of_its_own_is_imported_by_name_and_can_be_pickled(own_folder: Path, tmp_path: Path):
    (own_folder / "reader.py").write_text(READER)
    (own_folder / "dataset.yaml").write_text(definition_yaml(reader="posecore.datasets.own.reader:LinesReader"))
    (tmp_path / "a.json").write_text("1.jpg\n2.jpg")
    definition = load_dataset("own")
    records = [item for item in read_split(definition, "train", tmp_path) if isinstance(item, Record)]
    assert [record.image for record in records] == ["1.jpg", "2.jpg"]
    reader = pickle.loads(pickle.dumps(load_reader(definition)))
    assert type(reader).__module__ == "posecore.datasets.own.reader"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", ".hidden", "a b", "a\nb", "a\n", "", "-x"])
def test_names_that_would_lead_out_of_their_folder_are_refused(own_folder: Path, name: str):
    part = {"annotations": "a.json"}
    for wrong, field in (
        ({"name": name}, "name"),
        ({"splits": {name: part}}, "splits"),
        ({"stages": [name]}, "stages"),
    ):
        (own_folder / "dataset.yaml").write_text(definition_yaml(**wrong))
        with pytest.raises(ConfigError, match=rf"(?s)dataset.yaml: {field}.*should match pattern"):
            load_dataset(own_folder / "dataset.yaml")


def test_usual_names_are_taken(own_folder: Path):
    splits = {name: {"annotations": "a.json"} for name in ("train", "val2017", "fold-0.1", "0", "val_other")}
    stages = ["check_instances", "posecore.datasets.own.stages:drop_known", "own:keep"]
    (own_folder / "dataset.yaml").write_text(definition_yaml(splits=splits, stages=stages))
    assert load_dataset("own").splits.keys() == splits.keys()


def test_inline_skeleton(own_folder: Path):
    skeleton = {"name": "two", "keypoints": [{"name": "a", "union": "a"}, {"name": "b", "union": "b"}]}
    (own_folder / "dataset.yaml").write_text(definition_yaml(skeleton=skeleton))
    assert load_dataset("own").skeleton.names == ("a", "b")


def test_shipped_readers_load():
    assert isinstance(load_reader(load_dataset("coco")), CocoReader)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"reader_options": {"box_alone": True}},
            r"own: reader_options: .*CocoReader has no option 'box_alone'\. Did you mean boxes_alone\?",
        ),
        (
            {"reader_options": {}, "splits": {"train": {"annotations": "a.json", "options": {"b": 2}}}},
            r"own: options of split train: .*CocoReader has no option 'b'. Known: box_margin, boxes_alone, ",
        ),
    ],
)
def test_an_option_that_a_reader_does_not_have_is_refused_by_name(own_folder: Path, changes: dict, said: str):
    (own_folder / "dataset.yaml").write_text(definition_yaml(**changes))
    with pytest.raises(DatasetError, match=said):
        read_split(load_dataset("own"), "train", "/data")


def test_every_option_that_a_shipped_reader_asks_for_is_declared_and_described():
    asked = re.compile(r"(?:options(?:\.get\(|\[)|_stride\(source, |_image_names\(source, |in )\"(\w+)\"")
    for path in Path(posecore.formats.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"posecore.formats.{path.stem}")
        classes = [kind for name, kind in vars(module).items() if name.endswith("Reader") and name != "Reader"]
        declared = {option for kind in classes for option in getattr(kind, "options", ())} | COMMON_OPTIONS
        lines = [line for line in path.read_text().splitlines() if re.search(r"options|_stride\(|_image_names\(", line)]
        assert set(asked.findall("\n".join(lines))) <= declared, path.name
        for kind in classes:
            inherited = {option for base in kind.__bases__ for option in getattr(base, "options", ())}
            told = [kind, *(each for name, each in vars(module).items() if name.endswith("Options"))]
            for option in vars(kind).get("options", frozenset()) - inherited:
                assert any(re.search(rf"\b{option}\b", each.__doc__) for each in told), (kind, option)


def test_unknown_dataset_suggests_the_closest():
    with pytest.raises(DatasetError, match=r"unknown dataset 'cocoo'. Did you mean coco\? Known: aic, "):
        load_dataset("cocoo")


def test_unknown_split_lists_those_there_are():
    with pytest.raises(DatasetError, match=r"dataset coco has no split 'vl'. Did you mean val\? Known: train, val."):
        source_for(load_dataset("coco"), "vl", "/data")


def test_unknown_skeleton_names_the_file(own_folder: Path):
    (own_folder / "dataset.yaml").write_text(definition_yaml(skeleton="coco71"))
    with pytest.raises(DatasetError, match=r"dataset\.yaml: skeleton: unknown skeleton 'coco71'. Did you mean coco17"):
        load_dataset("own")


def test_typo_in_the_yaml_is_refused_by_name(own_folder: Path):
    (own_folder / "dataset.yaml").write_text(definition_yaml(heading="x"))
    with pytest.raises(ConfigError, match=r"dataset\.yaml: heading: Extra inputs"):
        load_dataset("own")


def test_name_must_be_the_folders(own_folder: Path):
    (own_folder / "dataset.yaml").write_text(definition_yaml(name="owm"))
    with pytest.raises(DatasetError, match="name is 'owm', but the folder is 'own'"):
        load_dataset("own")


def test_two_folders_of_one_name_are_refused(own_folder: Path):
    own_folder.rename(own_folder.with_name("coco"))
    with pytest.raises(DatasetError, match="dataset coco exists twice"):
        dataset_folders()


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (
            "posecore.formats.cocoo:CocoReader",
            "cannot be imported.*: ModuleNotFoundError: No module named 'posecore.formats.cocoo'",
        ),
        ("posecore.formats.coco:Reader", "posecore.formats.coco has no class Reader with a method read"),
        ("posecore.formats.coco:identifier", "has no class identifier with a method read"),
    ],
)
def test_bad_reader_is_one_sentence(own_folder: Path, reader: str, message: str):
    (own_folder / "dataset.yaml").write_text(definition_yaml(reader=reader))
    with pytest.raises(DatasetError, match=message):
        load_reader(load_dataset("own"))
