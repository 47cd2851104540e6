"""A portrait model becomes a landscape one: positions resampled, trained under full-circle turns, asked for photos."""

from pathlib import Path

import numpy as np
import torch

from posecore.conventions import HeadConventions
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.models.weights.initial import WeightsConfig
from posecore.prediction.predictor import Predictor
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig
from posecore.training.optimizer import OptimizerConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from tests.support.checkpoints import newest
from tests.support.dot_worlds import HANDS, hands_definition, hands_store

ARCHITECTURE = {"backbone": VitConfig(embed_dim=64, depth=2, num_heads=2), "head": ClassicHeadConfig(channels=32)}
STILL = HeadConventions(center_jitter=False)
LANDSCAPE = (64, 96)


def test_a_landscape_model_starts_from_a_portrait_one_and_learns(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    portrait = build_model(ModelConfig(**ARCHITECTURE, input_size=(96, 64)), {"hands": HANDS})
    save_model(portrait, tmp_path / "portrait")
    store = hands_store(tmp_path / "hands", hands_definition())
    augment = AugmentConfig.model_validate(
        {"preset": "infant", "half_body_probability": 0, "scale_factor": 0.1, "blanket_probability": 0}
    )
    worker = MultiDatasetWorker(
        model=ModelConfig(**ARCHITECTURE, input_size=LANDSCAPE, conventions=STILL),
        training=TrainingConfig(
            steps=80, global_batch=12, optimizer=OptimizerConfig(lr=2e-3, layer_decay=1.0), progress=False
        ),
        loading=LoadingConfig(mixture=MixtureConfig(entries=(MixtureEntry(name="hands"),)), augment=augment),
        stores={"hands": str(store.location)},
        weights=WeightsConfig(source=str(tmp_path / "portrait")),
    )
    context = LocalContext(tmp_path / "run")
    worker(context)
    checkpoint = newest(context)
    model = worker.trained_model(checkpoint)
    assert model.input_size == LANDSCAPE
    assert "resampled from 6×4" in str(model.card.lineage["weights"]["copied"])

    errors = []
    predictor = Predictor(model)
    for row in range(store.num_images):
        bodies = store.read_record(row).instances
        (found,) = predictor.predict([store.read_image_bytes(row)], [[body.bbox_xywh for body in bodies]], "hands")
        truth = np.stack([body.keypoints[:, :2] for body in bodies])
        # Turned any way, two equal blobs cannot be told apart: an answer counts by the blob nearest to it.
        distances = np.linalg.norm(found.keypoints[:, :, None] - truth[:, None], axis=-1)
        errors.append(distances.min(axis=-1))
    assert np.median(errors) < 8.0  # pixels of the image, of which a heatmap pixel has 9.6; untrained it is 60
