"""The operators of an ingestion, one after the other in this process, write what ingestion without a cluster writes."""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pytest

from posecore.cluster.ingestion import _operators
from posecore.cluster.shard_block import outcome
from posecore.errors import IngestError
from posecore.ingest.executor import InProcess
from posecore.ingest.plan import Plan
from posecore.ingest.run import ingest
from posecore.ingest.write import WrittenShard
from posecore.schema import DepthImage
from tests.support.small_split import HEIGHT, WIDTH, job, records, tree

KINDS = "tests.unit.ingest.test_stage_kinds"


class Operators(InProcess):
    """Passes every shard's block through all operators."""

    def write(self, plan: Plan) -> Iterator[WrittenShard]:
        works = [
            operator.work(*operator.arguments) if isinstance(operator.work, type) else operator.work
            for operator in _operators(plan)
        ]
        for shard in plan.shards:
            block = pa.table({"number": [shard.number]})
            for work in works:
                block = work(block)
            result = outcome(block)
            if isinstance(result, Exception):
                raise result
            yield result


def test_stages_of_every_kind_depth_and_what_is_taken_out(tmp_path):
    source = records(tmp_path, 9)
    source[3].instances[0].bbox_xywh = (4.0, 5.0, 4e11, 30.0)
    source[4].instances[0].segmentation = {"size": [1, 1], "counts": [1]}
    depth = np.full((HEIGHT, WIDTH), 1000, np.uint16)
    (tmp_path / "depth.png").write_bytes(cv2.imencode(".png", depth)[1].tobytes())
    source[6] = replace(source[6], depth=DepthImage(image="depth.png", metres_per_unit=0.001))
    (tmp_path / "images" / "7.jpg").unlink()
    stages = [
        "check_instances",
        {"stage": f"{KINDS}:Shrink", "options": {"keep": ["4"]}},
        "drop_images_without_instances",
        {"stage": "set_fields", "options": {"view_id": "front"}},
        {"stage": f"{KINDS}:Count"},
    ]
    made = [
        ingest(job(tmp_path, tmp_path / name, stages=stages, max_loss=1.0), source, executor)
        for name, executor in (("one", None), ("apart", Operators()))
    ]
    assert made[0].digest == made[1].digest
    assert made[0].rejects["far-box"] == made[0].rejects["missing-image"] == made[0].rejects["bad-segmentation"] == 1
    assert tree(tmp_path / "one") == tree(tmp_path / "apart")
    again = ingest(job(tmp_path, tmp_path / "apart", stages=stages, max_loss=1.0), source, Operators())
    assert again.digest == made[0].digest


def test_an_error_of_a_stage_passes_through_the_operators_behind_it(tmp_path):
    stages = [{"stage": f"{KINDS}:Fails", "options": {"at": "2"}}, {"stage": f"{KINDS}:Count"}]
    with pytest.raises(IngestError, match=r"Fails .* failed at images/2\.jpg"):
        ingest(job(tmp_path, tmp_path / "out", stages=stages), records(tmp_path, 4), Operators())
