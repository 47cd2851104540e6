"""Pre-training from raw images to a registered encoder, and from there into fine-tuning."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import save_file

from pipelines.pretrain import main
from posecore.errors import CheckpointError
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.methods.masked_autoencoder import MaskedAutoencoderConfig, pretraining_model
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.mae_decoder import MaeDecoderConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import initial_weights
from posecore.models.weights.initial import WeightsConfig
from posecore.models.weights.mae import MAE
from posecore.models.weights.read import read_weights
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore
from posecore.skeletons.library import load_skeleton
from posecore.synth.writers import write_dataset
from posecore.training.context import LocalContext, TrainContext
from posecore.training.engine import DeepSpeedEngineConfig, EngineConfig, TorchEngineConfig
from posecore.training.loop import TrainingConfig
from posecore.training.optimizer import OptimizerConfig
from posecore.workflows.pretraining.judge import ReconstructionJudge
from posecore.workflows.pretraining.worker import PretrainingWorker
from tests.support.watched_training import STEPS, assert_same_bits, write_stores

METHOD = MaskedAutoencoderConfig(decoder=MaeDecoderConfig(depth=1, width=16, num_heads=2))


@dataclass(frozen=True, kw_only=True)
class StoppedWorker(PretrainingWorker):
    """Gives up when the batch of one step is due."""

    stop_at: int

    def batches(self, stores: Mapping[str, ShardStore], context: TrainContext, start: int) -> Iterable[CropBatch]:
        for batch in PretrainingWorker.batches(self, stores, context, start):
            if batch.step == self.stop_at:
                raise CheckpointError("stopped by the test")
            yield batch


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_stores(tmp_path_factory.mktemp("stores"))


def worker(stores: dict[str, str], engine: EngineConfig) -> PretrainingWorker:
    unlabelled = UnlabelledConfig(unit="images")
    return PretrainingWorker(
        model=ModelConfig(backbone=VitConfig(embed_dim=32, depth=2, num_heads=2, drop_path=0.2), input_size=(64, 64)),
        method=METHOD,
        training=TrainingConfig(
            steps=STEPS,
            global_batch=4,
            seed=5,
            optimizer=OptimizerConfig(layer_decay=1.0),
            engine=engine,
            checkpoint_every=3,
            evaluate_every=5,
            progress=False,
        ),
        loading=LoadingConfig(
            mixture=MixtureConfig(entries=tuple(MixtureEntry(name=name) for name in stores)),
            unlabelled=unlabelled,
            num_threads=1,
        ),
        stores=stores,
        evaluate=ReconstructionJudge(stores=stores, unlabelled=unlabelled, num_threads=1),
    )


@pytest.mark.parametrize("engine", [TorchEngineConfig(), DeepSpeedEngineConfig(zero_stage=3)], ids=["torch", "zero-3"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stores: dict[str, str], engine: EngineConfig) -> None:
    whole = worker(stores, engine)
    whole(LocalContext(tmp_path / "alone"))
    stopped = StoppedWorker(
        **{name: getattr(whole, name) for name in PretrainingWorker.__dataclass_fields__}, stop_at=5
    )
    with pytest.raises(CheckpointError, match="stopped by the test"):
        stopped(LocalContext(tmp_path / "resumed"))
    metrics = whole(LocalContext(tmp_path / "resumed")).metrics
    last = f"checkpoints/step_{STEPS:08d}_*"
    (alone,), (resumed,) = (list((tmp_path / run).glob(last)) for run in ("alone", "resumed"))
    assert_same_bits(alone, resumed)
    assert {"loss/people", "loss/animals", "people/masked_error", "animals/masked_error"} <= metrics.keys()
    assert 0.5 < metrics["people/masked_error"] < 2
    method = whole.trained_method(alone)
    assert method.num_visible == 4


def encoder() -> PoseModel:
    config = ModelConfig(backbone=VitConfig(embed_dim=64, depth=2, num_heads=2, drop_path=0.2), input_size=(64, 64))
    model = pretraining_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def test_fine_tuning_starts_with_the_features_of_the_export(tmp_path: Path) -> None:
    pretrained = encoder()
    save_model(pretrained, tmp_path)
    weights = WeightsConfig(source=str(tmp_path))
    images = torch.randn(2, 3, 64, 64)
    same = build_model(pretrained.config, {"people": load_skeleton("coco17")}).eval()
    initial_weights(same, weights)
    assert torch.equal(same.backbone(images), pretrained.backbone(images))
    # As published: other padding and another, no longer square input. Only the position embedding is resampled.
    backbone = pretrained.config.backbone.model_copy(update={"patch_padding": 2, "expert_share": 0.25})
    config = pretrained.config.model_copy(update={"backbone": backbone, "input_size": (128, 96)})
    other = build_model(config, {"people": load_skeleton("coco17"), "animals": load_skeleton("ap10k17")}).eval()
    initial_weights(other, weights)
    assert other.backbone.pos_embed.shape == (1, 1 + 48, 64)
    for task in ("people", "animals"):
        expert = other.backbone.blocks[1].mlp.experts[task].weight
        assert torch.equal(expert, pretrained.backbone.blocks[1].mlp.fc2.weight[-16:])


def test_the_export_in_the_layout_of_masked_autoencoders(tmp_path: Path) -> None:
    pretrained = encoder()
    written = MAE.write(pretrained).tensors
    assert written["pos_embed"].shape == (1, 1 + 16, 64)
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, tmp_path / "encoder.safetensors")
    read = read_weights(tmp_path / "encoder.safetensors", expect="vit-nano")
    assert (read.input_size, read.config.backbone.patch_padding) == ((64, 64), 0)
    ours, theirs = pretrained.backbone.state_dict(), read.backbone.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]) == (not name.startswith("last_norm.")), name


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    write_dataset("coco", folder / "coco", num_train=12, num_val=6, image_size=(128, 128), seed=0)
    values = {
        "name": "tiny-encoder",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder),
        "datasets": [{"name": "people", "definition": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "model": {"backbone": "vit-nano", "input_size": [64, 48]},
        "method": {"decoder": {"depth": 1, "width": 16, "num_heads": 2}},
        "training": {
            "steps": 4,
            "global_batch": 8,
            "optimizer": {"layer_decay": 1.0},
            "engine": {"kind": "deepspeed", "zero_stage": 2},
            "progress": False,
        },
        "pictures": 3,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_whole_job(run_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(run_file)]) == 0
    said = capfd.readouterr().out
    steps = ["ingest:people:train", "ingest:people:val", "audit", "train", "reconstruct:people", "register"]
    assert re.findall(r"^(\S+) +ran ", said, re.MULTILINE) == steps

    folder = Path(re.findall(r"\(folder (\S+)\)", said)[0])
    model = load_model(folder)
    assert not model.skeletons
    assert model.card.licenses.keys() == {"people"}
    assert model.card.lineage["step"] == 4
    picture = cv2.imread(re.findall(r"picture (\S+)", said)[0])
    assert picture.shape == (24 + 3 * (3 * 64 + 4), 3 * (3 * 48 + 4), 3)

    client = MlflowClient(f"sqlite:///{run_file.parent / 'run' / 'mlflow.db'}")
    version = client.get_model_version("tiny-encoder", "1")
    assert any(tag.startswith("dataset.training.coco/train") for tag in version.tags), version.tags
    stored = client.list_logged_model_artifacts(version.source.rsplit("/", 1)[-1], "artifacts/model")
    assert {Path(file.path).name for file in stored} == {"model.json", "model.safetensors"}
    trained = client.get_run(version.tags["training_run_id"])
    assert "loss/people" in trained.data.metrics

    assert main(["--config", str(run_file)]) == 0
    assert re.findall(r"^(\S+) +reused ", capfd.readouterr().out, re.MULTILINE) == steps


def test_settings_that_belong_to_labels_are_refused(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override, reason in (
        ("datasets.0.augment={}", "augment and head belong to labels"),
        ("training.optimizer.layer_decay=0.75", "layer_decay: no layer is trained yet"),
        ("training.compile=true", "training.compile: pre-training runs the backbone on parts"),
        ("model.backbone=vitpose-plus-base", "images without labels belong to no expert"),
        ("method.masking_ratio=0.99", "leaves 0 of the 12 patches"),
    ):
        assert main(["--config", str(run_file), "--set", override]) in (1, 2)
        assert reason in capsys.readouterr().err
