"""What a student's outputs are measured against where a teacher, and no label, says what they should be."""

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.codecs.simcc import SimccCodec
from posecore.methods.simcc_loss import SHARPNESS
from posecore.methods.supervised import heatmap_loss


def output_loss(codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
    """How far a student's outputs are from a teacher's belief, labelled or not.

    SimCC: ``(1/(B·K)) Σ_axes Σ_nk Σ_bins t (ln t − ln s)``, where both are softmax of ten times the lines (``KDLoss``):
    a sum over the bins, although the loss of labels is a mean. Heatmaps: their squared error.

    Args:
        codec: of the student.
        outputs: (n, K, …) of the student, any float type.
        belief: the same shape, float32.
        num_samples: B, which may exceed n.
    """
    if not isinstance(codec, SimccCodec):
        return heatmap_loss(outputs, belief, torch.ones(outputs.shape[:2], device=outputs.device), num_samples)
    total = outputs.new_zeros((), dtype=torch.float32)
    for line, wanted in zip(codec.split(outputs), codec.split(belief), strict=True):
        log_s, log_t = (F.log_softmax(SHARPNESS * logits.float(), dim=-1) for logits in (line, wanted))
        total = total + F.kl_div(log_s, log_t, reduction="sum", log_target=True)
    return total / (outputs.shape[1] * num_samples)
