"""Bottleneck adapters against AdaptFormer's formula on a transformer written out by hand (arXiv 2205.13535, section 3).

``y = x' + MLP(LN(x')) + s · (ReLU(x' W_down + b_down) W_up + b_up)``, where x' has been through attention, and s = 0.1;
W_up and both biases begin at zero. The hand-written network is of float64 and has nothing but the tensors in common.
"""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from posecore.methods.adaptation import Adaptation
from posecore.methods.batch import to_device
from posecore.models.saving import save_model
from posecore.schema import CropBatch
from tests.parity.recipes.comparison import SHORT, check, make_steps, same_terms, short_training, without_key_biases
from tests.parity.recipes.restated import Trainer, heatmap_targets, joints_mse
from tests.parity.recipes.toy import batches, labels, pixels, posecore_run
from tests.support.tiny_training import INPUT_SIZE, POINTS, tiny_adaptation, tiny_parent

WIDTH, BLOCKS, HEADS, DIM = 5, 2, 2, 32
MAP = (16, 12)
DOGS = {"dogs": POINTS["dogs"]}


def adapted() -> Adaptation:
    """A parent of people and horses, adapted to dogs by adapters that have not learned yet."""
    return tiny_adaptation({"kind": "adapter", "width": WIDTH}, replayed=())


class ByHand(nn.Module):
    """A transformer with adapters, and deconvolution heads; tensors are named as in files."""

    def __init__(self, tensors: dict[str, Tensor], learning: set[str], scale: float = 0.1) -> None:
        super().__init__()
        self.scale, self.learning = scale, learning
        self.tensors = {name: tensor.detach().double().clone() for name, tensor in tensors.items()}
        for name in learning:
            self.tensors[name] = self.tensors[name].requires_grad_()

    def named_parameters(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def, override]
        """What learns, under the names that the real method gives it."""
        return ((f"method.model.{name}", self.tensors[name]) for name in sorted(self.learning))

    def named_buffers(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def, override]
        return ((f"method.model.{n}", t) for n, t in self.tensors.items() if "heads.dogs." in n and "running_" in n)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def attention(self, x: Tensor, name: str) -> Tensor:
        size = DIM // HEADS
        queries, keys, values = self.linear(x, f"{name}.qkv").split(DIM, dim=-1)
        seen = []
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            weights = torch.softmax(queries[..., own] @ keys[..., own].mT / math.sqrt(size), -1)
            seen.append(weights @ values[..., own])
        return self.linear(torch.cat(seen, -1), f"{name}.proj")

    def features(self, images: Tensor) -> Tensor:
        x = F.conv2d(
            images.double(),
            self.tensors["backbone.patch_embed.proj.weight"],
            self.tensors["backbone.patch_embed.proj.bias"],
            stride=16,
            padding=2,
        )
        grid = x.shape[2:]
        position = self.tensors["backbone.pos_embed"]
        x = x.flatten(2).mT + position[:, 1:] + position[:, :1]
        for number in range(BLOCKS):
            block = f"backbone.blocks.{number}"
            x = x + self.attention(self.norm(x, f"{block}.norm1"), f"{block}.attn")
            hidden = self.linear(self.norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            narrow = self.linear(x, f"{block}.adapter.down_proj")
            added = self.linear(narrow * (narrow > 0), f"{block}.adapter.up_proj")
            x = x + self.linear(hidden, f"{block}.mlp.fc2") + self.scale * added
        return self.norm(x, "backbone.last_norm").mT.unflatten(2, grid)

    def head(self, x: Tensor, name: str, learns: bool) -> Tensor:
        for layer in (0, 3):
            x = F.conv_transpose2d(x, self.tensors[f"heads.{name}.deconv_layers.{layer}.weight"], stride=2, padding=1)
            x = self.batch_norm(x, f"heads.{name}.deconv_layers.{layer + 1}", learns)
            x = x * (x > 0)
        weight, bias = (self.tensors[f"heads.{name}.final_layer.{part}"] for part in ("weight", "bias"))
        return torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x) + bias[:, None, None]

    def batch_norm(self, x: Tensor, name: str, learns: bool) -> Tensor:
        mean, variance = self.tensors[f"{name}.running_mean"], self.tensors[f"{name}.running_var"]
        if learns:
            count = x.numel() / x.shape[1]
            batch_mean, batch_variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                mean += 0.1 * (batch_mean - mean)
                variance += 0.1 * (batch_variance * count / (count - 1) - variance)
            mean, variance = batch_mean, batch_variance
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return x * self.tensors[f"{name}.weight"][:, None, None] + self.tensors[f"{name}.bias"][:, None, None]


