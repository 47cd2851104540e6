"""The whole network against Hugging Face's ``VitPoseForPoseEstimation``, random weights, dense and with experts.

The names are translated here, by the table of the conversion script of transformers, and not by the product's reader:
an error in one cannot hide in the other.
"""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig, SimpleHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.skeletons.skeleton import Keypoint, Skeleton

INPUT_SIZE = (64, 48)
WIDTH, DEPTH, NUM_HEADS, NUM_POINTS = 32, 2, 4, 5
TASKS = ("coco", "aic", "mpii")

Decoder = Literal["classic", "simple"]


def _ours(decoder: Decoder, expert_share: float, eps: float) -> PoseModel:
    backbone = VitConfig(
        embed_dim=WIDTH, depth=DEPTH, num_heads=NUM_HEADS, expert_share=expert_share, layer_norm_eps=eps
    )
    head = ClassicHeadConfig(channels=256) if decoder == "classic" else SimpleHeadConfig()
    points = tuple(Keypoint(name=f"p{i}", union=f"p{i}") for i in range(NUM_POINTS))
    tasks = TASKS if expert_share else TASKS[:1]
    skeletons = {task: Skeleton(name=task, keypoints=points) for task in tasks}
    model = build_model(ModelConfig(backbone=backbone, head=head, input_size=INPUT_SIZE), skeletons)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape) * (0.3 if "backbone" in name else 0.1)
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return model.eval()


def _theirs(model: PoseModel, decoder: Decoder, eps: float) -> VitPoseForPoseEstimation:
    backbone = model.config.backbone
    assert isinstance(backbone, VitConfig)
    config = VitPoseConfig(
        backbone_config=VitPoseBackboneConfig(
            image_size=list(INPUT_SIZE),
            patch_size=[16, 16],
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=NUM_HEADS,
            mlp_ratio=4,
            num_experts=len(TASKS) if backbone.expert_dim else 1,
            part_features=backbone.expert_dim,
            layer_norm_eps=eps,
            out_indices=[DEPTH],
        ),
        num_labels=NUM_POINTS,
        use_simple_decoder=decoder == "simple",
    )
    theirs = VitPoseForPoseEstimation(config).eval()
    theirs.load_state_dict(_their_names(model.state_dict()))
    return theirs


def _their_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    translated: dict[str, Tensor] = {}
    head = {"deconv_layers.0": "deconv1", "deconv_layers.1": "batchnorm1", "deconv_layers.3": "deconv2"}
    head |= {"deconv_layers.4": "batchnorm2", "final_layer": "conv"}
    for name, tensor in weights.items():
        module, kind = name.rpartition(".")[::2]
        if module.startswith("heads."):
            _, task, layer = module.split(".", 2)
            if task == TASKS[0]:
                translated[f"head.{head[layer]}.{kind}"] = tensor
        elif module.startswith("backbone.blocks."):
            number, layer = module.removeprefix("backbone.blocks.").split(".", 1)
            prefix = f"backbone.encoder.layer.{number}"
            if layer == "attn.qkv":
                for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    translated[f"{prefix}.attention.attention.{part}.{kind}"] = rows
                continue
            for index, task in enumerate(TASKS):
                layer = layer.replace(f"experts.{task}", f"experts.{index}")
            renamed = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
            translated[f"{prefix}.{renamed.get(layer, layer)}.{kind}"] = tensor
        else:
            embeddings = "backbone.embeddings"
            top = {
                "backbone.pos_embed": f"{embeddings}.position_embeddings",
                f"backbone.patch_embed.proj.{kind}": f"{embeddings}.patch_embeddings.projection.{kind}",
                f"backbone.last_norm.{kind}": f"backbone.layernorm.{kind}",
            }
            translated[top[name]] = tensor
    return translated


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(1))


def _run(theirs: VitPoseForPoseEstimation, images: Tensor, **indices: Any) -> Tensor:
    with torch.no_grad():
        return theirs(images, **indices).heatmaps


@pytest.mark.parametrize("eps", [1e-6, 1e-12])
@pytest.mark.parametrize("decoder", ["classic", "simple"])
def test_dense_heatmaps(decoder: Decoder, eps: float) -> None:
    model = _ours(decoder, 0.0, eps)
    images = _images(3)
    expected = _run(_theirs(model, decoder, eps), images)
    assert expected.std() > 0.05, "a comparison of zeros would prove nothing"
    torch.testing.assert_close(model.predict(images, "coco"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-6, 1e-12])
@pytest.mark.parametrize("decoder", ["classic", "simple"])
def test_heatmaps_with_experts_in_a_mixed_batch(decoder: Decoder, eps: float) -> None:
    model = _ours(decoder, 0.25, eps)
    images = _images(5)
    theirs = _theirs(model, decoder, eps)
    # Hugging Face keeps the first head only, so rows of other datasets are compared through it.
    features = model.features(images, [("coco", 0, 2), ("aic", 2, 3), ("mpii", 3, 5)])
    expected = _run(theirs, images, dataset_index=torch.tensor([0, 0, 1, 2, 2]))
    assert expected.std() > 0.05
    torch.testing.assert_close(model.head("coco")(features), expected, rtol=0, atol=1e-5)
    other = _run(theirs, images, dataset_index=torch.tensor([1, 1, 1, 2, 2]))
    assert (other[:2] - expected[:2]).abs().max() > 5e-4, "the expert matters"


def test_the_default_eps_is_the_official_one_and_not_hugging_faces() -> None:
    images = _images(1) * 1e-4
    model = _ours("simple", 0.0, VitConfig(embed_dim=WIDTH, depth=1, num_heads=1).layer_norm_eps)
    with torch.no_grad():  # tokens of almost no variance, where eps decides
        model.backbone.patch_embed.proj.weight.mul_(1e-4)
        model.backbone.patch_embed.proj.bias.zero_()
        model.backbone.pos_embed.mul_(1e-3)
        for block in model.backbone.blocks:
            block.attn.proj.weight.zero_(), block.attn.proj.bias.zero_()
            block.mlp.fc2.weight.zero_(), block.mlp.fc2.bias.zero_()
    ours = model.predict(images, "coco")
    torch.testing.assert_close(ours, _run(_theirs(model, "simple", 1e-6), images), rtol=0, atol=1e-5)
    default = VitPoseBackboneConfig().layer_norm_eps
    assert default == 1e-12
    assert (ours - _run(_theirs(model, "simple", default), images)).abs().max() > 1e-2
