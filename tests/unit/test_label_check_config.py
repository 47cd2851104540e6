"""Run files with a label check, corrections and a prior: what they must say."""

import pytest

from pipelines.multidataset_train import JobConfig
from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.workflows.datasets_job import DatasetEntry

RUN = {
    "name": "x",
    "run_folder": "run",
    "datasets": [{"name": "syrip", "root": "syrip", "train": "train"}],
    "model": {"backbone": {"preset": "vit-micro"}, "head": {"kind": "classic"}, "input_size": [64, 64]},
    "label_check": {},
}


@pytest.mark.parametrize(("every", "told"), [(0, "0 times"), (30, "3 times")])
def test_a_label_check_needs_enough_passes(every: int, told: str) -> None:
    training = {"steps": 100, "global_batch": 8, "evaluate_every": every}
    with pytest.raises(ConfigError, match=f"{told} in 100 steps; set training.evaluate_every to at most 25"):
        parse_config(RUN | {"training": training}, JobConfig, "run.yaml")


def test_a_label_check_with_enough_passes_is_taken() -> None:
    training = {"steps": 100, "global_batch": 8, "evaluate_every": 25}
    config = parse_config(RUN | {"training": training}, JobConfig, "run.yaml")
    assert config.label_check is not None
    assert config.label_check.pictures == 48


def test_corrections_belong_to_training() -> None:
    entry = {"name": "a", "root": "a", "evaluate": "val", "head": "b", "corrections": "c.json"}
    with pytest.raises(ConfigError, match="corrections drop labels from training, and it has no train split"):
        parse_config(entry, DatasetEntry, "run.yaml")
