import pytest
import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.weights.posebh import POSEBH
from posecore.models.weights.published_heads import SKELETONS
from posecore.models.weights.vitpose import VITPOSE
from posecore.skeletons.library import load_skeleton

DATASETS = {"coco": 17, "aic": 14, "mpii": 16, "ap10k": 17, "apt36k": 17, "coco_wholebody": 133}
PROTOTYPES = "proto_head.kpt_prototype.prototypes"
CLUSTERS = "proto_head.cluster_prototype.prototypes"


def _model() -> PoseModel:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=VitConfig(embed_dim=16, depth=1, num_heads=1, expert_share=0.25),
        head=ClassicHeadConfig(channels=4),
        input_size=(64, 48),
        embedding=EmbeddingConfig(dim=8, channels=4),
    )
    return build_model(config, {name: load_skeleton(SKELETONS[name]) for name in DATASETS})


def _published(model: PoseModel) -> dict[str, Tensor]:
    """The file as its authors would have written it."""
    return POSEBH.write(model).tensors | {CLUSTERS: torch.zeros(96, 3, 8)}


def test_names_are_the_published_ones() -> None:
    names = {name for name in _published(_model()) if name.startswith("proto_head.")}
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    expected = {f"deconv_layers.{i}.weight" for i in (0, 3)} | {f"deconv_layers.{i}.{n}" for i in (1, 4) for n in norm}
    expected |= {f"neck.conv{i}.{n}" for i in (1, 2) for n in ("weight", "bias")}
    expected |= {f"neck.bn{i}.{n}" for i in (1, 2) for n in norm}
    expected |= {"neck.downsample.0.weight"} | {f"neck.downsample.1.{n}" for n in norm}
    expected |= {f"head.{i}.{n}" for i in (0, 3) for n in ("weight", "bias")} | {f"head.1.{n}" for n in norm}
    assert names == {f"proto_head.{name}" for name in expected} | {PROTOTYPES, CLUSTERS}


def test_a_file_comes_back_as_it_went_out_but_for_the_clusters() -> None:
    model = _model()
    translated = POSEBH.read(_published(model), ())
    state = model.state_dict()
    assert translated.heads == DATASETS
    assert translated.tensors.keys() == state.keys()
    assert all(torch.equal(translated.tensors[name], tensor) for name, tensor in state.items())
    assert translated.dropped.keys() == {CLUSTERS}
    assert translated.architecture["embedding"] == {"dim": 8, "channels": 4, "prototypes_per_point": 3}
    assert translated.architecture["head"] == {"kind": "classic", "channels": 4}


def test_prototypes_follow_one_another_in_the_order_of_the_heads() -> None:
    published = _published(_model())
    published[PROTOTYPES] = torch.arange(214.0)[:, None, None].expand(214, 3, 8)
    translated = POSEBH.read(published, ())
    firsts = {name: int(translated.tensors[f"prototypes.{name}"][0, 0, 0]) for name in DATASETS}
    assert firsts == {"coco": 0, "aic": 17, "mpii": 31, "ap10k": 47, "apt36k": 64, "coco_wholebody": 81}


def test_a_file_without_prototypes_is_read_without_the_embedding() -> None:
    published = _published(_model())
    del published[PROTOTYPES]
    translated = POSEBH.read(published, ())
    assert "embedding" not in translated.architecture
    assert translated.dropped.keys() == {name for name in published if name.startswith("proto_head.")}
    assert "prototypes were taken away" in translated.dropped["proto_head.neck.conv1.weight"]
    assert len(translated.tensors) + len(translated.dropped) == len(published)


def test_a_head_split_off_from_its_neighbours_is_read_without_the_embedding() -> None:
    published = {name: t for name, t in _published(_model()).items() if not name.startswith("associate_")}
    expert = "backbone.blocks.0.mlp.experts.0."
    for name in ("weight", "bias"):
        shared = published[f"backbone.blocks.0.mlp.fc2.{name}"]
        published[f"backbone.blocks.0.mlp.fc2.{name}"] = torch.cat([shared, published[expert + name]])
    translated = POSEBH.read(published, ("coco",))
    assert translated.heads == {"coco": 17}
    assert "of 214 points, its heads of 17" in translated.dropped[PROTOTYPES]


def test_unknown_and_missing_parts_are_refused_by_name() -> None:
    published = _published(_model())
    with pytest.raises(CheckpointError, match=r"proto_head\.enc_layer\.weight"):
        POSEBH.read(published | {"proto_head.enc_layer.weight": torch.zeros(1)}, ())
    del published["proto_head.deconv_layers.0.weight"]
    with pytest.raises(CheckpointError, match="prototypes but no whole embedding head"):
        POSEBH.read(published, ())


def test_the_two_layouts_know_their_own_files() -> None:
    model = _model()
    assert POSEBH.recognises(POSEBH.write(model).tensors)
    assert not VITPOSE.recognises(POSEBH.write(model).tensors)
    plain = VITPOSE.write(model)
    assert not POSEBH.recognises(plain.tensors)
    assert VITPOSE.recognises(plain.tensors)
    assert set(plain.dropped) == {n for n in model.state_dict() if n.startswith(("embedding_head.", "prototypes."))}
    with pytest.raises(CheckpointError, match="layout vitpose"):
        POSEBH.write(build_model(model.config.model_copy(update={"embedding": None}), model.skeletons))