def by_hand(method: Adaptation, scale: float = 0.1) -> ByHand:
    learning = {name for name in method.model.state_dict() if ".adapter." in name or name.startswith("heads.dogs.")}
    learning = {name for name in learning if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    return ByHand(method.model.state_dict(), learning, scale)


def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
    assert isinstance(network, ByHand)
    (group,) = batch.groups
    maps = network.head(network.features(pixels(batch)), "dogs", learns=True)
    targets, weights = heatmap_targets(*labels(group), "udp", INPUT_SIZE, MAP, 2.0)
    return joints_mse(maps, targets, weights, len(batch.images))


def crops() -> CropBatch:
    return next(batches(DOGS, INPUT_SIZE, 4))


def moved(method: Adaptation) -> Adaptation:
    """Every tensor that learns, biases included, away from where it began."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return method


@torch.no_grad()
def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_before_they_learn_adapters_add_nothing_and_the_first_layer_is_drawn_as_published() -> None:
    model, parent = adapted().model.eval(), tiny_parent().eval()
    images = pixels(crops())
    for head in ("people", "horses"):
        assert torch.equal(model.predict(images, head), parent.predict(images, head))
    bound = 1 / math.sqrt(DIM)  # kaiming_uniform_ with a = √5
    for block in model.backbone.blocks:
        drawn = block.adapter.down_proj.weight.detach()
        assert 0.8 * bound < drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_their_number_is_that_of_the_formula() -> None:
    added = sum(p.numel() for p in adapted().model.backbone.parameters()) - sum(
        p.numel() for p in tiny_parent().backbone.parameters()
    )
    assert added == BLOCKS * (2 * DIM * WIDTH + WIDTH + DIM)


def test_what_they_compute() -> None:
    method = moved(adapted()).eval()
    images, network = pixels(crops()), by_hand(method)
    features, wanted = method.model.features(images, []), network.features(images)
    assert apart(features, wanted) <= 1e-5
    for head in ("dogs", "people", "horses"):
        maps, expected = method.model.predict(images, head), network.head(wanted, head, learns=False)
        assert apart(maps, expected) <= 1e-5


def test_what_is_saved_computes_the_same_by_hand(tmp_path: Path) -> None:
    """Nothing is merged: a bottleneck with a ReLU is no linear layer, and stays in the model and in its file."""
    model = moved(adapted()).model.eval()
    (file,) = save_model(model, tmp_path / "model").glob("*.safetensors")
    network, images = ByHand(load_file(file), set()), pixels(crops())
    maps, expected = model.predict(images, "dogs"), network.head(network.features(images), "dogs", learns=False)
    assert apart(maps, expected) <= 1e-5


def test_gradients_reach_adapters_and_the_new_head_alone() -> None:
    method = moved(adapted()).train()
    network, batch = by_hand(method), crops()
    ours, theirs = method(to_device(batch, torch.device("cpu"))), {"loss/dogs": loss(network, batch, 0)}
    assert {name for name, p in method.named_parameters() if p.requires_grad} == dict(network.named_parameters()).keys()
    same_terms(method, ours, network, theirs, without_key_biases)
    ours["loss/dogs"].backward()
    with_gradient = {name for name, p in method.named_parameters() if p.grad is not None}
    assert with_gradient == dict(network.named_parameters()).keys()


def test_eight_steps(tmp_path: Path) -> None:
    method = adapted()
    network, start = by_hand(method), copy.deepcopy(method.state_dict())
    training, published = short_training(4)
    state = posecore_run(tmp_path, method, training, DOGS)
    trainer = Trainer(network, published, SHORT)
    make_steps(trainer, network, loss, batches(DOGS, INPUT_SIZE, 4))
    check(state, trainer, start, without_key_biases)
    assert sum(".adapter." in name for name in trainer.weights) == 4 * BLOCKS
    rest = [name for name in start if name not in trainer.weights and name not in trainer.statistics]
    kept = {**state.weights, **state.buffers}
    assert all(torch.equal(kept[name], start[name]) for name in rest if "num_batches" not in name and name in kept)


@pytest.mark.parametrize("scale", [0.1001, 1.0])
def test_a_wrong_scale_would_be_noticed(scale: float) -> None:
    method = moved(adapted()).eval()
    images = pixels(crops())
    features, wanted = method.model.features(images, []), by_hand(method, scale).features(images)
    assert apart(features, wanted) > 1e-5
