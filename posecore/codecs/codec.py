"""What every codec is: how keypoints become targets, and outputs keypoints.

Targets and outputs are single tensors of one shape, so that averages, groups and losses need not know which codec is at
work.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from posecore.config import Config
from posecore.errors import ConfigError
from posecore.geometry import CropConvention


class Codec(Config):
    """The protocol of codecs; a head says which one reads it.

    Attributes:
        kind: its name.
        input_size: (height, width) of the crop in pixels.
        loss: what heads of such outputs are trained with, unless a run file says otherwise, by its name at the door of
            losses (:mod:`posecore.methods.losses`).
        learns_covariances: whether covariances are outputs of their own, which say pixels without a calibration.
        reads: the parts of a :class:`~posecore.codecs.scene.SceneReading` that it goes by: none of crops.
    """

    kind: str
    input_size: tuple[int, int]
    loss: ClassVar[str]
    learns_covariances: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = frozenset()

    @property
    def crop(self) -> CropConvention:
        """The affine map that crops are cut with (:func:`~posecore.geometry.crop_matrix`)."""
        raise NotImplementedError

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frame that decoded points live in."""
        raise NotImplementedError

    @property
    def outputs_per_point(self) -> float:
        """Among how many outputs of a point a loss that is their mean divides its error."""
        raise NotImplementedError

    def encode(self, keypoints_crop: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Draws targets.

        Args:
            keypoints_crop: (n, K, 2) x, y in crop pixels.
            weights: (n, K) 0 for points that do not count; above 0.5 for points to draw.

        Returns:
            (n, K, …) float32 targets, and the weights, zeroed where nothing of a point is within the frame.
        """
        raise NotImplementedError

    def decode(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(n, K, …) outputs to (n, K, 2) float32 x, y in the frame, -1 where there is no point, and (n, K) scores."""
        raise NotImplementedError

    def flip_back(self, outputs: Tensor, flip_indices: Tensor, shift: bool) -> Tensor:
        """Outputs for the mirrored crop in the frame of the original one.

        Args:
            outputs: (n, K, …) for the mirrored crop.
            flip_indices: (K,) mirror partner of every keypoint.
            shift: whether the head's conventions say that it is to be moved by a pixel or so.
        """
        raise NotImplementedError

    def of_points(self, outputs: Tensor, points: Sequence[int]) -> Tensor:
        """Outputs of some of the points, in this order.

        Args:
            outputs: of a head.
            points: indices.
        """
        return outputs[:, points]

    def covariances(self, outputs: Tensor, points: Tensor) -> Tensor:
        """How far from where it was found a point may be, as far as the outputs' shape around it says.

        Args:
            outputs: (n, K, …) as :meth:`decode` reads them.
            points: (n, K, 2) x, y in the frame, as it found them.

        Returns:
            (n, K, 2, 2) float32 of x and y, px² of the frame, NaN where there is no point.

        Raises:
            ConfigError: outputs of this kind do not say.
        """
        raise ConfigError(f"a head read by {self.kind} does not say how sure it is of a place; leave uncertainty out.")

    def expect(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The means of the distributions that outputs stand for, as a differentiable function of them.

        Args:
            outputs: (n, K, …) of any float type.

        Returns:
            (n, K, 2) float32 x, y in the frame, and (n, K) the outputs' maxima, without gradient.
        """
        raise NotImplementedError


def mean_place(weights: Tensor) -> Tensor:
    """(..., L) shares of places 0 … L - 1 to their mean place."""
    return weights @ torch.arange(weights.shape[-1], dtype=weights.dtype, device=weights.device)
