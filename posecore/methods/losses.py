"""The door of losses: those that are built in, and any other :class:`~posecore.methods.loss.Loss`."""

from typing import Annotated, Any, TypeAlias

from pydantic import TypeAdapter
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.doors import Door
from posecore.methods.associative_loss import AssociativeEmbedding
from posecore.methods.heatmap_loss import SquaredError
from posecore.methods.likelihood import Likelihood
from posecore.methods.loss import Loss
from posecore.methods.set_loss import SetPrediction
from posecore.methods.simcc_loss import SimccDivergence

LossConfig: TypeAlias = Annotated[
    SquaredError | SimccDivergence | Likelihood | AssociativeEmbedding | SetPrediction | Loss,
    Door("loss", "posecore.losses"),
]
"""Every loss there is, and whoever comes by."""

_READ: TypeAdapter[Loss] = TypeAdapter(LossConfig)


def usual_loss(codec: Codec, **options: Any) -> Loss:
    """What outputs of a codec are usually trained with.

    Args:
        codec: whose the outputs are.
        options: of whichever loss has them.
    """
    loss = _READ.validate_python(codec.loss)
    return type(loss).model_validate(
        {name: value for name, value in options.items() if name in type(loss).model_fields}
    )


def output_loss(codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
    """How far a student's outputs are from a teacher's belief, labelled or not.

    Args:
        codec: of the student.
        outputs: (n, K, …) of the student, any float type.
        belief: the same shape, float32.
        num_samples: B, which may exceed n.
    """
    return usual_loss(codec).belief(codec, outputs, belief, num_samples)
