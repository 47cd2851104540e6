"""Table stages on drawn and on real annotations: who stays, what is filled in, and how wrong options are refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import IngestError
from posecore.formats.values import box_around
from posecore.ingest.purity import assert_stage_is_pure
from posecore.ingest.run import ingest
from posecore.ingest.stage_code import codes_of
from posecore.ingest.staging import run_on_annotations
from posecore.ingest.tally import Tally
from posecore.schema import Record
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.expression import parse_condition
from posecore.stages.load import load_stages
from posecore.tables.records import to_annotations
from tests.support.small_split import SKELETON, definition, instance, job, records


def run(source, *entries, folder=Path(), skeleton=SKELETON):
    """What the stages leave of records, and (reason, source_id, instance_id) of what they take out."""
    stages = load_stages(definition(stages=list(entries), folder=folder))
    tally = Tally([stage.label for stage in stages])
    annotations = to_annotations(source, skeleton.num_keypoints)
    left = run_on_annotations(stages, annotations, tally, skeleton, ("tiny", "train"))
    return left, [(row["reason"], row["source_id"], row["instance_id"]) for row in tally.rejects()]


def ids(left: list[Record]) -> list[str]:
    return [record.source_id for record in left]


@pytest.fixture
def six(tmp_path) -> list[Record]:
    """Subjects s0, s0, s1, s1, s2, s2; odd images have a crowd, and the last a second body without a name."""
    source = records(tmp_path / "raw", 6)
    source[5].instances.append(instance("5-c", bbox_xywh=(1.0, 2.0, 3.0, 4.0), area=12.0))
    return source


def test_subjects_are_kept_or_taken_out_with_their_pictures(six):
    keep = {"stage": "keep_subjects", "options": {"subjects": ["s1", "s2"]}}
    left, lost = run(six, keep)
    assert ids(left) == ["2", "3", "4"]
    assert lost == [("subject-not-listed", name, "") for name in ("0", "1", "5")]
    assert [len(record.instances) for record in left] == [1, 2, 1]
    left, lost = run(six, {"stage": "drop_subjects", "options": {"subjects": ["s1"]}})
    assert ids(left) == ["0", "1", "4", "5"]
    left, lost = run(six, {"stage": "keep_subjects", "options": {"subjects": ["s2"], "bodies_only": True}})
    assert ids(left) == list("012345")
    assert [body.id for record in left for body in record.instances] == ["1-b", "3-b", "4-a", "5-a", "5-b"]
    assert ("subject-not-listed", "5", "5-c") in lost


def test_the_content_of_a_declared_list_makes_new_shards(tmp_path, six):
    def digest() -> str:
        item = job(tmp_path / "raw", tmp_path / "out", stages=stages, folder=tmp_path)
        return ingest(item, six).digest

    stages = [{"stage": "drop_subjects", "files": {"subjects": "withdrawn.txt"}}]
    (tmp_path / "withdrawn.txt").write_text("# since March\ns1\n\n")
    assert codes_of(definition(stages=stages, folder=tmp_path), "train")["drop_subjects"].files == (
        "subjects:withdrawn.txt",
    )
    first = digest()
    assert first == digest()
    left, _ = run(six, *stages, folder=tmp_path)
    assert ids(left) == ["0", "1", "4", "5"]
    (tmp_path / "withdrawn.txt").write_text("s1\ns2\n")
    assert digest() != first
    (tmp_path / "withdrawn.txt").unlink()
    with pytest.raises(IngestError, match=r"drop_subjects: the file of subjects, .*withdrawn.txt, does not exist"):
        run(six, *stages, folder=tmp_path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"stage": "keep_subjects", "options": {"subjects": "withdrawn.txt"}}, "options: subjects: a list of texts"),
        ({"stage": "drop_subjects", "options": {"subjects": [7]}}, "options: subjects: a list of texts"),
        ({"stage": "filter", "options": {}}, "give a condition"),
        ({"stage": "filter", "options": {"images": "breadth > 3"}}, "no column breadth; there are source_id"),
        ({"stage": "filter", "options": {"images": "bbox_h > 3"}}, "no column bbox_h"),
        ({"stage": "filter", "options": {"images": "width + 3"}}, "is a Int.* and no condition"),
        ({"stage": "filter", "options": {"images": "width > 'a'"}}, "does not fit the columns: cannot compare"),
        ({"stage": "filter", "options": {"images": "width >"}}, "is not a condition: invalid syntax at character"),
        ({"stage": "filter", "options": {"images": "len(video_id) > 3"}}, r"'len\(video_id\)' may not stand"),
        ({"stage": "filter", "options": {"images": "video_id.__class__ == 'a'"}}, "no column video_id.__class__"),
        ({"stage": "filter", "options": {"images": "width in height"}}, "after `in` stands a list"),
        ({"stage": "filter", "options": {"images": "width in [height]"}}, "is no number or text"),
        ({"stage": "filter", "options": {"images": "-" * 60 + "width > 3"}}, "nested more than 50 deep"),
        ({"stage": "filter", "options": {"images": "width > 3 " * 300}}, "at most 2000 characters"),
        ({"stage": "set_fields", "options": {}}, "at least one of video_id"),
        ({"stage": "set_fields", "options": {"pattern": "(", "video_id": "a"}}, "not a regular expression"),
        ({"stage": "set_fields", "options": {"video_id": "{clip}"}}, r"video_id: \{clip\} is none of source_id"),
        ({"stage": "set_fields", "options": {"video_id": "{subject_id}"}}, r"\{subject_id\} is none of"),
        ({"stage": "set_fields", "options": {"video_id": "{image"}}, "is not a template"),
        ({"stage": "box_from_points", "options": {"margin": -1}}, "margin"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(entry, said):
    with pytest.raises(IngestError, match=f"stage {entry['stage']}.*(?s:.*){said}"):
        load_stages(definition(stages=[entry]))


def test_an_option_is_given_once():
    with pytest.raises(ValueError, match="subjects: give it under options or under files"):
        definition(stages=[{"stage": "keep_subjects", "options": {"subjects": []}, "files": {"subjects": "a"}}])


_ROWS = {"a": [1, 2, 3, None], "b": [0.5, -2.0, 3.5, 4.0], "t": ["x", "y", None, "z"], "f": [True, False, True, False]}


@pytest.mark.parametrize(
    "text",
    [
        "a > 1",
        "1 < a <= 3 and not f",
        "a + b * 2 - 1 >= 3 or t == 'z'",
        "t in ['x', 'z']",
        "t not in ('x', 'z')",
        "a is None",
        "t is not None and b // 2 == 1",
        "-b > 1 or a % 2 == 1",
        "f",
        "not (f or a == 2)",
        "b in [-2, 4]",
        "a / 2 == 0.5",
    ],
)
def test_conditions_mean_what_they_mean_in_python(text):
    """Against Python itself, row by row; a missing value makes Python's comparison fail and ours missing."""
    frame = pl.DataFrame(_ROWS, schema={"a": pl.Int64, "b": pl.Float64, "t": pl.String, "f": pl.Boolean})
    found = frame.select(parse_condition(text, frame.schema).fill_null(False).alias("c"))["c"].to_list()
    for row, told in zip(frame.iter_rows(named=True), found, strict=True):
        mentioned = [name for name in row if name in text.replace("not", "").replace("in", "").replace("or", "")]
        if None in [row[name] for name in mentioned] and "None" not in text:
            continue
        assert told is bool(eval(text, {}, row)), row


