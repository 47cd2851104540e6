"""Stages that break their word: each is met by `posecore datasets check`, with one sentence that names it."""

from dataclasses import replace

import polars as pl
import pytest

from posecore.datasets.check import check_split
from posecore.errors import DatasetError, IngestError
from posecore.ingest.run import ingest
from posecore.ingest.stage_check import check_stages
from posecore.schema import DepthImage
from posecore.stages import ImageStage, ModelStage, TableStage, reject_instance
from posecore.stages.load import load_stages
from tests.support.small_split import definition, instance, job, records

HERE = __name__


class OfTables(TableStage):
    """Does one of several things that a table stage may not."""

    how: str

    def __call__(self, images, instances):
        changes = {
            "another file": lambda: (images.with_columns(image=pl.lit("../secret.jpg")), instances),
            "another depth": lambda: (images.with_columns(depth_image=pl.lit("/etc/passwd")), instances),
            "another id": lambda: (images, instances.with_columns(id=pl.lit("x"))),
            "no ids": lambda: (images, instances.drop("id")),
            "fewer": lambda: (images.head(1), instances),
            "another order": lambda: (images.reverse(), instances),
            "a text": lambda: (images, instances.with_columns(area=pl.lit("large"))),
            "no areas": lambda: (images, instances.drop("area")),
            "another width": lambda: (images.with_columns(width=pl.lit(7, pl.Int32)), instances),
            "a new column": lambda: (images.with_columns(subject=pl.lit("s1")), instances),
            "a number for a reason": lambda: (images.with_columns(reject_reason=pl.lit(1)), instances),
            "no extras": lambda: (images, instances.with_columns(extras=pl.lit(None, pl.Binary))),
            "one frame": lambda: images,
            "nothing": lambda: None,
        }
        return changes[self.how]()


class OfPictures(ImageStage):
    """Does one of several things that an image stage may not."""

    how: str

    def __call__(self, given):
        record = given.record
        changes = {
            "nothing": lambda: None,
            "bytes": lambda: given.data,
            "another id": lambda: replace(given, record=replace(record, source_id=f"x{record.source_id}")),
            "another file": lambda: replace(given, record=replace(record, image="../secret.jpg")),
            "another depth": lambda: replace(
                given, record=replace(record, depth=DepthImage(image="/etc/passwd", metres_per_unit=1))
            ),
            "depth of its own": lambda: replace(given, depth=given.data),
            "fewer bodies": lambda: replace(given, record=replace(record, instances=record.instances[1:])),
            "no extras": lambda: replace(
                given, record=replace(record, instances=[replace(body, extras={}) for body in record.instances])
            ),
            "a body twice": lambda: replace(given, record=replace(record, instances=record.instances * 2)),
            "texts for rejects": lambda: (given, ["bad"]),
        }
        return changes[self.how]()


class OfBatches(ModelStage):
    """Says of a batch what it may not."""

    how: str

    def __call__(self, pictures):
        return {"one less": list(pictures)[1:], "nothing": None, "of each": [None] * len(pictures)}[self.how]


def returns_nothing(record):
    """A function that forgets its return."""


def empties(record):
    """Takes bodies out where they are."""
    record.instances.clear()
    return record


def moves(record):
    """Names another file."""
    return replace(record, image="../../etc/passwd")


def adds_a_body(record):
    """Which a detector does."""
    return replace(record, instances=[*record.instances, instance(f"{record.source_id}-found")])


def says_what_it_takes_out(record):
    first, *others = record.instances
    return replace(record, instances=others), [reject_instance(record, first, "first-body", "it is the first.")]


KEPT = "did not return the"
NAMES = "changed what names images/0.jpg; dataset, split, source_id, image, source_digest and the place"


@pytest.mark.parametrize(
    ("stage", "how", "message"),
    [
        (
            "OfTables",
            "another file",
            f"{KEPT} images .* leaves source_id, image, depth_image, source_digest as they are",
        ),
        ("OfTables", "another depth", f"{KEPT} images"),
        ("OfTables", "another id", f"{KEPT} instances .* leaves image_row, id as they are"),
        ("OfTables", "no ids", f"{KEPT} instances"),
        ("OfTables", "fewer", f"{KEPT} images"),
        ("OfTables", "another order", f"{KEPT} images"),
        ("OfTables", "a text", "left a column of another type"),
        ("OfTables", "no areas", 'left a column .* "area"'),
        ("OfTables", "a new column", "made the column subject of images, which nobody would read"),
        ("OfTables", "a number for a reason", "gave reject_reason of images as Int32; it is a text or null"),
        ("OfTables", "one frame", "returned DataFrame; it owes two frames"),
        ("OfTables", "nothing", "returned NoneType; it owes two frames"),
        ("OfPictures", "nothing", "returned NoneType for images/0.jpg; it owes a Picture, a Reject, or a Picture and"),
        ("OfPictures", "bytes", "returned bytes for images/0.jpg"),
        ("OfPictures", "another id", NAMES),
        ("OfPictures", "another file", NAMES),
        ("OfPictures", "another depth", NAMES),
        ("OfPictures", "depth of its own", "returned images/0.jpg with a depth picture that its record does not name"),
        ("OfPictures", "fewer bodies", "lost instance 0-a of images/0.jpg without a word"),
        ("OfPictures", "a body twice", "left two instances of the same id in images/0.jpg"),
        ("OfPictures", "texts for rejects", "returned tuple for images/0.jpg"),
        ("OfBatches", "one less", "gave 3 answers to 4 pictures"),
        ("OfBatches", "nothing", "gave no list of answers to 4 pictures"),
        ("OfBatches", "of each", "returned NoneType for images/0.jpg"),
        ("returns_nothing", "", "returned NoneType for images/0.jpg; it owes a Record"),
        ("empties", "", "lost instance 0-a of images/0.jpg without a word"),
        ("moves", "", NAMES),
    ],
)
def test_a_stage_that_breaks_its_word_is_found_and_named(tmp_path, stage, how, message):
    source = records(tmp_path / "raw", 4)
    entry = {"stage": f"{HERE}:{stage}"} | ({"options": {"how": how}} if how else {})
    report = check_stages(definition(stages=[entry]), "train", tmp_path / "raw", source)
    assert report.problem.startswith(f"stage {HERE}:{stage} ")
    assert report.counts == ()
    with pytest.raises(IngestError, match=message):
        raise IngestError(report.problem)
    with pytest.raises(IngestError, match=message):
        ingest(job(tmp_path / "raw", tmp_path / "out", stages=[entry]))


