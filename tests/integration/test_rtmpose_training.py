"""A small RTMPose memorises real photos of two skeletons, through the loop and the evaluation that every model takes.

MPII's own conventions are UDP crops of regions that have not the crop's shape, AP-10K's shift the flip test. Were
training and evaluation to cut a SimCC model's crops by different ones, no training would help.
"""

from pathlib import Path

import pytest
import torch

from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.shards.store import open_store
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig
from posecore.training.optimizer import OptimizerConfig
from posecore.training.schedule import MultiStepSchedule
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from tests.support.checkpoints import newest

SPLITS = {"mpii": "val", "ap10k": "val"}
STILL = AugmentConfig(
    flip_probability=0, half_body_probability=0, scale_factor=0, rotation_probability=0, center_jitter="off"
)


@pytest.mark.samples
def test_a_small_rtmpose_learns_real_photos_by_heart(samples: Path, tmp_path: Path) -> None:
    stores = {}
    for name, split in SPLITS.items():
        definition = load_dataset(name)
        job = ingest_job(definition, split, samples / name, tmp_path / "shards", IngestSettings())
        ingest(job, read_split(definition, split, samples / name))
        stores[name] = str(job.folder)
    worker = MultiDatasetWorker(
        model=ModelConfig(
            backbone=CspnextConfig(deepen=0.167, widen=0.25),
            head=RtmccHeadConfig(token_dim=128, attention_dim=64),
            input_size=(128, 96),
        ),
        training=TrainingConfig(
            steps=90,
            global_batch=7,
            optimizer=OptimizerConfig(lr=4e-3, weight_decay=0, layer_decay=1.0),
            schedule=MultiStepSchedule(warmup_steps=5, milestones=(0.8,)),
            progress=False,
        ),
        loading=LoadingConfig(
            mixture=MixtureConfig(entries=tuple(MixtureEntry(name=n) for n in SPLITS)), augment=STILL
        ),
        stores=stores,
    )
    torch.set_num_threads(1)
    context = LocalContext(tmp_path / "run")
    worker(context)
    checkpoint = newest(context)
    model = worker.trained_model(checkpoint)
    assert {conventions.codec for conventions in model.conventions.values()} == {"msra"}
    settings = InferenceSettings(flip_test=False)
    metrics = {name: evaluate_store(model, open_store(stores[name]), settings) for name in SPLITS}
    assert metrics["ap10k"]["AP"] > 0.9
    assert metrics["mpii"]["PCKh"] > 90
