"""Experts: one task's last channels of every feed-forward layer, everything else shared."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.models.backbones.vit import Mlp, Vit, VitConfig
from posecore.models.groups import Group

CONFIG = VitConfig(embed_dim=32, depth=2, num_heads=2, expert_share=0.25)
INPUT_SIZE = (48, 32)
TASKS = ("people", "dogs", "hands")


def _model(config: VitConfig = CONFIG, tasks: tuple[str, ...] = TASKS) -> Vit:
    torch.manual_seed(0)
    model = config.build(INPUT_SIZE, tasks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(1))


def test_expert_channels_come_last() -> None:
    torch.manual_seed(0)
    mlp = Mlp(CONFIG, TASKS)
    x = torch.randn(3, 5, 32)
    out = mlp(x, [("people", 0, 1), ("dogs", 1, 3), ("hands", 3, 3)])
    hidden = F.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias)
    torch.testing.assert_close(out[..., :24], hidden @ mlp.fc2.weight.T + mlp.fc2.bias)
    for task, row in (("people", 0), ("dogs", 1), ("dogs", 2)):
        expert = mlp.experts[task]
        torch.testing.assert_close(out[row, :, 24:], hidden[row] @ expert.weight.T + expert.bias)


@pytest.mark.parametrize("tokens", [0, 2])
def test_rows_do_not_depend_on_the_company_they_are_in(tokens: int) -> None:
    model = _model(CONFIG.model_copy(update={"knowledge_tokens": tokens})).eval()
    images = _images(4)
    together = model(images, [("dogs", 0, 1), ("people", 1, 4)])
    torch.testing.assert_close(together[:1], model(images[:1], [("dogs", 0, 1)]))
    torch.testing.assert_close(together[1:], model(images[1:], [("people", 0, 3)]))
    assert not torch.allclose(together[1:], model(images[1:], [("dogs", 0, 3)]), atol=1e-3)


def test_equals_the_published_way_with_gradients() -> None:
    """The published code runs every expert on every sample and masks; absent experts get an exact zero gradient."""
    torch.manual_seed(0)
    mlp = Mlp(CONFIG, TASKS).double()
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    index = torch.tensor([0, 0, 2]).view(-1, 1, 1)
    mlp(x, [("people", 0, 2), ("dogs", 2, 2), ("hands", 2, 3)]).square().sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in mlp.named_parameters()}
    mlp.zero_grad()
    hidden = F.gelu(mlp.fc1(x))
    masked = sum(mlp.experts[task](hidden) * (index == i) for i, task in enumerate(TASKS))
    torch.cat([mlp.fc2(hidden), masked], dim=-1).square().sum().backward()
    for name, parameter in mlp.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, msg=name)
    assert not ours["experts.dogs.weight"].any()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_expert_without_rows_takes_part_with_zero_gradient(checkpointing: bool) -> None:
    model = _model(CONFIG.model_copy(update={"activation_checkpointing": checkpointing})).train()
    model(_images(2), [("people", 0, 0), ("dogs", 0, 2), ("hands", 2, 2)]).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"under ZeRO-3 every rank must reduce every gradient, also {name}"
        assert parameter.grad.any() == (".people." not in name and ".hands." not in name), name


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([("cats", 0, 2)], "no expert for 'cats'; it has experts for people, dogs, hands"),
        ([], "the groups cover 0 of 2 rows"),
        ([("dogs", 0, 1)], "the groups cover 1 of 2 rows"),
        ([("dogs", 1, 2), ("people", 0, 1)], "group 'dogs' has rows 1 to 2, but the group before it ends at row 0"),
    ],
)
def test_rows_without_an_expert_are_refused(groups: list[Group], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model()(_images(2), groups)


def test_any_number_of_tasks_but_whole_channels() -> None:
    assert len(_model(tasks=("one",)).blocks[0].mlp.experts) == 1
    assert len(_model(tasks=tuple(f"set{i}" for i in range(11))).blocks[0].mlp.experts) == 11
    with pytest.raises(ValueError, match="at least one task"):
        CONFIG.build(INPUT_SIZE)
    with pytest.raises(ValueError, match=r"expert_share 0\.3 of embed_dim 32 is not a whole number of channels"):
        VitConfig(embed_dim=32, depth=1, num_heads=2, expert_share=0.3)
    assert VitConfig(embed_dim=30, depth=1, num_heads=2, expert_share=0.3).expert_dim == 9


def test_dense_models_do_not_look_at_groups() -> None:
    model = _model(CONFIG.model_copy(update={"expert_share": 0.0})).eval()
    images = _images(2)
    assert torch.equal(model(images), model(images, [("whatever", 0, 2)]))