@pytest.mark.parametrize("stage", ["OfTables", "OfPictures"])
def test_what_another_stage_wrote_may_not_be_taken_away(tmp_path, stage):
    source = records(tmp_path / "raw", 4)
    own = {"stage": f"{HERE}:{stage}", "options": {"how": "no extras"}}
    message = f"stage {HERE}:{stage} took annotated_bbox_xywh from the extras of .*images/0.jpg, which a stage before"
    of = definition(stages=["box_from_points", own])
    report = check_stages(of, "train", tmp_path / "raw", source)
    assert [count.stage for count in report.counts] == ["box_from_points"]
    with pytest.raises(IngestError, match=message):
        raise IngestError(report.problem)
    with pytest.raises(IngestError, match=message):
        ingest(job(tmp_path / "raw", tmp_path / "out", stages=of.stages))
    swapped = definition(stages=[own, "box_from_points"])
    assert not check_stages(swapped, "train", tmp_path / "raw", source).problem


def test_sizes_that_a_stage_makes_up_are_met_before_ingestion(tmp_path):
    source = records(tmp_path / "raw", 4)
    own = {"stage": f"{HERE}:OfTables", "options": {"how": "another width"}}
    said = str(check_stages(definition(stages=[own]), "train", tmp_path / "raw", source))
    assert "image: 4 images, 6 instances; took out 4 and 6 of them (size-mismatch: 4)" in said
    assert "warning: image loses more than max_loss allows" in said


def test_bodies_may_be_found_and_taken_out_with_a_word(tmp_path):
    records(tmp_path / "raw", 2)
    stages = [f"{HERE}:adds_a_body", f"{HERE}:says_what_it_takes_out"]
    manifest = ingest(job(tmp_path / "raw", tmp_path / "out", stages=stages, max_loss=1.0))
    assert manifest.num_instances == 3 + 2 - 2
    assert manifest.rejects == {"first-body": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on POSECORE_DATASETS with a module of somebody's."""
    place = tmp_path / "defs" / f"faulty_{tmp_path.name}"
    place.mkdir(parents=True)
    monkeypatch.setenv("POSECORE_DATASETS", str(tmp_path / "defs"))
    return place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def keep(record):\n    return (\n",
            r"its module fails in .*stages\.py, line \d: SyntaxError: '\(' was never",
        ),
        ("import no_such_package\n", r"its module fails in .*stages\.py, line 1: ModuleNotFoundError: No module named"),
        ("\nlimit = 1 / 0\n", r"its module fails in .*stages\.py, line 2: ZeroDivisionError: division by zero\."),
        ("def kept(record):\n    return record\n", r".*stages\.py has no keep\."),
    ],
)
def test_a_module_that_fails_is_named_with_file_and_line(folder, text, message):
    (folder / "stages.py").write_text(text)
    with pytest.raises(IngestError, match=message):
        load_stages(definition(stages=[f"posecore.datasets.{folder.name}.stages:keep"]))


READER = """
class Faulty:
    def read(self, source):
        values = {}
        yield values["no such thing"]
"""


def test_a_reader_that_fails_is_named_with_file_and_line(folder, tmp_path):
    (folder / "reader.py").write_text(READER)
    name = f"posecore.datasets.{folder.name}.reader:Faulty"
    (tmp_path / "train.json").write_text("")
    made = definition(reader=name)
    report = check_split(made, "train", tmp_path)
    assert [finding.code for finding in report.findings] == ["unreadable-annotations"]
    told = rf"tiny train: reader {name} failed in .*reader\.py, line 5: KeyError: 'no such thing'; it owes a Reject"
    with pytest.raises(DatasetError, match=told):
        raise DatasetError(report.findings[0].message)
    (folder / "other.py").write_text(READER + "oh no")
    other = definition(reader=name.replace(".reader:", ".other:"))
    with pytest.raises(DatasetError, match=r"cannot be imported in .*other\.py, line \d+: SyntaxError"):
        check_split(other, "train", tmp_path)
