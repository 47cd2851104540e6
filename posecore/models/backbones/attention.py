"""Attention, by whichever of two equal computations is faster where it runs."""

import torch
import torch.nn.functional as F
from torch import Tensor

_FEW_TOKENS = 512


def attend(q_BNTE: Tensor, k_BNTE: Tensor, v_BNTE: Tensor) -> Tensor:
    """softmax(q kᵀ / √E) v for every head.

    PyTorch's fused kernel never holds the T×T scores. On a CPU in bfloat16 that does not pay for short sequences: with
    192 tokens the plain products take a third of its time forward and backward (``benchmarks/model_step.py``).

    Args:
        q_BNTE: queries of B images, N heads, T tokens, E channels.
        k_BNTE: keys.
        v_BNTE: values.
    """
    if q_BNTE.device.type != "cpu" or q_BNTE.dtype != torch.bfloat16 or q_BNTE.shape[2] > _FEW_TOKENS:
        return F.scaled_dot_product_attention(q_BNTE, k_BNTE, v_BNTE)
    # Scaling within the product rounds once; one multiplication more would round twice where √E is no power of two.
    q, k, v = (part.flatten(0, 1) for part in (q_BNTE, k_BNTE, v_BNTE))
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(-1, -2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v).unflatten(0, q_BNTE.shape[:2])
