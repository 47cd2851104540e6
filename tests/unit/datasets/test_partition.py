import json

import pytest

from posecore.config import parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.datasets.division import take_part
from posecore.datasets.partition import PartitionConfig, SubjectRule, name_subjects
from posecore.errors import ConfigError, DatasetError
from posecore.ingest.run import ingest
from posecore.schema import Record, Reject
from posecore.shards.store import open_store
from tests.support.small_split import definition, instance, job
from tests.support.small_split import records as drawn_records


def image(name, *subjects, video=None, crowd=False):
    bodies = [instance(f"{name}-{n}", subject_id=subject) for n, subject in enumerate(subjects)]
    if crowd:
        bodies.append(instance(f"{name}-crowd", is_crowd=True))
    return Record(
        dataset="d", split="s", source_id=name, image=f"images/{name}.jpg", width=9, height=9, instances=bodies,
        video_id=video,
    )  # fmt: skip


def parts(items, **settings):
    configs = {part: PartitionConfig(part=part, **settings) for part in ("train", "eval")}
    return {part: list(take_part(lambda: items, config, "d s")) for part, config in configs.items()}


def names(items):
    return {item.source_id for item in items}


def test_the_share_of_groups_is_what_was_asked_for_and_seeds_differ():
    items = [image(str(number), f"s{number}") for number in range(4000)]
    chosen = {seed: names(parts(items, share=0.3, seed=seed)["eval"]) for seed in (0, 1)}
    for own in chosen.values():
        assert len(own) / 4000 == pytest.approx(0.3, abs=0.025)  # three and a half standard deviations
    assert len(chosen[0] & chosen[1]) / 4000 == pytest.approx(0.09, abs=0.02), "seeds are independent"


def test_the_division_never_changes():
    """These subjects were trained on by somebody: another release must not judge on them."""
    items = [image(name, name) for name in "abcdefghijklmnopqrst"]
    assert "".join(sorted(names(parts(items, share=0.3)["eval"]))) == "egiopst"


def test_a_video_stands_for_a_subject_that_is_not_named_and_ties_those_that_are():
    clips = [image(f"{clip}{frame}", None, video=clip) for clip in "abcdefgh" for frame in range(3)]
    by_part = parts(clips, share=0.5)
    assert {item.video_id for item in by_part["train"]} & {item.video_id for item in by_part["eval"]} == set()
    tied = [image("0", "anna", video="v"), image("1", "ben", video="v"), image("2", "ben", "carl"), image("3", "carl")]
    for seed in range(6):
        sides = [part for part, items in parts([*tied, *clips], share=0.5, seed=seed).items() if names(items) & {"0"}]
        assert names(parts([*tied, *clips], share=0.5, seed=seed)[sides[0]]) >= {"0", "1", "2", "3"}


def test_further_videos_of_a_subject_move_nothing():
    known = [image(f"{s}", f"s{s}", video=f"v{s}") for s in range(60)]
    more = [image(f"more{s}", f"s{s}", video=f"w{s}") for s in range(60)]
    before, after = parts(known, share=0.5), parts([*known, *more], share=0.5)
    for part in before:
        assert names(before[part]) == {name for name in names(after[part]) if not name.startswith("more")}


def test_rejects_are_counted_once_and_follow_their_image():
    items = [image(str(number), f"s{number}") for number in range(40)]
    lost = [
        Reject(reason="bad", detail="", dataset="d", split="s", source=f"f[{n}]", source_id=str(n), instance_id="x")
        for n in range(60)  # of the last twenty there is no record
    ]
    by_part = parts([*items, *lost], share=0.5)
    rejects = {part: [item for item in found if isinstance(item, Reject)] for part, found in by_part.items()}
    assert sorted(r.source for found in rejects.values() for r in found) == sorted(r.source for r in lost)
    for part, found in rejects.items():
        own = names(item for item in by_part[part] if isinstance(item, Record))
        assert names(found) & names(items) <= own
        assert names(found) - names(items), "whole images that were rejected are dealt out too"


def test_an_id_that_comes_twice_takes_no_body_across():
    """Ingestion rejects the second; until then it must not drag the first to its own side."""
    items = [image("same", f"s{number}") for number in range(30)]
    by_part = parts(items, share=0.5)
    sides = [{body.subject_id for item in found for body in item.instances} for found in by_part.values()]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 30


