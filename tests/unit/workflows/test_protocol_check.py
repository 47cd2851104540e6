"""Splits by which nothing could be judged are refused before anything is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posecore.datasets.judgeable import LabelCounts, labels_problem
from posecore.errors import DatasetError
from posecore.evaluation.label_counts import label_counts
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.schema import Record
from posecore.shards.store import open_store
from posecore.workflows.data_steps import Split
from posecore.workflows.datasets_job import DatasetEntry
from posecore.workflows.protocol_check import check_judged_labels
from tests.support.small_split import definition, records


def split_of(tmp_path: Path, name: str, source: list[Record], **changes: object) -> Split:
    made = definition(**changes)
    ingest(ingest_job(made, "val", tmp_path / "raw", tmp_path / name, IngestSettings()), source)
    entry = DatasetEntry.model_validate({"name": "tiny", "root": str(tmp_path), "train": "train", "evaluate": "val"})
    return Split(entry, "evaluation", str(tmp_path / name / "tiny" / "val"), "", made)


def test_an_unlabelled_split_is_refused_by_its_tables(tmp_path: Path) -> None:
    source = records(tmp_path / "raw", 3, "val")
    check_judged_labels([split_of(tmp_path, "a", source)])
    for record in source:
        record.instances[:] = [
            replace(body, keypoints=np.zeros_like(body.keypoints), is_crowd=False) for body in record.instances
        ]
    with pytest.raises(DatasetError, match=r"datasets.tiny: evaluation split val: no body has a labelled point"):
        check_judged_labels([split_of(tmp_path, "b", source)])


def test_head_boxes_and_crowding_are_asked_for_by_the_protocols_that_read_them(tmp_path: Path) -> None:
    source = records(tmp_path / "raw", 3, "val")
    split = split_of(tmp_path, "a", source, evaluation={"protocol": "pckh"})
    with pytest.raises(DatasetError, match="no labelled body has a head box"):
        check_judged_labels([split])
    source[0].instances[0] = replace(source[0].instances[0], head_bbox_xyxy=(1.0, 1.0, 5.0, 5.0))
    source[1].extras["crowdIndex"] = 0.3
    split = split_of(tmp_path, "b", source, evaluation={"protocol": "pckh"})
    check_judged_labels([split])
    counts = label_counts(open_store(split.location))
    assert (counts.images, counts.with_head, counts.without_crowd_index) == (3, 1, 2)
    assert "2 of 3 images have no crowdIndex" in (labels_problem("crowdpose", counts) or "")
    assert labels_problem("crowdpose", LabelCounts(images=3, labelled=1)) is None
