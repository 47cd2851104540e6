"""An adaptation's training process on real shards, without Ray: what it leaves is an ordinary model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from posecore.conventions import Conventions
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.methods.adaptation import AdaptationConfig, AdaptationTerms
from posecore.methods.strategies import Roles
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder, StartFolder
from posecore.models.warm_start import warm_start
from posecore.shards.store import ShardStore
from posecore.skeletons.library import load_skeleton
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig
from posecore.workflows.adaptation.worker import AdaptationWorker
from tests.support.checkpoints import newest
from tests.support.dot_worlds import HANDS, hands_definition, hands_store
from tests.support.low_rank import merge_low_rank

SIZE = (64, 48)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return hands_store(tmp_path_factory.mktemp("hands"), hands_definition())


@pytest.mark.parametrize("strategy", ["expert", "dora", "prototypes", {"kind": "adapter", "width": 4}], ids=str)
def test_a_child_is_an_ordinary_model_that_still_knows_its_parents_points(
    strategy: Any, store: ShardStore, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = VitConfig(embed_dim=16, depth=2, num_heads=2)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=SIZE)
    parent = build_model(config, {"coco": load_skeleton("coco17")}).eval()
    start = build_model(config, {"coco": load_skeleton("coco17"), "hands": HANDS})
    warm_start(start, parent)
    method = AdaptationConfig(
        terms=AdaptationTerms.model_validate({"strategy": strategy}),
        roles=Roles("hands"),
        parent=ModelFolder.at(save_model(parent, tmp_path / "parent")),
        old_heads=("coco",),
    )
    worker = AdaptationWorker(
        model=start.config,
        method=method,
        weights=StartFolder.at(save_model(start, tmp_path / "start")),
        training=TrainingConfig(steps=3, global_batch=4, progress=False),
        loading=LoadingConfig(mixture=MixtureConfig(entries=(MixtureEntry(name="hands"),)), num_threads=1),
        stores={"hands": str(store.location)},
        parent="models:/body/1",
        card=start.card,
    )
    context = LocalContext(tmp_path / "run")
    worker(context)
    checkpoint = newest(context)
    child = worker.trained_model(checkpoint)
    merge_low_rank(child)
    beside = worker.kept_files(checkpoint, tmp_path)
    trained = worker.trained(checkpoint)
    read = load_model(trained.save(tmp_path / "child", trained.card))
    assert all(torch.equal(tensor, child.state_dict()[name]) for name, tensor in read.state_dict().items())
    assert trained.card == child.card
    assert all(parameter.is_meta for parameter in trained.model.parameters()), "nothing stays in memory"
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    for head, skeleton in (("coco", parent.skeletons["coco"]), ("hands", HANDS)):
        assert read.predict(images, head).shape == (2, skeleton.num_keypoints, *config.heatmap_size)
        assert torch.equal(read.predict(images, head), child.predict(images, head))
    assert not torch.equal(read.predict(images, "hands"), start.eval().predict(images, "hands"))
    if strategy in ("expert", "prototypes"):
        torch.testing.assert_close(read.predict(images, "coco"), parent.predict(images, "coco"))
    if beside:
        tensors = load_file(beside[1])
        assert len(tensors) == 3 * 4 * 2 + len(child.heads["hands"].state_dict())
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    names = [path.name for path in beside]
    assert names == (["adapter_config.json", "adapter_model.safetensors"] if strategy == "dora" else [])


def test_crops_are_cut_as_the_head_that_learns_from_them_reads_them(tmp_path: Path) -> None:
    """A parent keeps what its heads were trained under, whatever data it meets."""
    config = ModelConfig(backbone=VitConfig(embed_dim=16, depth=2, num_heads=2), input_size=SIZE)
    store = hands_store(tmp_path / "hands", hands_definition())
    cut = {}
    for learned_as in ("udp", "msra"):
        card = build_model(config, {"hands": HANDS}, {"hands": Conventions(codec=learned_as)}).card
        worker = AdaptationWorker(
            model=config,
            method=AdaptationConfig(
                terms=AdaptationTerms.model_validate({"strategy": "full"}),
                roles=Roles("hands"),
                parent=ModelFolder(source="nowhere"),
            ),
            training=TrainingConfig(steps=1, global_batch=4, progress=False),
            loading=LoadingConfig(mixture=MixtureConfig(entries=(MixtureEntry(name="hands"),)), num_threads=1),
            stores={},
            parent="models:/body/1",
            card=card,
        )
        batch = next(iter(worker.batches({"hands": store}, LocalContext(tmp_path / "run"), 0, card.conventions)))
        cut[learned_as] = batch.groups[0].keypoints_crop
    assert np.abs(cut["udp"] - cut["msra"]).max() > 0.1
