"""What keeps the old: the parent's answers, and its weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posecore.methods.adaptation import Adaptation, AdaptationTerms
from posecore.methods.batch import DeviceBatch, to_device
from posecore.methods.prototypes import WEIGHTS
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from posecore.training.optimizer import AnchoredAdamW, OptimizerConfig, make_optimizer, parameter_groups
from tests.support.checkpoints import load_checkpoint, newest
from tests.support.tiny_training import Stopped, stop_at, tiny_adaptation, tiny_batches, tiny_parent, tiny_training

CPU = torch.device("cpu")


def _batch() -> DeviceBatch:
    return to_device(next(tiny_batches(1, rank=0, world_size=1)), CPU)


def _moved(**fields: Any) -> Adaptation:
    """A child that is away from its parent."""
    method = tiny_adaptation(distillation=0.5, old_heads=("people", "horses"), **fields)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return method.eval()


@pytest.mark.parametrize("expert_share", [0.0, 0.25])
def test_old_heads_are_compared_on_every_crop_of_the_batch(expert_share: float) -> None:
    """Half the mean square of the difference from the parent, by way of each head's own expert."""
    method = _moved(strategy="full", expert_share=expert_share)
    parent, batch = tiny_parent(expert_share).eval(), _batch()
    losses = method(batch)
    for head in ("people", "horses"):
        difference = method.model.predict(batch.images, head) - parent.predict(batch.images, head)
        assert losses[f"kept/{head}"].item() == pytest.approx(0.5 * difference.square().mean().item(), rel=1e-5)
        assert losses[f"kept/{head}"] > 1e-4


def test_a_child_that_has_not_learned_has_nothing_to_keep() -> None:
    method = tiny_adaptation("full", distillation=1.0, old_heads=("people", "horses")).eval()
    losses = method(_batch())
    assert losses["kept/people"].item() == pytest.approx(0.0, abs=1e-9)
    assert losses["kept/horses"].item() == pytest.approx(0.0, abs=1e-9)
    assert losses["loss/dogs"] > 0


def test_labels_count_as_without_a_parent() -> None:
    with_parent, without = tiny_adaptation("full", distillation=1.0, old_heads=("people",)), tiny_adaptation("full")
    kept, alone = with_parent.eval()(_batch()), without.eval()(_batch())
    assert kept.keys() - alone.keys() == {"kept/people"}
    assert all(torch.equal(kept[name], loss) for name, loss in alone.items())


def test_keeping_moves_shared_weights_and_no_statistics_of_old_heads() -> None:
    method = _moved(strategy="full", replayed=()).train()
    before = {name: buffer.clone() for name, buffer in method.model.heads["people"].named_buffers()}
    method(_batch())["kept/people"].backward()
    assert method.model.backbone.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in method.model.heads["people"].parameters())
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.model.heads["people"].named_buffers())


def test_a_backbone_at_rest_gets_no_gradient_from_what_is_kept() -> None:
    method = _moved(strategy="two-stage", expert_share=0.25).train()
    method.begin_step(0, 100)
    sum(method(_batch()).values()).backward()
    assert all(parameter.grad is None for parameter in method.model.backbone.parameters())


def test_the_backbone_of_a_two_stage_adaptation_rests_until_its_step() -> None:
    method = tiny_adaptation({"kind": "two-stage", "backbone_from": 0.5}).train()
    frozen = [method.begin_step(step, 10) for step in (0, 4, 5, 9, 4)]
    assert frozen == [frozenset({"method.model.backbone."})] * 2 + [frozenset()] * 2 + frozen[:1]
    backbone = [parameter for name, parameter in method.named_parameters() if name.startswith(next(iter(frozen[0])))]
    assert len(backbone) > 20
    assert tiny_adaptation("full").begin_step(0, 10) == frozenset()
    for step, in_training in ((0, False), (5, True)):  # at rest it drops no path and moves no statistic
        method.begin_step(step, 10)
        assert {module.training for module in method.model.backbone.modules()} == {in_training}
        assert {module.training for module in method.model.heads["dogs"].modules()} == {True}
        method.eval()
        assert not any(module.training for module in method.modules())
        method.train()


def test_the_parent_is_no_part_of_what_is_trained_or_saved() -> None:
    with_parent, without = tiny_adaptation("full", distillation=1.0), tiny_adaptation("full")
    assert with_parent.state_dict().keys() == without.state_dict().keys()


