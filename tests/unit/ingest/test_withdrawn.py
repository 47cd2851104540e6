"""What a split's folder says is withdrawn is in no later edition, under no name, and the reason is told."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from posecore.errors import IngestError
from posecore.ingest.purity import assert_stage_is_pure
from posecore.ingest.run import ingest
from posecore.ingest.withdrawn import WITHDRAWN_NAME, Withdrawn, read_withdrawn, without, write_withdrawn
from posecore.shards.digests import content_digest
from posecore.shards.store import ShardStore, open_store
from posecore.stages.load import load_stages
from tests.support.small_split import definition, job, records


def ingested(root: Path) -> ShardStore:
    work = job(root, root / "out")
    ingest(work)
    return open_store(work.folder)


def told(store: ShardStore) -> set[tuple[str, str, str]]:
    rows = pq.read_table(store.location / "quarantine.parquet").to_pylist()
    return {(row["source_id"], row["reason"], row["detail"]) for row in rows}


def test_a_withdrawn_subject_is_refused_with_the_reason(tmp_path: Path) -> None:
    records(tmp_path, 6)
    before = ingested(tmp_path)
    assert set(before.instances["subject_id"].to_pylist()) == {"s0", "s1", "s2", None}
    write_withdrawn(before.location, Withdrawn(subjects={"s1": "letter of 2026-11-29"}))
    after = ingested(tmp_path)
    assert set(after.instances["subject_id"].to_pylist()) == {"s0", "s2", None}
    assert after.images["source_id"].to_pylist() == ["0", "1", "4", "5"]
    said = "subject s1 is among those to take out: letter of 2026-11-29."
    assert told(after) == {("2", "subject-listed", said), ("3", "subject-listed", said)}
    (entry,) = [entry for entry in after.manifest.definition.stages if entry.stage == "drop_subjects"]
    assert entry.options["reasons"] == {"s1": "letter of 2026-11-29"}
    assert after.manifest.digest != before.manifest.digest


def test_a_withdrawn_picture_is_refused_under_another_name(tmp_path: Path) -> None:
    records(tmp_path, 4)
    before = ingested(tmp_path)
    digest = before.images["digest"][2].as_py()
    write_withdrawn(before.location, Withdrawn(pictures={digest: "a photo of nobody"}))
    images = tmp_path / "images"
    (images / "0.jpg").write_bytes((images / "2.jpg").read_bytes())
    after = ingested(tmp_path)
    assert after.images["source_id"].to_pylist() == ["1", "3"]
    assert {(source, reason) for source, reason, _ in told(after)} == {("0", "picture-listed"), ("2", "picture-listed")}
    assert {detail for _, _, detail in told(after)} == {"it is among those to take out: a photo of nobody."}


def test_withdrawals_add_up_and_are_taken_out_once(tmp_path: Path) -> None:
    write_withdrawn(tmp_path, Withdrawn(subjects={"b": "1"}))
    both = write_withdrawn(tmp_path, Withdrawn(subjects={"a": "2"}, pictures={"f" * 64: "3"}))
    assert both == read_withdrawn(tmp_path) == Withdrawn(subjects={"a": "2", "b": "1"}, pictures={"f" * 64: "3"})
    plain = definition()
    assert without(plain, Withdrawn()) is plain
    once = without(plain, both)
    assert [entry.stage for entry in once.stages] == ["check_instances", "drop_subjects", "drop_pictures"]
    assert without(once, both) == once


OWN = [
    {"stage": "drop_subjects", "options": {"subjects": ["z"]}},
    {"stage": "drop_subjects", "options": {"subjects": ["z"], "reasons": {"z": "moved away"}}},
    {"stage": "drop_pictures", "options": {"pictures": {"0" * 64: "blurred"}}},
]


@pytest.mark.parametrize("own", OWN, ids=lambda entry: "-".join(entry["options"]))
def test_a_list_that_the_dataset_states_itself_stays(own: dict[str, object]) -> None:
    both = Withdrawn(subjects={"a": "2"}, pictures={"f" * 64: "3"})
    listed = definition(stages=[own])
    assert without(listed, Withdrawn()) is listed
    assert without(without(listed, both), both).stages == (*listed.stages, *both.stages())


def test_a_record_that_cannot_be_read_stops_the_ingestion(tmp_path: Path) -> None:
    records(tmp_path, 2)
    store = ingested(tmp_path)
    (store.location / WITHDRAWN_NAME).write_text('{"subject": {}}')
    with pytest.raises(IngestError, match=r"withdrawn.json does not say who was withdrawn"):
        ingested(tmp_path)


def test_the_stages_are_pure_and_may_lose_what_they_are_told_to(tmp_path: Path) -> None:
    found = records(tmp_path, 4)
    pictures = [(tmp_path / record.image).read_bytes() for record in found]
    digest = content_digest(pictures[1])
    made = without(definition(), Withdrawn(subjects={"s0": "x"}, pictures={digest: "y"}))
    for stage in load_stages(made)[1:]:
        assert stage.may_lose
        assert_stage_is_pure(stage, found, made.skeleton, pictures if stage.label == "drop_pictures" else ())
