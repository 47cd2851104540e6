"""The loss of every label: against the methods' own losses, and through files."""

import numpy as np
import pytest
import torch

from posecore.errors import EvaluationError
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.label_losses import (
    LabelLossRecorder,
    label_losses,
    read_label_losses,
    recording_folder,
    save_label_losses,
)
from posecore.loading.evaluation import EvalCrops
from posecore.methods.batch import to_device
from posecore.methods.heatmap_loss import heatmap_loss
from posecore.methods.simcc_loss import simcc_loss
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.shards.corrections import CorrectedInstance, Corrections
from posecore.shards.store import open_store
from tests.support.depth_store import depth_store
from tests.support.tiny_store import write_store

SETTINGS = InferenceSettings(batch_size=8, num_threads=1)
TINY_VIT = {"kind": "vit", "embed_dim": 32, "depth": 2, "num_heads": 2}
RTMPOSE = {
    "backbone": {"kind": "cspnext", "widen": 0.125, "deepen": 0.167},
    "head": {"kind": "rtmcc", "token_dim": 16, "attention_dim": 8},
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("people"), "people", [2, 1, 3])


def model_for(store, architecture):
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"input_size": (64, 64), **architecture})
    return build_model(config, {"people": store.manifest.definition.skeleton}).eval()


def test_losses_of_labels_add_up_to_the_loss_of_a_batch(people):
    model = model_for(people, {"backbone": TINY_VIT, "head": {"kind": "classic", "channels": 8}})
    losses = label_losses(model, people, "people", SETTINGS)
    assert losses.shape == (6, 17)
    crops = EvalCrops(people, "people", (64, 64), batch_size=6, conventions=model.conventions["people"])
    batch = to_device(next(iter(crops)), torch.device("cpu"))
    targets, weights = model.codec("people").encode(batch.groups[0].keypoints_crop, batch.groups[0].weights)
    whole = heatmap_loss(model.predict(batch.images, "people"), targets, weights, 6)
    assert np.nansum(losses) / (6 * 17) == pytest.approx(whole.item(), rel=1e-5)


def test_nothing_is_kept_for_a_backward_pass(people):
    model = model_for(people, {"backbone": TINY_VIT, "head": {"kind": "classic", "channels": 8}})
    kept = []
    model.backbone.register_forward_hook(lambda module, inputs, output: kept.append(output.requires_grad))
    label_losses(model, people, "people", SETTINGS)
    assert kept == [False]


def test_a_model_that_takes_depth_is_given_it(tmp_path):
    store = depth_store(tmp_path, 3, "people")
    model = model_for(store, {"backbone": TINY_VIT | {"depth_input": True}, "head": {"kind": "classic", "channels": 8}})
    torch.nn.init.normal_(model.backbone.patch_embed.depth_proj.weight)
    seeing = label_losses(model, store, "people", SETTINGS)
    torch.nn.init.zeros_(model.backbone.patch_embed.depth_proj.weight)
    blind = label_losses(model, store, "people", SETTINGS)
    assert (seeing != blind)[[0, 2]].any(axis=1).all()


def test_simcc_losses_of_labels_add_up_as_well(people):
    model = model_for(people, RTMPOSE)
    losses = label_losses(model, people, "people", SETTINGS)
    crops = EvalCrops(people, "people", (64, 64), batch_size=6, conventions=model.conventions["people"])
    batch = to_device(next(iter(crops)), torch.device("cpu"))
    codec = model.codec("people")
    targets, weights = codec.encode(batch.groups[0].keypoints_crop, batch.groups[0].weights)
    whole = simcc_loss(codec, model.predict(batch.images, "people"), targets, weights, 6)
    assert np.nansum(losses) / (6 * 17) == pytest.approx(whole.item(), rel=1e-4)


def test_a_recorder_keeps_a_pass_of_every_head(people, tmp_path):
    model = model_for(people, {"backbone": TINY_VIT, "head": {"kind": "classic", "channels": 8}})
    recorder = LabelLossRecorder(stores={"people": people}, folder=str(tmp_path), settings=SETTINGS)
    recorder(model, 200)
    recorder(model, 400)
    passes = read_label_losses(recording_folder(tmp_path, "people"), people)
    assert np.array_equal(passes, np.stack([label_losses(model, people, "people", SETTINGS)] * 2), equal_nan=True)


def test_passes_come_back_in_order_and_only_for_the_same_labels(people, tmp_path):
    first, second = np.zeros((6, 17), np.float32), np.ones((6, 17), np.float32)
    save_label_losses(tmp_path, 1000, second, people)
    save_label_losses(tmp_path, 200, second, people)
    save_label_losses(tmp_path, 200, first, people)
    assert read_label_losses(tmp_path, people)[:, 0, 0].tolist() == [0.0, 1.0]
    with pytest.raises(EvaluationError, match="no recorded losses"):
        read_label_losses(tmp_path / "none", people)
    dropped = Corrections(
        dataset="people", split="train", dataset_digest=people.manifest.digest, made_by={},
        instances=(CorrectedInstance(image="0", instance="0-0", unlabelled=("nose",)),),
    )  # fmt: skip
    corrected = open_store(people.location, corrections=dropped)
    with pytest.raises(EvaluationError, match="another state of the labels"):
        read_label_losses(tmp_path, corrected)
    model = model_for(people, {"backbone": TINY_VIT, "head": {"kind": "classic", "channels": 8}})
    assert np.isnan(label_losses(model, corrected, "people", SETTINGS)[0]).tolist() == [True] + [False] * 16
