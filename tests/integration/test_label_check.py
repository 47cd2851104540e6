"""A training that meets wrong labels: it betrays them, and goes on without them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from posecore.conventions import LabelConventions
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.label_losses import read_label_losses, recording_folder
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.labels.dynamics import find_noisy_labels, noisy_labels
from posecore.labels.suspects import corrections_of, write_suspects
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.models.architecture import ModelConfig
from posecore.schema import Instance, Record
from posecore.shards.corrections import Corrections
from posecore.shards.store import ShardStore, open_store
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig
from posecore.training.optimizer import OptimizerConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.periodic_evaluation import LabelRecording
from tests.support.dot_worlds import HANDS, hands_definition
from tests.support.synthetic_bodies import area_under_curve

TINY_VIT = {"kind": "vit", "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_HEAD = {"kind": "classic", "channels": 16}


def blobs(folder: Path, share: float) -> tuple[ShardStore, np.ndarray]:
    """Bodies of two bright hands, some labels moved by noise of 10 % of the box's diagonal as REMIND does; which."""
    rng = np.random.default_rng(3)
    root = folder / "raw"
    root.mkdir(parents=True)
    records, wrong = [], []
    rows, columns = np.mgrid[:64, :64]
    for number in range(90):
        left, right = rng.uniform((36, 12), (52, 52)), rng.uniform((12, 12), (28, 52))
        image = np.zeros((64, 64, 3))
        for channel, (x, y) in enumerate((left, right)):
            image[..., channel] += 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
        cv2.imwrite(str(root / f"{number}.png"), image.clip(0, 255).astype(np.uint8))
        moved = rng.random(2) < share
        labels = np.stack([left, right]) + moved[:, None] * rng.normal(0, 0.1 * np.hypot(64, 64), (2, 2))
        wrong.append(moved)
        keypoints = np.concatenate([labels, [[2], [2]]], axis=1).astype(np.float32)
        body = Instance(id=str(number), bbox_xywh=(0, 0, 64, 64), keypoints=keypoints, area=4096, area_rule="box")
        records.append(
            Record(
                dataset="hands", split="val", source_id=str(number), image=f"{number}.png", width=64, height=64,
                instances=[body],
            )
        )  # fmt: skip
    definition = hands_definition(labels=LabelConventions(padded=True))
    ingest(ingest_job(definition, "val", root, folder / "shards", IngestSettings()), records)
    store = open_store(folder / "shards" / "hands" / "val")
    order = [int(name) for name in store.instances["instance_id"].to_pylist()]
    return store, np.array(wrong)[order]


def worker(store: ShardStore, **changes: object) -> MultiDatasetWorker:
    off = AugmentConfig(
        flip_probability=0, half_body_probability=0, scale_factor=0, rotation_probability=0, center_jitter="off"
    )
    values = {
        "model": ModelConfig.model_validate(
            {"backbone": TINY_VIT, "head": TINY_HEAD, "input_size": (64, 64), "heatmap_sigma": 1.0}
        ),
        "training": TrainingConfig(
            steps=60, global_batch=24, seed=0, optimizer=OptimizerConfig(lr=3e-3, layer_decay=1.0),
            evaluate_every=6, checkpoint_every=1000, progress=False,
        ),
        "loading": LoadingConfig(
            mixture=MixtureConfig(entries=(MixtureEntry(name="hands"),)), augment=off, num_threads=1
        ),
        "stores": {"hands": str(store.location)},
    }  # fmt: skip
    return MultiDatasetWorker(**values | changes)


def recording(store: ShardStore, folder: Path, corrections: Mapping[str, Corrections] | None = None) -> LabelRecording:
    return LabelRecording(
        stores={"hands": str(store.location)},
        corrections=corrections or {},
        folder=str(folder),
        settings=InferenceSettings(batch_size=60, num_threads=1),
    )


def test_a_training_betrays_the_wrong_labels_and_goes_on_without_them(tmp_path):
    torch.set_num_threads(1)
    store, wrong = blobs(tmp_path, share=0.15)
    folder = tmp_path / "label_losses"
    worker(store, evaluate=recording(store, folder))(LocalContext(tmp_path / "run"))
    losses = read_label_losses(recording_folder(folder, "hands"), store)
    assert losses.shape == (10, 90, 2)
    check = find_noisy_labels(losses)
    told = ~np.isnan(check.scores)
    auc = area_under_curve(check.scores[told], wrong[told])
    print(f"AUC {auc:.3f}; {check}; {check.suspicious[wrong].mean():.2f} of the wrong ones found")
    assert auc > 0.8
    assert check.is_clear
    assert wrong[check.suspicious].mean() > 3 * wrong.mean()
    suspects = noisy_labels(check, losses)
    table = write_suspects(tmp_path / "labels", store, suspects).read_text().splitlines()
    assert len(table) == len(suspects) + 1
    dropped = corrections_of(store, suspects, {"check": "loss dynamics"})
    assert dropped.num_points == len(suspects)
    first = worker(store)
    again = replace(
        first,
        training=first.training.model_copy(update={"steps": 6}),
        corrections={"hands": dropped},
        evaluate=recording(store, tmp_path / "again", {"hands": dropped}),
    )
    again(LocalContext(tmp_path / "second"))
    corrected = open_store(store.location, corrections=dropped)
    left = read_label_losses(recording_folder(tmp_path / "again", "hands"), corrected)
    assert (np.isnan(left[0]) == (check.suspicious | np.isnan(losses[0]))).all()
    assert HANDS.num_keypoints == left.shape[2]
