"""Layers whose weights are bfloat16, beside the same layers in float32."""

import pytest
import torch
from torch import nn

from posecore.training.bf16_weights import round_weights


@pytest.mark.parametrize("affine", [True, False])
def test_batchnorm_normalises_in_float32_with_rounded_weights(affine: bool) -> None:
    torch.manual_seed(0)
    norm, plain = nn.BatchNorm1d(3, affine=affine), nn.BatchNorm1d(3, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
    values = round_weights(norm)
    rows = torch.randn(16, 3)
    if affine:
        plain.weight.data = values["weight"].bfloat16().float()
        assert norm.weight.dtype == torch.bfloat16
    assert torch.equal(norm(rows), plain(rows))
    assert torch.equal(norm.running_var, plain.running_var)


def test_layers_without_weights_take_what_they_are_given() -> None:
    norm = nn.LayerNorm(4, elementwise_affine=False)
    rows = torch.randn(2, 4)
    expected = norm(rows)
    round_weights(norm)
    assert torch.equal(norm(rows), expected)


def test_layers_round_their_input_to_their_weights() -> None:
    layer = nn.Linear(4, 2)
    rows = torch.randn(3, 4)
    exact = round_weights(layer)
    expected = nn.functional.linear(rows.bfloat16(), exact["weight"].bfloat16(), exact["bias"].bfloat16())
    assert layer(rows).dtype == torch.bfloat16
    assert torch.equal(layer(rows), expected)