def test_images_and_bodies_are_filtered_by_columns_and_counts(six):
    left, lost = run(six, {"stage": "filter", "options": {"images": "num_instances >= 2 and video_id is None"}})
    assert ids(left) == ["3", "5"]
    assert {reason for reason, _, _ in lost} == {"filtered"}
    condition = "num_labelled > 1 and bbox_h > 0.5 * image.height"
    left, lost = run(six, {"stage": "filter", "options": {"instances": condition}})
    assert [body.id for record in left for body in record.instances] == [f"{number}-a" for number in range(6)]
    assert len(lost) == 4
    left, _ = run(six, {"stage": "filter", "options": {"images": "True", "instances": "False"}})
    assert [len(record.instances) for record in left] == [0] * 6


def test_fields_are_filled_in_from_the_name_and_from_columns(six):
    six[4].image = "elsewhere/4.jpg"
    six[0].image = "images/x0.jpg"
    options = {
        "pattern": r"images/(?P<cam>x?)(?P<frame>\d)",
        "video_id": "v-{frame}",
        "view_id": "{cam}",
        "frame_index": "{cam}{frame}",
        "subject_id": "{video_id}/{category}",
    }
    left, lost = run(six, {"stage": "set_fields", "options": options})
    assert lost == [("no-frame-index", "0", ""), ("name-without-pattern", "4", "")]
    assert [(record.video_id, record.view_id, record.frame_index) for record in left] == [
        (f"v-{number}", "", number) for number in (1, 2, 3, 5)
    ]
    assert [body.subject_id for record in left for body in record.instances] == ["v/person", *[None] * 7]
    left, lost = run(six, {"stage": "set_fields", "options": {"view_id": "front"}})
    assert [record.view_id for record in left] == ["front"] * 6
    left, lost = run(six, {"stage": "set_fields", "options": {"frame_index": "7", "track_id": "one"}})
    assert [record.frame_index for record in left] == [7] * 6
    assert {body.track_id for record in left for body in record.instances} == {"one", None}
    left, lost = run(six, {"stage": "set_fields", "options": {"subject_id": "{id}"}})
    assert [record.instances[0].subject_id for record in left] == [f"{number}-a" for number in range(6)]
    assert lost == []


