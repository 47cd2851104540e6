"""What an evaluation is refused for before anything starts; the rest is in ``tests/integration/test_evaluate.py``."""

from pathlib import Path

import pytest

from posecore.errors import CheckpointError, PreflightError
from posecore.models.saving import save_model
from posecore.workflows.evaluation import evaluate_stores
from tests.support.tiny_store import write_store
from tests.support.tiny_training import tiny_model


def test_a_missing_model_and_a_place_for_no_results_are_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posecore.workflows.evaluation.connect_to_ray", lambda: pytest.fail("it started to work"))
    stores = {"people": write_store(tmp_path / "store", "people", [1]).location}
    with pytest.raises(CheckpointError, match="holds no whole model"):
        evaluate_stores(tmp_path / "nowhere", stores, out=tmp_path / "out")
    model = save_model(tiny_model(), tmp_path / "model")
    with pytest.raises(PreflightError, match=r"the results' folder .* cannot be made: Not a directory"):
        evaluate_stores(model, stores, out=Path(stores["people"]) / "manifest.json" / "out")