def test_by_frame_is_refused_where_bodies_are_known_unless_forced():
    strangers = [image(str(number), None) for number in range(30)]
    assert names(parts(strangers, by="frame")["eval"])
    for known in (image("x", "anna"), image("x", None, video="clip")):
        with pytest.raises(DatasetError, match="1 of 31 images state a subject or a video, so a split by frame"):
            parts([*strangers, known], by="frame")
        forced = parts([*strangers, known], by="frame", force_frame_split=True)
        assert names(forced["train"]) | names(forced["eval"]) == names([*strangers, known])


def test_by_subject_wants_to_know_every_body():
    known = [image(str(number), f"s{number}") for number in range(30)]
    with pytest.raises(DatasetError, match=r"1 of 31 images, the first images/x.jpg, state neither"):
        parts([*known, image("x", None)])
    nobody = image("x", crowd=True)  # shows no single body: nothing to confuse it with
    by_part = parts([*known, nobody])
    assert "x" in names(by_part["train"]) | names(by_part["eval"])


def test_a_part_without_anything_is_refused_with_the_reason():
    with pytest.raises(DatasetError, match=r"all 5 images belong together \(through video v\)"):
        parts([image(str(number), None, video="v") for number in range(5)])
    with pytest.raises(DatasetError, match=r"with share 0\.01, seed 0 puts none of the 3 groups into eval"):
        parts([image(str(number), f"s{number}") for number in range(3)], share=0.01)


def test_subjects_come_from_the_path_or_from_a_list_of_videos():
    pictures = [image("p01_a", None), image("p02_b", None), image("p02_c", "stated"), image("p03_d", crowd=True)]
    rule = SubjectRule(pattern=r"/(?P<subject>p\d+)_")
    named = list(name_subjects(pictures, rule, "d s"))
    assert [body.subject_id for item in named for body in item.instances] == ["p01", "p02", "stated", None]
    assert pictures[0].instances[0].subject_id is None, "the reader's record is left alone"
    (frame,) = name_subjects([image("x", None, video="M3V1")], SubjectRule(videos={"M3V1": "mouse 3"}), "d s")
    assert frame.instances[0].subject_id == "mouse 3"


@pytest.mark.parametrize(
    ("rule", "record", "message"),
    [
        ({"pattern": r"/(?P<subject>p\d+)_"}, image("q1", None), "finds no subject in the path 'images/q1.jpg'"),
        ({"videos": {"a": "s"}}, image("x", None, video="b"), r"no entry for the video 'b' of .* \(it has a\)"),
        ({"videos": {"a": "s"}}, image("x", None, None, video="a"), "shows 2 bodies without a name"),
    ],
)
def test_images_a_rule_cannot_name_are_refused(rule, record, message):
    with pytest.raises(DatasetError, match=message):
        list(name_subjects([record], SubjectRule(**rule), "d s"))


def split(part, **settings):
    return {"annotations": "a.json", "partition": {"part": part, **settings}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"s": split("train", by="subject", force_frame_split=True)}}, "without `by: frame`"),
        ({"splits": {"s": split("train", by="frames")}}, "'subject' or 'frame'"),
        ({"splits": {"a": split("train"), "b": split("eval", seed=1)}}, "are divided in 2 ways"),
        ({"subjects": {}}, "either videos or pattern"),
        ({"subjects": {"pattern": "(p"}}, "not a regular expression"),
        ({"subjects": {"pattern": r"p\d+"}}, "name the part that is the subject"),
    ],
)
def test_a_definition_that_would_divide_wrongly_is_refused(changes, message):
    values = definition().model_dump() | changes
    with pytest.raises(ConfigError, match=message):
        parse_config(values, DatasetDefinition, "dataset.yaml")


def test_several_divisions_of_one_pool_may_stand_side_by_side():
    folds = {f"{part}{seed}": split(part, seed=seed) for part in ("train", "eval") for seed in range(3)}
    assert len(definition(splits=folds).splits) == 6


def test_definitions_that_do_not_divide_keep_the_digest_they_had():
    plain = definition()
    assert "partition" not in json.dumps(plain.model_dump(mode="json"))
    assert "subjects" not in plain.model_dump(mode="json")
    divided = definition(splits={"train": split("train"), "val": split("eval")})
    by_force = {"by": "frame", "force_frame_split": True}
    forced = definition(splits={"train": split("train", **by_force), "val": split("eval", **by_force)})
    named = definition(subjects={"pattern": "(?P<subject>.)"})
    assert len({one.digest() for one in (plain, divided, forced, named)}) == 4
    assert DatasetDefinition.model_validate(named.model_dump(mode="json")) == named