def test_boxes_are_made_of_labelled_points(six):
    six[0].instances[0].area_rule = "annotated"
    six[1].instances[0].extras = {"seen": 1}
    left, _ = run(six, {"stage": "box_from_points", "options": {"margin": 0.5, "min_side_px": 3.0}})
    first, second = left[0].instances[0], left[1].instances[0]
    assert first.bbox_xywh == second.bbox_xywh == (4.0, 5.0, 4.0, 4.0)
    assert (first.area, second.area) == (600.0, 16.0)
    assert second.extras == {"seen": 1, "annotated_bbox_xywh": [4.0, 5.0, 20.0, 30.0]}
    assert left[1].instances[1].bbox_xywh == (4.0, 5.0, 20.0, 30.0)  # a crowd
    six[2].instances[0].bbox_xywh = (0.0, 0.0, 0.0, 0.0)
    left, _ = run(six, {"stage": "box_from_points", "options": {"only_missing": True}})
    assert [record.instances[0].bbox_xywh[2] for record in left] == [20.0, 20.0, 3.0, 20.0, 20.0, 20.0]


EVERY = [
    {"stage": "keep_subjects", "options": {"subjects": ["s1"]}},
    {"stage": "drop_subjects", "options": {"subjects": ["s1"], "bodies_only": True}},
    {"stage": "filter", "options": {"images": "width > 500", "instances": "num_labelled > 3 and area < 9000"}},
    {"stage": "set_fields", "options": {"pattern": r"(?P<number>\d+)\.", "video_id": "{number}", "track_id": "{id}"}},
    {"stage": "box_from_points", "options": {}},
]


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["stage"])
def test_table_stages_are_pure(six, entry):
    (stage,) = load_stages(definition(stages=[entry]))
    assert_stage_is_pure(stage, six, SKELETON)
    assert_stage_is_pure(
        stage,
        [
            Record(dataset="tiny", split="train", source_id=str(n), image=f"{n}.jpg", width=0, height=0)
            for n in range(2)
        ],
        SKELETON,
    )


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["stage"])
def test_table_stages_take_no_images_and_bodies_without_points(entry):
    assert run([], entry) == ([], [])
    body = instance("a", keypoints=np.zeros((0, 3), np.float32), subject_id="s1")
    record = Record(dataset="tiny", split="train", source_id="1", image="1.jpg", width=600, height=9, instances=[body])
    left, lost = run([record], entry, skeleton=Skeleton(name="none", keypoints=()))
    assert len(left) == 1
    assert [reason for reason, _, _ in lost] == {"drop_subjects": ["subject-listed"], "filter": ["filtered"]}.get(
        entry["stage"], []
    )


@pytest.mark.samples
def test_table_stages_on_real_annotations(samples):
    coco = load_dataset("coco")
    real = [item for item in read_split(coco, "val", samples / "coco") if isinstance(item, Record)]
    for entry in EVERY:
        (stage,) = load_stages(definition(stages=[entry]))
        assert_stage_is_pure(stage, real, coco.skeleton)
    left, _ = run(real, EVERY[2], skeleton=coco.skeleton)
    wide = [record for record in real if record.width > 500]
    bodies = [body for record in wide for body in record.instances]
    wanted = [body.id for body in bodies if (body.keypoints[:, 2] > 0).sum() > 3 and body.area < 9000]
    assert ids(left) == ids(wide)
    assert [body.id for record in left for body in record.instances] == wanted != []
    left, _ = run(real, EVERY[4], skeleton=coco.skeleton)
    for before, after in zip(real, left, strict=True):
        for old, new in zip(before.instances, after.instances, strict=True):
            labelled = old.keypoints[:, 2].any() and not old.is_crowd
            wanted_box = box_around(old.keypoints, 0.25) if labelled else old.bbox_xywh
            np.testing.assert_array_equal(new.bbox_xywh, wanted_box)
