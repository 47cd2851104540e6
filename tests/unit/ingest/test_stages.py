import math
from dataclasses import replace

import numpy as np
import pytest

from posecore.errors import IngestError
from posecore.ingest.staging import run_on_record
from posecore.ingest.tally import Tally
from posecore.schema import Record, Reject
from posecore.stages.load import load_stages
from posecore.stages.records import are_usable
from posecore.tables.records import to_annotations
from tests.support.small_split import HEIGHT, WIDTH, definition, instance


def record(*instances) -> Record:
    return Record(
        dataset="tiny",
        split="train",
        source_id="1",
        image="1.jpg",
        width=WIDTH,
        height=HEIGHT,
        instances=list(instances),
    )


def shout(item: Record) -> Record | Reject:
    """A stage a data engineer might write."""
    item.extras["seen"] = True
    return item


def points(flag: float, x: float = 1.0) -> np.ndarray:
    return np.array([[x, 1, flag], [1, 1, 2], [0, 0, 0]], np.float32)


def run(item: Record, *names: str):
    tally = Tally(names)
    for stage in load_stages(definition(stages=names)):
        item = item and run_on_record(stage, item, tally)
    return item, tally


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("nan-box", {"bbox_xywh": (1.0, math.nan, 2.0, 2.0)}),
        ("nan-box", {"bbox_xywh": (math.inf, 1.0, 2.0, 2.0)}),
        ("nan-box", {"bbox_xywh": (1.0, math.inf, 2.0, -math.inf)}),
        ("negative-box", {"bbox_xywh": (1.0, 1.0, -2.0, 2.0)}),
        ("empty-box", {"bbox_xywh": (1.0, 1.0, 0.0, 2.0)}),
        ("box-outside-image", {"bbox_xywh": (float(WIDTH), 1.0, 5.0, 5.0)}),
        ("bad-area", {"area": math.nan}),
        ("bad-area", {"area": math.inf}),
        ("bad-area", {"area": 0.0}),
        ("nan-keypoints", {"keypoints": points(2, math.nan)}),
        ("flag-out-of-range", {"keypoints": points(3)}),
        ("flag-out-of-range", {"keypoints": points(0.5)}),
        ("flag-out-of-range", {"keypoints": points(-1)}),
        ("absent-out-of-range", {"absent": (3,)}),
    ],
)
def test_unusable_instances_are_taken_out_with_their_reason(reason, changes):
    item = record(instance("good"), instance("bad", **changes))
    assert not are_usable(to_annotations([item], 3))
    kept, tally = run(item, "check_instances")
    assert [item.id for item in kept.instances] == ["good"]
    (row,) = tally.rejects()
    assert (row["reason"], row["instance_id"], row["source"]) == (reason, "bad", "1.jpg")
    (count,) = tally.counts()
    assert (count.images_in, count.instances_in, count.images_rejected, count.instances_rejected) == (1, 2, 0, 1)


def test_good_instances_pass_untouched():
    item = record(instance("a"), instance("b", bbox_xywh=(-5.0, -5.0, 10.0, 10.0)))
    assert run(item, "check_instances")[0] is item
    assert are_usable(to_annotations([item], 3))
    assert are_usable(to_annotations([replace(item, instances=[])], 3))
    of_unknown_size = replace(item, width=0, height=0, instances=[instance("a", bbox_xywh=(900.0, 5.0, 9.0, 9.0))])
    assert run(of_unknown_size, "check_instances")[0] is of_unknown_size
    assert are_usable(to_annotations([of_unknown_size], 3))


def test_filters_take_out_what_their_name_says():
    crowd = instance("crowd", is_crowd=True, keypoints=np.zeros((3, 3), np.float32))
    bare = instance("bare", keypoints=np.zeros((3, 3), np.float32))
    item = record(instance("a"), crowd, bare)
    assert [i.id for i in run(item, "drop_unlabelled")[0].instances] == ["a", "crowd"]
    assert [i.id for i in run(item, "drop_unlabelled", "drop_crowds")[0].instances] == ["a"]
    nothing, tally = run(record(bare), "drop_unlabelled", "drop_images_without_instances")
    assert nothing is None
    assert [count.reasons for count in tally.counts()] == [{"no-labelled-keypoints": 1}, {"no-instances": 1}]


def test_a_stage_may_live_anywhere():
    kept, _ = run(record(instance("a")), f"{__name__}:shout")
    assert kept.extras == {"seen": True}


@pytest.mark.parametrize("name", ["check_instance", "no.such.module:f"])
def test_an_unknown_stage_is_named(name):
    with pytest.raises(IngestError, match=rf"stage '{name}' is neither one of check_instances, .* correct `stages`"):
        load_stages(definition(stages=[name]))


def test_a_name_that_a_module_does_not_have_is_said_with_its_file():
    with pytest.raises(
        IngestError, match=r"stage 'tests.unit.ingest.test_stages:nothing': .*test_stages.py has no nothing"
    ):
        load_stages(definition(stages=[f"{__name__}:nothing"]))
