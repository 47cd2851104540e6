"""Whatever can change a stage's result without a word in dataset.yaml is part of its code, and makes new shards."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

import posecore.datasets
from posecore.errors import IngestError
from posecore.ingest.run import ingest
from posecore.ingest.stage_code import codes_of, foreign_code, stage_code
from posecore.shards.manifest import Manifest, read_manifest
from tests.support.small_split import definition, job, records

SHIPPED = "posecore.formats.coco:CocoReader"
STAGE = "posecore.datasets.infants.stages:drop_withdrawn"
FILES = {
    "infants/stages.py": (
        "import csv\nimport numpy as np\nfrom posecore.stages import reject_image\n"
        "from posecore.datasets.infants.rules import is_out\n\n"
        "def drop_withdrawn(record):\n"
        "    if is_out(record.source_id):\n"
        "        return reject_image(record, 'withdrawn', 'consent was withdrawn.')\n"
        "    return record\n"
    ),
    "infants/rules.py": (
        "from pathlib import Path\n\nfrom .lists import WITHDRAWN\n\nDECLARED_FILES = ('late.txt',)\n\n"
        "def is_out(name):\n"
        "    return name in WITHDRAWN or name in Path(__file__).with_name('late.txt').read_text().split()\n"
    ),
    "infants/lists.py": "WITHDRAWN = {'1'}\n",
    "infants/late.txt": "",
    "infants/figures.py": "DPI = 100\n",
    "others/lists.py": "WITHDRAWN = set()\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on POSECORE_DATASETS with a stage that imports a rule, which imports a list and reads a file."""
    folder = tmp_path / "more"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setenv("POSECORE_DATASETS", str(folder))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    _forget()
    return folder


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith("posecore.datasets.infants")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("edited", "text", "counts"),
    [
        ("infants/lists.py", "WITHDRAWN = {'1', '2'}\n", True),
        ("infants/late.txt", "2\n", True),
        ("infants/rules.py", FILES["infants/rules.py"].replace(" or ", " and "), True),
        ("infants/lists.py", "# letters of March\nWITHDRAWN = {'1'}\n", False),
        ("infants/figures.py", "DPI = 200\n", False),
        ("others/lists.py", "WITHDRAWN = {'1'}\n", False),
    ],
)
def test_code_is_what_a_stage_imports_of_its_own_folder(folder: Path, edited: str, text: str, counts: bool) -> None:
    before = stage_code(STAGE)
    assert before.modules == tuple(f"posecore.datasets.infants.{name}" for name in ("lists", "rules", "stages"))
    assert before.files == ("posecore.datasets.infants.rules:late.txt",)
    (folder / edited).write_text(text)
    assert (stage_code(STAGE).digest != before.digest) is counts


def test_the_versions_of_what_a_stage_imports_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_code(STAGE)
    numpy = importlib.metadata.version("numpy")
    assert f"numpy=={numpy}" in before.distributions
    assert [name.partition("==")[0] for name in before.distributions] == ["numpy", "posecore"]
    monkeypatch.setattr("posecore.ingest.stage_code.version", lambda name: "99" if name == "numpy" else numpy)
    assert stage_code(STAGE).digest != before.digest


def test_options_of_a_reader_count() -> None:
    assert stage_code("posecore.formats.coco:CocoReader", {"a": 1}).digest != (
        stage_code("posecore.formats.coco:CocoReader", {"a": 2}).digest
    )


def test_nothing_is_run_to_find_out(folder: Path) -> None:
    (folder / "infants" / "lists.py").write_text("raise SystemExit('ran')\n")
    assert stage_code(STAGE).digest
    assert foreign_code(definition(reader=SHIPPED, stages=["check_instances", STAGE])) == [
        f"{STAGE} ({folder}/infants/stages.py)"
    ]
    assert not any(name.startswith("posecore.datasets.infants") for name in sys.modules)


def test_a_package_outside_counts_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "lab/__init__.py": "",
        "lab/pose/__init__.py": "",
        "lab/pose/stages.py": "from lab.shared import limit\n",
        "lab/shared.py": "limit = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = stage_code("lab.pose.stages:keep")
    assert before.modules == ("lab", "lab.pose", "lab.pose.stages", "lab.shared")
    (tmp_path / "lab" / "shared.py").write_text("limit = 2\n")
    assert stage_code("lab.pose.stages:keep").digest != before.digest


@pytest.mark.parametrize(
    ("name", "text"), [("nowhere.at_all:f", "neither a built-in stage"), (STAGE, "late.txt in DECLARED_FILES")]
)
def test_code_that_is_not_there_is_named(folder: Path, name: str, text: str) -> None:
    (folder / "infants" / "late.txt").unlink()
    with pytest.raises(IngestError, match=text):
        stage_code(name)


def test_shipped_code_is_not_foreign_and_does_not_depend_on_the_machine() -> None:
    shipped = definition(reader=SHIPPED, stages=["check_instances", "drop_crowds"])
    assert foreign_code(shipped) == []
    codes = codes_of(shipped, "train")
    assert list(codes) == ["reader", "check_instances", "drop_crowds"]
    assert "posecore.formats.values" in codes["reader"].modules
    assert all(code.distributions == () for code in codes.values())


def test_an_infant_whose_consent_was_withdrawn_is_gone_after_the_next_ingestion(folder: Path, tmp_path: Path) -> None:
    def ingested() -> Manifest:
        _forget()
        root = tmp_path / "raw"
        return ingest(job(root, tmp_path / "out", stages=[STAGE], max_loss=0.9), records(root, 4))

    first = ingested()
    assert (first.num_images, first.rejects) == (3, {"withdrawn": 1})
    assert first.code[STAGE].digest == stage_code(STAGE).digest
    assert ingested() == first
    (folder / "infants" / "lists.py").write_text("WITHDRAWN = {'1', '2'}\n")
    second = ingested()
    assert (second.num_images, second.rejects) == (2, {"withdrawn": 2})
    assert second.digest != first.digest
    (place,) = (tmp_path / "out").glob("*/*")
    assert read_manifest(place) == second


def test_a_manifest_without_code_keeps_its_digest(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    manifest = ingest(job(root, tmp_path / "out"), records(root, 2))
    assert set(manifest.code) == {"reader", "check_instances"}
    assert "code" not in manifest.model_copy(update={"code": {}}).model_dump(mode="json")
