"""A small model memorises real photos and reproduces their labels through the whole chain, to a fraction of a pixel.

The smaller version of ``pipelines/configs/overfit_samples.yaml``: four of its sets with three skeletons and twenty
bodies. If any flip, offset, index or scale were wrong anywhere between file and protocol, no training would help.
"""

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from posecore.lineage.versions.tags import evaluations
from tests.end_to_end.conftest import REPOSITORY, Job

pytestmark = [pytest.mark.slow, pytest.mark.samples, pytest.mark.usefixtures("this_process")]

# The full run reaches 0.95 and more; this one stops early.
FLOORS = {"mpii": ("PCKh", 95.0), "aic_oks": ("AP", 0.9), "ap10k": ("AP", 0.9), "crowdpose": ("AP", 0.9)}


def test_labels_come_back_through_the_whole_chain(samples: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((REPOSITORY / "pipelines" / "configs" / "overfit_samples.yaml").read_text())
    values["datasets"] = [entry for entry in values["datasets"] if entry["name"] not in ("coco", "coco_wholebody")]
    values["run_folder"], values["data_folder"] = str(tmp_path / "run"), str(samples)
    # A quarter of the pixels: what could be wrong is wrong at any size.
    values["model"] |= {"input_size": [128, 96], "heatmap_sigma": 1.5}
    values["cluster"] = {"num_workers": 1}
    values["training"] |= {"steps": 160, "global_batch": 20, "checkpoint_every": 160}
    config = tmp_path / "overfit.yaml"
    config.write_text(yaml.safe_dump(values))

    done = Job(config, tmp_path / "run", samples).submit()

    assert done.status == 0, done.out + done.err
    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    results = {result.name: result.metrics for result in evaluations(client.get_model_version(values["name"], "1"))}
    reached = {name: results[name][metric] for name, (metric, _) in FLOORS.items()}
    print(reached)
    assert all(reached[name] >= floor for name, (_, floor) in FLOORS.items()), reached
