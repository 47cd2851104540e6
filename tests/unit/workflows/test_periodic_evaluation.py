from pathlib import Path

from posecore.config import digest_json
from posecore.evaluation.inference import InferenceSettings
from posecore.workflows.periodic_evaluation import PeriodicEvaluation
from tests.support.tiny_store import write_store


def test_what_decides_which_checkpoint_is_best_has_a_fingerprint(tmp_path: Path) -> None:
    """Of the data by its digest, wherever it lies, and of how it is predicted; pictures for people decide nothing."""
    stores = [write_store(tmp_path / name, "people", [1, 2]).location for name in "ab"]
    other = write_store(tmp_path / "c", "people", [2, 1]).location

    def decided(location: object, batch_size: int = 4, **fields: object) -> str:
        settings = InferenceSettings(batch_size=batch_size)
        judge = PeriodicEvaluation(stores={"people": str(location)}, heads={"people": "p"}, settings=settings, **fields)
        return digest_json(judge.decided_by())

    assert decided(stores[0]) == decided(stores[1]) == decided(stores[1], show=lambda *_: None)
    assert len({decided(stores[0]), decided(other), decided(stores[0], batch_size=8)}) == 3
