"""What loaders passed over is counted once, named, kept in the checkpoint, and bounded."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from posecore.errors import IntegrityError
from posecore.training.checkpoint import Checkpoint
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from tests.support.tiny_training import one_bad_sample, tiny_training


def _train(run_dir: Path, steps: int) -> list[Mapping[str, float]]:
    logged: list[Mapping[str, float]] = []
    context = LocalContext(run_dir, log=lambda metrics, _: logged.append(metrics))
    tiny_training(context, TorchEngineConfig(), steps, checkpoint_every=3, drop_path=0.0, bad=one_bad_sample)
    return logged


def test_a_run_and_its_resumption_count_each_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert [metrics["bad_samples"] for metrics in _train(tmp_path, 5)] == [1, 2, 2]
    assert capsys.readouterr().err.splitlines() == [
        f"damaged samples passed over, 1 more: people row {step}: sample {step} is not what was written."
        for step in (0, 3)
    ]
    assert [metrics["bad_samples"] for metrics in _train(tmp_path, 7)] == [2, 3]
    assert "row 6" in capsys.readouterr().err
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert Checkpoint(newest).progress.bad_samples == {"people": (0, 3, 6)}


def test_more_than_are_allowed_end_the_run_also_over_a_resumption(tmp_path: Path) -> None:
    _train(tmp_path, 17)  # six of six
    with pytest.raises(
        IntegrityError,
        match=r"^dataset people has 7 damaged samples, more than the 6 that loading\.max_bad_share allows; one of "
        r"them: sample 18 is not what was written\.$",
    ):
        _train(tmp_path, 30)


def test_a_run_without_any_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logged: list[Mapping[str, float]] = []
    tiny_training(LocalContext(tmp_path, log=lambda metrics, _: logged.append(metrics)), TorchEngineConfig(), 2)
    assert capsys.readouterr().err == ""
    assert "bad_samples" not in logged[0]
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert Checkpoint(folder).progress.bad_samples == {}
