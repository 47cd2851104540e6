"""Splits by which nothing could be judged are refused before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from posecore.datasets.judgeable import LabelCounts, labels_problem
from posecore.errors import ConfigError, DatasetError
from posecore.evaluation.label_counts import label_counts
from posecore.evaluation.metric import Case, Metric
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.schema import Record
from posecore.shards.store import open_store
from posecore.training.best import BestConfig
from posecore.workflows.data_steps import Split
from posecore.workflows.datasets_job import DatasetEntry
from posecore.workflows.protocol_check import check_judged_labels
from tests.support.small_split import SKELETON, definition, records


class Spread(Metric):
    """Judges what models say of themselves, which labels do not."""

    primary: ClassVar[str] = "spread"

    def __call__(self, case: Case) -> dict[str, float]:
        assert case.predictions.covariances is not None
        return {"spread": float(np.nanmean(case.predictions.covariances))}


def split_of(tmp_path: Path, name: str, source: list[Record], **changes: object) -> Split:
    made = definition(**changes)
    ingest(ingest_job(made, "val", tmp_path / "raw", tmp_path / name, IngestSettings()), source)
    entry = DatasetEntry.model_validate({"name": "tiny", "root": str(tmp_path), "train": "train", "evaluate": "val"})
    return Split(entry, "evaluation", str(tmp_path / name / "tiny" / "val"), "", made)


def test_an_unlabelled_split_is_refused_by_its_tables(tmp_path: Path) -> None:
    source = records(tmp_path / "raw", 3, "val")
    check_judged_labels([split_of(tmp_path, "a", source)], None)
    for record in source:
        record.instances[:] = [
            replace(body, keypoints=np.zeros_like(body.keypoints), is_crowd=False) for body in record.instances
        ]
    with pytest.raises(DatasetError, match=r"datasets.tiny: evaluation split val: no body has a labelled point"):
        check_judged_labels([split_of(tmp_path, "b", source)], None)


def test_head_boxes_and_crowding_are_asked_for_by_the_protocols_that_read_them(tmp_path: Path) -> None:
    source = records(tmp_path / "raw", 3, "val")
    split = split_of(tmp_path, "a", source, evaluation={"protocol": "pckh"})
    with pytest.raises(DatasetError, match="no labelled body has a head box"):
        check_judged_labels([split], None)
    source[0].instances[0] = replace(source[0].instances[0], head_bbox_xyxy=(1.0, 1.0, 5.0, 5.0))
    source[1].extras["crowdIndex"] = 0.3
    split = split_of(tmp_path, "b", source, evaluation={"protocol": "pckh"})
    check_judged_labels([split], None)
    counts = label_counts(open_store(split.location))
    assert (counts.images, counts.with_head, counts.without_crowd_index) == (3, 1, 2)
    assert "2 of 3 images have no crowdIndex" in (labels_problem("crowdpose", counts) or "")
    assert labels_problem("crowdpose", LabelCounts(images=3, labelled=1)) is None


def test_a_best_step_by_what_no_evaluation_will_say_is_refused_before_the_first(tmp_path: Path) -> None:
    """The bodies have 600 px², so COCO calls none of them medium or large."""
    source = records(tmp_path / "raw", 3, "val")
    points = [point.model_copy(update={"oks_sigma": 0.1}) for point in SKELETON.keypoints]
    arm = SKELETON.model_copy(update={"keypoints": tuple(points)})
    split = split_of(tmp_path, "a", source, skeleton=arm, evaluation={"protocol": "oks"})
    for good in ("tiny/AP", "tiny/AR75", "others/APL"):
        check_judged_labels([split], BestConfig(metric=good))
    there = "there are: AP, AP50, AP75, AR, AR50, AR75."
    for bad in ("tiny/APL", "tiny/PA"):
        with pytest.raises(ConfigError, match=f"there is no {bad}: .* nothing in evaluation split val .*{there}"):
            check_judged_labels([split], BestConfig(metric=bad))
    large = [replace(source[0].instances[0], area=9217.0)]
    source[0].instances[:] = large
    split = split_of(tmp_path, "b", source, skeleton=arm, evaluation={"protocol": "oks"})
    check_judged_labels([split], BestConfig(metric="tiny/APL"))
    pixels = split_of(tmp_path, "c", source, evaluation={"protocol": "pixel"})
    check_judged_labels([pixels], BestConfig(metric="tiny/mean_error_px", better="less"))
    own = split_of(tmp_path, "d", source, evaluation={"protocol": f"{__name__}:Spread"})
    check_judged_labels([own], BestConfig(metric="tiny/spread", better="less"))
