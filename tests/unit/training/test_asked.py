"""Models that are asked and not trained, read by range."""

from pathlib import Path

import pytest
import torch
from torch import nn

from posecore.errors import CheckpointError, IntegrityError
from posecore.models.saving import save_model
from posecore.models.sources import ModelFolder
from posecore.training.asked import fill
from tests.support.tiny_training import tiny_model


def test_parameters_and_buffers_are_those_of_the_file(tmp_path: Path) -> None:
    saved, asked = tiny_model(), tiny_model()
    for module in (saved, asked):
        module.statistics = nn.BatchNorm1d(2)
    with torch.no_grad():
        for number, tensor in enumerate(saved.state_dict().values()):
            tensor.fill_(number + 1)
    save_model(saved, tmp_path)
    fill(asked, ModelFolder(source=str(tmp_path)))
    for name, tensor in saved.state_dict().items():
        assert torch.equal(asked.state_dict()[name], tensor), name


def test_other_weights_than_stated_and_none_are_refused(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path)
    with pytest.raises(IntegrityError):
        fill(tiny_model(), ModelFolder(source=str(tmp_path), sha256="0" * 64))
    with pytest.raises(CheckpointError):
        fill(tiny_model(), ModelFolder(source=str(tmp_path / "none")))
