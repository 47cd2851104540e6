"""A main job small enough to run in a test: three synthetic datasets, three skeletons, a few steps."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipelines.multidataset_train import main
from posecore.synth.writers import DatasetName, write_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
DATASETS: tuple[DatasetName, ...] = ("coco", "mpii", "ap10k")


@dataclass(frozen=True)
class Submission:
    """What a job that ended had to say."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Job:
    """A run file and where it writes."""

    config: Path
    run_folder: Path
    data_folder: Path

    def submit(self, *overrides: str) -> Submission:
        """The main job in this process, which has imported everything and started Ray before."""
        arguments = ["--config", str(self.config), *(part for item in overrides for part in ("--set", item))]
        said, complained = io.StringIO(), io.StringIO()
        with redirect_stdout(said), redirect_stderr(complained):
            status = main(arguments)
        return Submission(status, said.getvalue(), complained.getvalue())


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(DATASETS):
        write_dataset(name, folder / name, num_train=12, num_val=6, image_size=(128, 128), seed=seed)
    return folder


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, synthetic_data: Path) -> Job:
    folder = tmp_path_factory.mktemp("job")
    run_folder = folder / "run"
    values = {
        "name": "tiny",
        "run_folder": str(run_folder),
        "data_folder": str(synthetic_data),
        "datasets": [{"name": name, "root": name, "train": "train", "evaluate": "val"} for name in DATASETS],
        "ingest": {"images_per_shard": 5},
        "model": {
            "backbone": {"preset": "vit-nano"},
            "head": {"kind": "classic", "channels": 16},
            "input_size": [64, 48],
        },
        "training": {
            "steps": 4,
            "global_batch": 8,
            "evaluate_every": 2,
            "best": {"metric": "mpii/PCKh"},
            "schedule": {"kind": "cosine", "warmup_steps": 1},
            "engine": {"kind": "deepspeed", "zero_stage": 1, "precision": "fp32"},
        },
        "worst_cases": 2,
    }
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values))
    return Job(config, run_folder, synthetic_data)