def test_the_manifest_says_how_a_pool_was_divided(tmp_path):
    source = drawn_records(tmp_path / "raw", 8)
    settings = {"by": "frame", "force_frame_split": True, "share": 0.5}
    item = job(tmp_path / "raw", tmp_path / "out", splits={"train": split("train", **settings)})
    part = item.definition.splits["train"].partition
    manifest = ingest(item, take_part(lambda: source, part, "tiny train"))
    stored = open_store(tmp_path / "out" / "tiny" / "train").manifest
    assert stored.definition.splits["train"].partition == part
    assert stored.digest == manifest.digest
    assert 0 < stored.num_images < 8


@pytest.mark.samples
def test_reading_a_split_of_a_deeplabcut_project_names_and_divides(samples):
    """One mouse in one video: there is nobody to hold out, and frames are held out on demand only."""
    project, root = load_dataset("deeplabcut"), samples / "dlc_reaching" / "Reaching-Mackenzie-2018-08-30"
    whole = names(read_split(project, "all", root))
    values = {**dict(project), "subjects": {"videos": {next(iter(whole)).split("/")[0]: "mouse"}}}

    def read(**settings):
        both = ("train", "eval")
        divided = {part: {"annotations": "config.yaml", "partition": {"part": part, **settings}} for part in both}
        made = DatasetDefinition.model_validate({**values, "splits": divided})
        return {part: list(read_split(made, part, root)) for part in both}

    with pytest.raises(DatasetError, match="all 55 images belong together"):
        read()
    with pytest.raises(DatasetError, match="55 of 55 images state a subject or a video"):
        read(by="frame")
    found = {part: list(read_split(project, f"frames_{part}", root)) for part in ("train", "test")}
    assert 6 <= len(found["test"]) <= 16
    found = read(by="frame", force_frame_split=True)
    assert names(found["train"]) | names(found["eval"]) == whole
    assert not names(found["train"]) & names(found["eval"])
    assert {body.subject_id for item in found["eval"] for body in item.instances} == {"mouse"}


def test_named_subjects_are_judged_on_and_nobody_else():
    items = [image(f"{subject}{n}", subject, video=f"v{subject}") for subject in ("03", "07", "11") for n in range(2)]
    lost = Reject(reason="bad", detail="", dataset="d", split="s", source="f[9]", source_id="9", instance_id="x")
    by_part = parts([*items, image("empty"), lost], subjects=["07", "03"])
    assert names(by_part["eval"]) == {"030", "031", "070", "071"}
    assert names(by_part["train"]) == {"110", "111", "empty", "9"}


@pytest.mark.parametrize(
    ("subjects", "said"),
    [
        (["3"], "names '3', and nobody in the 3 subjects of the pool is called that. Did you mean 03"),
        (["03"], "names '03' and not '07', but pictures or videos tie the two together"),
        (["03", "07", "11"], "names everybody, so nobody is left to train on"),
    ],
)
def test_named_subjects_that_cannot_be_held_out_are_refused(subjects, said):
    items = [image("a", "03", "07"), image("b", "11")]
    with pytest.raises(DatasetError, match=said):
        parts(items, subjects=subjects)


def test_subjects_are_named_in_the_definition_or_in_a_file_beside_it(tmp_path):
    (tmp_path / "judged.txt").write_text("# of the clinic's second year\n07\n\n03\n")

    def division(subjects, **more):
        partition = {"part": "eval", "subjects": subjects, **more}
        values = definition().model_dump() | {"folder": tmp_path}
        values["splits"] = {"val": {"annotations": "a.json", "partition": partition}}
        return parse_config(values, DatasetDefinition, "dataset.yaml").splits["val"].partition

    assert division(["07", "03"]) == division("judged.txt") == PartitionConfig(part="eval", subjects=("07", "03"))
    assert "subjects" not in PartitionConfig(part="eval").model_dump(), "definitions of before keep their digest"
    with pytest.raises(ConfigError, match=r"partition.subjects: \S+/none.txt cannot be read \(No such file"):
        division("none.txt")
    with pytest.raises(ConfigError, match="subjects: they are named, so neither share nor seed"):
        division(["07"], share=0.5)
    with pytest.raises(ConfigError, match=r"(?s)subjects.0.*string"):
        division([7])
