"""What an evaluation is refused for before anything starts; the rest is in ``tests/integration/test_evaluate.py``."""

from pathlib import Path

import pytest

from posecore.errors import CheckpointError, PreflightError
from posecore.models.saving import save_model
from posecore.workflows.evaluation import evaluate_stores
from posecore.workflows.machines import Machines
from tests.support.tiny_store import write_store
from tests.support.tiny_training import tiny_model


def test_a_missing_model_and_a_place_for_no_results_are_told_before_the_work(tmp_path: Path) -> None:
    nobody: Machines = None  # type: ignore[assignment]  # whoever is asked to work fails
    stores = {"people": write_store(tmp_path / "store", "people", [1]).location}
    with pytest.raises(CheckpointError, match="holds no whole model"):
        evaluate_stores(nobody, tmp_path / "nowhere", stores, out=tmp_path / "out")
    model = save_model(tiny_model(), tmp_path / "model")
    with pytest.raises(PreflightError, match=r"the results' folder .* cannot be made: Not a directory"):
        evaluate_stores(nobody, model, stores, out=Path(stores["people"]) / "manifest.json" / "out")
