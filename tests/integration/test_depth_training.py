"""Bodies that only depth shows: the pictures are black, and the model with depth finds them; without depth it answers.

The whole way: shards with depth pictures, the loader, an RGB-D backbone started from one of pictures, depth as a second
task besides, evaluation and the predictor.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.multidataset_train import JobConfig
from posecore.config import parse_config
from posecore.conventions import Conventions
from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import PredictionError
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.methods.depth_task import DepthTaskConfig
from posecore.methods.heads import HeadsConfig
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.models.weights.initial import WeightsConfig
from posecore.prediction.predictor import Predictor
from posecore.schema import DepthImage, Instance, Record
from posecore.shards.store import ShardStore, open_store
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig
from posecore.training.optimizer import OptimizerConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from tests.support.checkpoints import newest
from tests.support.dot_worlds import HANDS, hands_definition

SIZE = (64, 64)
BOX = (20.0, 20.0, 80.0, 80.0)
UDP = Conventions(codec="udp", center_jitter=False)


def hidden_hands(folder: Path, num_images: int = 12) -> ShardStore:
    """Black pictures of a bed 1 m away; the left hand rises 12 cm from it, the right one 6 cm. A quarter has none."""
    random = np.random.default_rng(3)
    (folder / "raw").mkdir(parents=True)
    records = []
    rows, columns = np.mgrid[:120, :120]
    for number in range(num_images):
        hands = np.array([20, 20]) + random.uniform(12, 68, (2, 2))
        while np.linalg.norm(hands[0] - hands[1]) < 25:
            hands = np.array([20, 20]) + random.uniform(12, 68, (2, 2))
        depth_mm = np.full((120, 120), 1000.0)
        for (x, y), height in zip(hands, (120, 60), strict=True):
            depth_mm -= height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
        cv2.imwrite(str(folder / "raw" / f"{number}.png"), np.zeros((120, 120, 3), np.uint8))
        cv2.imwrite(str(folder / "raw" / f"{number}_depth.png"), depth_mm.astype(np.uint16))
        body = Instance(
            id=str(number),
            bbox_xywh=BOX,
            keypoints=np.concatenate([hands, [[2], [2]]], axis=1).astype(np.float32),
            area=6400.0,
            area_rule="box",
        )
        depth = None if number % 4 == 3 else DepthImage(image=f"{number}_depth.png", metres_per_unit=0.001)
        records.append(
            Record(
                dataset="hands", split="val", source_id=f"{number:02d}", image=f"{number}.png", width=120, height=120,
                instances=[body], depth=depth,
            )
        )  # fmt: skip
    definition = hands_definition(EvaluationDefinition(protocol="pixel"))
    job = ingest_job(definition, "val", folder / "raw", folder / "shards", IngestSettings())
    ingest(job, records)
    return open_store(job.folder)


def test_what_only_depth_shows_is_learned(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = hidden_hands(tmp_path)
    architecture = {"head": ClassicHeadConfig(channels=32), "input_size": SIZE}
    vit = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    parent = build_model(ModelConfig(backbone=VitConfig(**vit), **architecture), {"hands": HANDS}, {"hands": UDP})
    save_model(parent, tmp_path / "parent")
    augment = AugmentConfig(half_body_probability=0, scale_factor=0.1, flip_probability=0, center_jitter="off")
    worker = MultiDatasetWorker(
        model=ModelConfig(backbone=VitConfig(**vit, depth_input=True), **architecture),
        training=TrainingConfig(
            steps=120, global_batch=12, optimizer=OptimizerConfig(lr=2e-3, layer_decay=1.0), progress=False
        ),
        loading=LoadingConfig(
            mixture=MixtureConfig(entries=(MixtureEntry(name="hands"),)), augment=augment, depth=True
        ),
        stores={"hands": str(store.location)},
        method=HeadsConfig(depth=DepthTaskConfig(channels=16)),
        weights=WeightsConfig(source=str(tmp_path / "parent")),
    )
    context = LocalContext(tmp_path / "run")
    result = worker(context)
    assert 0 < result.metrics["depth"] < 1e-3
    checkpoint = newest(context)
    model = worker.trained_model(checkpoint)
    assert not any("depth_task" in name for name in model.state_dict())

    predictor = Predictor(model)
    black = np.zeros((120, 120, 3), np.uint8)
    with_depth, without = [], []
    for row in range(store.num_images):
        record = store.read_record(row)
        if record.depth is None:
            continue
        pixels = cv2.imread(str(tmp_path / "raw" / record.depth.image), cv2.IMREAD_UNCHANGED)
        depth = pixels * record.depth.metres_per_unit
        truth = record.instances[0].keypoints[:, :2]
        seeing, blind = predictor.predict([black, black], [[BOX]] * 2, "hands", depths=[depth, None])
        with_depth.append(np.linalg.norm(seeing.keypoints[0] - truth, axis=1))
        without.append(np.linalg.norm(blind.keypoints[0] - truth, axis=1))
    assert np.median(with_depth) < 5  # pixels of the picture; one of the heatmap has 6
    assert np.median(without) > 15
    judged = evaluate_store(model, store, InferenceSettings(flip_test=False, batch_size=5))
    assert judged["median_error_px"] < 6  # nine of the twelve pictures have depth, and it is cut for them

    with pytest.raises(PredictionError, match=r"depth is \(60, 120\), not \(120, 120\)"):
        predictor.predict([black], [[BOX]], "hands", depths=[np.ones((60, 120))])
    with pytest.raises(PredictionError, match="2 depths for 1 image;"):
        predictor.predict([black], [[BOX]], "hands", depths=[None, None])
    with pytest.raises(PredictionError, match="the model takes pictures alone"):
        Predictor(parent).predict([black], [[BOX]], "hands", depths=[np.ones((120, 120))])


@pytest.mark.parametrize(
    ("backbone", "method", "wanted"),
    [
        ({"preset": "vit-nano"}, {"kind": "heads"}, False),
        ({"preset": "vit-nano", "depth_input": True}, {"kind": "heads"}, True),
        ({"preset": "vit-nano"}, {"kind": "experts", "depth": {"weight": 0.1}}, True),
        ({"preset": "vit-nano"}, {"kind": "prototypes", "depth": {}}, True),
    ],
)
def test_a_run_cuts_depth_where_something_reads_it(
    backbone: dict[str, object], method: dict[str, object], wanted: bool
) -> None:
    if method["kind"] == "prototypes":
        method = method | {"stages": "joint"}
    values = {
        "name": "depth",
        "run_folder": "run",
        "datasets": [{"name": "minirgbd", "root": "minirgbd", "train": "train"}],
        "model": {"backbone": backbone},
        "method": method,
        "training": {"steps": 1, "global_batch": 2},
    }
    assert parse_config(values, JobConfig, "test").mixture().depth == wanted
