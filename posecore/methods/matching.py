"""Which query is to become which labelled body: the cheapest way to give every body a query of its own.

Source: Carion et al., DETR (arXiv 2005.12872), with the costs of points of GroupPose (arXiv 2308.07313).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def match_bodies(cost: Float[Tensor, "n q m"], there: Bool[Tensor, "n m"]) -> Int[Tensor, "n q"]:
    """The body that each query is to become, -1 for none; of more bodies than queries those that fit worst get none.

    Args:
        cost: of a query for a body.
        there: which bodies there are.
    """
    from scipy.optimize import linear_sum_assignment  # crops do without it

    matched = torch.full(cost.shape[:2], -1, dtype=torch.int64)
    bodies_of, costs = there.cpu(), cost.detach().cpu()
    for image, is_there in enumerate(bodies_of):
        bodies = is_there.nonzero()[:, 0]
        rows, columns = linear_sum_assignment(costs[image][:, bodies].numpy())
        matched[image, torch.from_numpy(rows)] = bodies[torch.from_numpy(columns)]
    return matched.to(cost.device)


def generalised_iou(boxes: Float[Tensor, "*batch 4"], others: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Intersection over union, less the share of the smallest box around both that neither fills (arXiv 1902.09630).

    Args:
        boxes: x, y of the centre, width, height, of any unit; broadcast.
        others: likewise.
    """
    (low, high), (its_low, its_high) = (
        (each[..., :2] - each[..., 2:] / 2, each[..., :2] + each[..., 2:] / 2) for each in (boxes, others)
    )
    common = (torch.minimum(high, its_high) - torch.maximum(low, its_low)).clamp(min=0).prod(dim=-1)
    around = (torch.maximum(high, its_high) - torch.minimum(low, its_low)).prod(dim=-1)
    union = boxes[..., 2:].prod(dim=-1) + others[..., 2:].prod(dim=-1) - common
    return common / union - (around - union) / around


def focal_loss(logits: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Cross-entropy, of which what is nearly right already counts little (Lin et al., arXiv 1708.02002).

    Args:
        logits: of scores.
        target: 1 where there is a body, else 0.
    """
    wrong = torch.where(target > 0.5, -logits, logits)
    balance = torch.where(target > 0.5, 0.25, 0.75)
    return balance * wrong.sigmoid().square() * F.softplus(wrong)
