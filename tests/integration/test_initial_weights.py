"""Training that starts from another model's weights, and says so in the model it makes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from posecore.errors import IntegrityError
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.methods.heads import ExpertsConfig
from posecore.models.saving import save_model
from posecore.models.sources import StartFolder
from posecore.shards.store import open_store
from posecore.training.context import LocalContext
from tests.support.checkpoints import newest
from tests.support.in_process import submit
from tests.support.watched_training import WatchedWorker, watched_worker, write_stores


def worker_stores(worker: WatchedWorker):
    return {name: open_store(place) for name, place in worker.stores.items()}


def trained(worker: WatchedWorker, folder: Path):
    context = LocalContext(folder)
    worker(context)
    checkpoint = newest(context)
    return worker.trained_model(checkpoint)


def test_a_model_with_experts_starts_from_one_without_and_names_it(tmp_path: Path, capsys):
    stores = write_stores(tmp_path / "stores")
    people = {"people": stores["people"]}
    parent = trained(watched_worker(tmp_path / "parent", people), tmp_path / "parent_run")
    parent.card = parent.card.model_copy(update={"licenses": {"elders": "CC-BY-NC-4.0"}})
    save_model(parent, tmp_path / "parent_model")
    weights = StartFolder.at(tmp_path / "parent_model")
    worker = watched_worker(tmp_path / "child", stores)
    worker = replace(worker, method=ExpertsConfig(), weights=weights)

    start, report = worker._initial(worker_stores(worker))
    image = torch.randn(2, 3, *worker.model.input_size)
    torch.testing.assert_close(start.eval().predict(image, "people"), parent.predict(image, "people"))
    assert {row.what: str(row) for row in report.rows}["head people"] == "17 of 17 points from head people"

    child = trained(worker, tmp_path / "child_run")
    assert "warm start" in capsys.readouterr().err
    assert set(child.backbone.tasks) == {"people", "animals"}
    record = child.card.lineage["weights"]
    assert record["sha256"] == weights.sha256
    assert record["copied"]["expert animals"].endswith("from dense layers")
    assert child.card.licenses["elders"] == "CC-BY-NC-4.0"


def test_weights_that_changed_since_they_were_pinned_are_refused(tmp_path: Path):
    stores = write_stores(tmp_path / "stores")
    worker = watched_worker(tmp_path / "record", stores)
    model, _ = worker._initial(worker_stores(worker))
    weights = StartFolder.at(save_model(model, tmp_path / "model"))
    with torch.no_grad():
        model.backbone.pos_embed.add_(1)
    save_model(model, tmp_path / "model")
    with pytest.raises(IntegrityError, match="not the stated"):
        replace(worker, weights=weights)._initial(worker_stores(worker))


def test_what_was_copied_is_a_table_of_the_training_run(tmp_path: Path, tracking: Tracking, monkeypatch):
    """The step of the main job, with its worker called here and not by Ray."""
    stores = write_stores(tmp_path / "stores")
    people = {"people": stores["people"]}
    parent = trained(watched_worker(tmp_path / "parent", people), tmp_path / "parent_run")
    weights = StartFolder.at(save_model(parent, tmp_path / "parent_model"))
    worker = replace(watched_worker(tmp_path / "child", stores), method=ExpertsConfig(), weights=weights)

    step = submit(tracking, tmp_path / "run", worker)
    table = json.loads(RunLog(tracking, step.run_id).read_file("warm_start.json"))
    rows = {row[0]: row[1:] for row in table["data"]}
    assert table["columns"] == ["part", "copied", "freshly initialised"]
    assert rows["expert animals"] == ["16 of 16 rows from dense layers", ""]
    assert rows["head people"] == ["17 of 17 points from head people", ""]
    copied, fresh = rows["head animals"]
    assert copied.endswith("of 17 points from head people")
    assert 0 < int(copied.split()[0]) == 17 - len(fresh.split(", ")) < 17
