"""From the publisher's own annotation file through shards to metrics: the numbers pycocotools gets from that file."""

import json

import numpy as np
import orjson
import pytest

from posecore.datasets.discovery import load_dataset, read_split, source_for
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.protocols import evaluate
from posecore.evaluation.results import coco_results, read_results
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.shards.store import open_store
from tests.support import coco_reference

pytestmark = pytest.mark.samples


def disturbed(truth: GroundTruth, seed: int = 0) -> Predictions:
    """A prediction near every labelled instance, and a few far from any."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero((truth.visibility > 0).any(axis=1))
    rows = np.concatenate([rows, rng.choice(rows, len(rows) // 5)])
    size = np.sqrt(truth.bbox_xywh[rows, 2:].prod(axis=1))[:, None, None]
    spread = size * 0.04 * np.exp(rng.normal(size=size.shape))
    points = truth.keypoints[rows]
    return Predictions(
        image_ids=truth.image_ids,
        image_row=truth.image_row[rows],
        instance_row=np.full(len(rows), -1),
        keypoints=points + rng.normal(size=points.shape) * spread,
        keypoint_scores=rng.random(points.shape[:2]),
        scores=rng.random(len(rows)).round(1),
        category_id=truth.category_id[rows],
        crop_area=size[:, 0, 0] ** 2,
    )


@pytest.mark.parametrize(("dataset", "split"), [("coco", "val"), ("coco", "train"), ("ap10k", "val")])
def test_metrics_equal_pycocotools_on_the_published_file(dataset, split, samples, tmp_path):
    definition = load_dataset(dataset)
    root = samples / dataset
    job = ingest_job(definition, split, root, tmp_path / "shards", IngestSettings())
    manifest = ingest(job, read_split(definition, split, root))
    assert not manifest.rejects
    truth = GroundTruth.from_store(open_store(job.folder))
    results = tmp_path / "results.json"
    results.write_bytes(orjson.dumps(coco_results(disturbed(truth))))
    predictions = read_results(results, truth.image_ids, definition.skeleton.num_keypoints)
    metrics = evaluate(definition.evaluation, definition.skeleton, truth, predictions)

    published = json.loads((root / source_for(definition, split, root).annotations).read_text())
    reference = coco_reference.run(published, json.loads(results.read_text()), definition.skeleton.oks_sigmas)
    got = [metrics.get(name, -1.0) for name in coco_reference.NAMES]  # as it says that nothing is judged by a figure
    assert got == pytest.approx(reference.stats.tolist(), abs=1e-9, rel=0)
    assert 0 < metrics["AP"] < 1
