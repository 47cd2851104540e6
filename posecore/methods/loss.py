"""What every loss of labels is."""

from typing import ClassVar

import torch
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.config import Extension
from posecore.methods.batch import DeviceGroup
from posecore.skeletons.skeleton import Skeleton


class Loss(Extension):
    """The protocol of losses: what of a head's outputs is to become small.

    Attributes:
        weight_power: the power to which the weight of a point acts in :meth:`__call__`.
        of_scenes: whether it is of whole pictures, and so what :meth:`scene` says; else it is :meth:`__call__`.
    """

    weight_power: ClassVar[int] = 1
    of_scenes: ClassVar[bool] = False

    def points(self, codec: Codec, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, K) float32, how wrong every point is, whatever it counts.

        Args:
            codec: whose the outputs are.
            outputs: (n, K, …) of the head, of any float type.
            targets: the same shape, float32, as the codec drew them.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say how wrong a point is")

    def __call__(self, codec: Codec, outputs: Tensor, targets: Tensor, weights: Tensor, num_samples: int) -> Tensor:
        """What is minimised, ``(1/(B·K)) Σ_nk w_nk l_nk``; points that do not count stay in the denominator.

        Args:
            codec: whose the outputs are.
            outputs: (n, K, …) of the head, of any float type.
            targets: the same shape, float32.
            weights: (n, K) float32 in [0, 1].
            num_samples: B, which may exceed n.
        """
        return (self.points(codec, outputs, targets) * weights).sum() / (outputs.shape[1] * num_samples)

    def hints(self, codec: Codec, group: DeviceGroup) -> Tensor | None:
        """(n, …) what a head in training is given besides the features of n whole pictures; None for nothing."""
        return None

    def scene(
        self,
        codec: Codec,
        outputs: Tensor,
        group: DeviceGroup,
        num_samples: int,
        skeleton: Skeleton,
        factors: Tensor | None = None,
        hints: Tensor | None = None,
    ) -> Tensor:
        """What is minimised of n whole pictures, over ``num_samples``.

        Args:
            codec: whose the outputs are.
            outputs: (n, …) of the head, of any float type.
            group: with the bodies of each picture.
            num_samples: B, which may exceed n.
            skeleton: of the points.
            factors: (K,) what each point counts; None for 1.
            hints: that the head was given.
        """
        raise NotImplementedError(f"{type(self).__name__} is of crops, and says nothing of whole pictures")

    def belief(self, codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
        """What is minimised where a teacher, and no label, says what the outputs should be, of every point alike."""
        ones = torch.ones(outputs.shape[:2], device=outputs.device)
        return self(codec, outputs, belief, ones, num_samples)

    def problem(self, codec: Codec, skeleton: Skeleton) -> str | None:
        """Why it cannot train a head, known before anything starts; None if it can."""
        return None
