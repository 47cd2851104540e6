"""Embedding head and prototype heatmaps against arrays of the published code; recipe in ``references/README.md``."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.skeletons.skeleton import Keypoint, Skeleton

REFERENCE = Path(__file__).parent / "references" / "posebh.npz"
DATASETS = {"coco": 17, "aic": 14, "mpii": 16, "ap10k": 17, "apt36k": 17, "wholebody": 133}
PROTOTYPES = "kpt_prototype.prototypes"


def _wave(index: int, shape: tuple[int, ...], scale: float, shift: float = 0.0) -> Tensor:
    phase = (np.arange(np.prod(shape)) + 1.0 + index) ** 1.5
    return torch.from_numpy((shift + scale * np.sin(phase)).reshape(shape).astype(np.float32))


def _fill(name: str, index: int, shape: tuple[int, ...]) -> Tensor:
    if name == PROTOTYPES:
        return _wave(index, shape, 1.0)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
        return _wave(index, shape, 0.5, 1.0)
    return _wave(index, shape, 0.1 if len(shape) == 1 else 0.05)


def _model() -> PoseModel:
    config = ModelConfig(
        backbone=VitConfig(embed_dim=16, depth=1, num_heads=1),
        head=SimpleHeadConfig(),
        input_size=(48, 32),
        embedding=EmbeddingConfig(),
    )
    skeletons = {
        name: Skeleton(name=name, keypoints=tuple(Keypoint(name=str(i), union=f"{name}{i}") for i in range(count)))
        for name, count in DATASETS.items()
    }
    model = build_model(config, skeletons).eval()
    state = model.embedding_head.state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")}
    shapes[PROTOTYPES] = (sum(DATASETS.values()), 3, 64)
    filled = {name: _fill(name, index, shapes[name]) for index, name in enumerate(sorted(shapes))}
    parts = filled.pop(PROTOTYPES).split(list(DATASETS.values()))
    model.prototypes.load_state_dict(dict(zip(DATASETS, parts, strict=True)))
    model.embedding_head.load_state_dict(state | filled)
    return model


def test_embeddings_and_heatmaps_are_the_published_ones() -> None:
    model, reference = _model(), np.load(REFERENCE)
    features = _wave(0, (1, 16, 3, 2), 1.0)
    with torch.no_grad():
        embeddings = model.embedding_head(features)
        heatmaps = torch.cat([model.prototype_heatmaps(features, dataset) for dataset in DATASETS], dim=1)
    np.testing.assert_allclose(embeddings.numpy(), reference["embeddings"], atol=1e-6)
    np.testing.assert_allclose(heatmaps.numpy(), reference["heatmaps"], atol=1e-5)
    assert reference["heatmaps"].std() > 0.05, "the reference can tell maps apart"