@pytest.mark.parametrize("strategy", ["frozen-backbone", "expert", "prototypes"])
def test_distillation_where_nothing_can_be_forgotten_is_refused(strategy: str) -> None:
    with pytest.raises(ValueError, match="nothing to keep; set it to 0"):
        AdaptationTerms.model_validate({"strategy": strategy, "distillation": 1.0})


def test_the_transfer_of_prototypes_weighs_as_published_what_is_learned_already() -> None:
    """uyoung-jeong/PoseBH @ 8f03438, InterHand2.6M and 3DPW: 1.25e-5 · (0.01, 0.001), 1.25e-5, 0."""
    strategy = {"kind": "prototypes"}
    transfer = tiny_adaptation(strategy, embedding=EmbeddingConfig()).method.settings.weights
    assert (transfer.contrast, transfer.distance) == pytest.approx((1.25e-5 * 0.01, 1.25e-5 * 0.001))
    assert (transfer.heatmap, transfer.self_supervision) == (1.25e-5, 0.0)
    assert tiny_adaptation(strategy).method.settings.weights == WEIGHTS["balanced"]
    assert tiny_adaptation(strategy).method.settings.stages.self_supervision_from == 1.0, "there is one skeleton"
    stated = strategy | {"weights": "published"}
    assert tiny_adaptation(stated, embedding=EmbeddingConfig()).method.settings.weights == WEIGHTS["published"]


class _Inheriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.old, self.new = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))

    def inherited(self, name: str) -> bool:
        return name == "old"


def test_an_anchored_step_is_adamws_after_a_decay_to_the_start() -> None:
    """Against plain AdamW on the same gradients, with the decay to the start written out."""
    method, config = _Inheriting(), OptimizerConfig(lr=0.1, weight_decay=0.0, anchor_decay=0.5, layer_decay=1.0)
    plain = copy.deepcopy(method)
    ours = make_optimizer(method, config)
    theirs = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.0)
    start = plain.old.detach().clone()
    assert isinstance(ours, AnchoredAdamW)
    for step in range(4):
        gradient = torch.tensor([0.3, -0.1]) * (step + 1)
        for module in (method, plain):
            module.old.grad, module.new.grad = gradient.clone(), gradient.clone()
        ours.step()
        with torch.no_grad():
            plain.old -= 0.1 * 0.5 * (plain.old - start)
        theirs.step()
    torch.testing.assert_close(method.old, plain.old)
    torch.testing.assert_close(method.new, plain.new)


def test_without_gradients_inherited_weights_return_and_new_ones_decay_to_zero() -> None:
    method = _Inheriting()
    optimizer = make_optimizer(
        method,
        OptimizerConfig(lr=0.1, weight_decay=0.5, anchor_decay=2.0, layer_decay=1.0, undecayed="norms_and_biases"),
    )
    for parameter in method.parameters():
        parameter.grad = torch.zeros(2)
    optimizer.step()
    with torch.no_grad():
        method.old.copy_(torch.tensor([2.0, 2.0]))
    for _ in range(60):
        optimizer.step()
    torch.testing.assert_close(method.old.detach(), torch.tensor([1.0, -2.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(method.new.detach(), torch.tensor([1.0, -2.0]) * 0.95**61)


def test_what_the_target_owns_is_not_held_to_its_first_values() -> None:
    method = tiny_adaptation("full", expert_share=0.25)
    names = {parameter: name for name, parameter in method.named_parameters()}
    groups = parameter_groups(method, OptimizerConfig(anchor_decay=1.0))
    held = {names[p] for group in groups if group["anchor_decay"] for p in group["params"]}
    assert held == {
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and not ("heads.dogs." in name or "experts.dogs." in name)
    }


def test_a_resumed_run_is_held_to_the_first_start(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"anchor_decay": 5.0}

    def trained(folder: str, method: Adaptation, **more: Any) -> None:
        tiny_training(LocalContext(tmp_path / folder), TorchEngineConfig(), method=method, **settings, **more)

    whole, stopped, resumed = (tiny_adaptation("full") for _ in range(3))
    first = {name: parameter.detach().clone() for name, parameter in whole.named_parameters()}
    trained("whole", whole)
    with pytest.raises(Stopped):
        trained("other", stopped, before_step=stop_at(5))
    trained("other", resumed)
    theirs = resumed.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in whole.state_dict().items())
    folder = newest(tmp_path / "other")
    anchor = load_checkpoint(folder)[0].anchor
    assert all(torch.equal(tensor, first[name]) for name, tensor in anchor.items())
    assert "method.model.backbone.pos_embed" in anchor
