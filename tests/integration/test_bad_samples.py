"""A training that passes over a damaged sample says so in its run; one that must not ends with its name."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from posecore.errors import IntegrityError
from posecore.lineage.store.tracking import Tracking
from posecore.shards.store import open_store
from posecore.workflows.bad_samples import FILE
from tests.support.in_process import submit
from tests.support.tiny_store import with_damaged_picture
from tests.support.watched_training import WatchedWorker, watched_worker, write_stores


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WatchedWorker:
    """Of people's ten instances the first, alone on its picture, is damaged."""
    stores = write_stores(tmp_path / "stores")
    with_damaged_picture(open_store(stores["people"]), 0)
    return watched_worker(tmp_path / "record", {"people": stores["people"]})


def test_what_was_passed_over_is_in_the_run(worker: WatchedWorker, tracking: Tracking, tmp_path: Path) -> None:
    skipping = replace(worker, loading=worker.loading.model_copy(update={"on_bad_sample": "skip"}))
    step = submit(tracking, tmp_path / "run", skipping)
    run = MlflowClient(tracking.uri).get_run(step.run_id)
    assert run.data.tags["posecore.bad_samples"] == "people 1"
    artifact = f"{run.info.artifact_uri}/{FILE}"
    assert mlflow.artifacts.load_dict(artifact) == {"people": [0]}


def test_by_default_it_ends_the_step(worker: WatchedWorker, tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"the image of sample \S+ at byte \d+ is not what was written; ingest"):
        submit(tracking, tmp_path / "run", worker)
