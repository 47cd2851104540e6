"""What every backbone is: crops to a grid of features, as a configuration that builds the module."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from torch import nn

from posecore.config import Extension
from posecore.errors import ConfigError


class BackboneModule(nn.Module):
    """A built backbone: ``forward(images, groups)`` takes (B, 3, H, W) normalised RGB to (B, D, h, w) features.

    Attributes:
        num_features: D.
    """

    num_features: int


class Backbone(Extension):
    """The protocol of backbones.

    Parameters of what :meth:`build` returns that are named ``blocks.<i>.…`` belong to block i, by which layer-wise
    decay of the learning rate and the choice of what learns go; they know ``patch_embed.…`` and ``pos_embed`` as well.
    A network of others that is kept as ``self.model`` is looked at as if it were the module itself.

    Attributes:
        stride: crop pixels per feature, in each direction.
        learns: whether it can be trained, and gives features that a student may be held against.
        finished: whether other software runs it as it is, so that it is neither compiled, written in another format nor
            followed through its operators.
    """

    learns: ClassVar[bool] = True
    finished: ClassVar[bool] = False

    if TYPE_CHECKING:  # a field, a constant or a property

        @property
        def stride(self) -> int:
            """Crop pixels per feature."""

    @property
    def size_multiple(self) -> int:
        """Sides of the crops are multiples of this; the stride unless a backbone says otherwise."""
        return self.stride

    def build(self, input_size: tuple[int, int], tasks: Sequence[str]) -> BackboneModule:
        """A freshly initialised backbone.

        Args:
            input_size: (height, width) of the crops in pixels.
            tasks: names of the model's heads, for a backbone that has experts.
        """
        raise NotImplementedError(f"{type(self).__name__} has to build its module")

    @property
    def uncounted_parameters(self) -> int | None:
        """Numbers in the weights of a network whose arithmetic cannot be counted; None where its modules are."""
        return None

    @property
    def takes_depth(self) -> bool:
        """Whether depth may be given besides the picture, as ``forward(images, groups, depth)``."""
        return False

    @property
    def expert_channels(self) -> int:
        """Channels of all layers together that an expert computes for one head alone; 0 without experts."""
        return 0

    @property
    def has_experts(self) -> bool:
        """Whether a part of it is of one head alone."""
        return self.expert_channels > 0

    def exact(self) -> Self:
        """The same without whatever it rounds only because it was trained so; for formats that cannot."""
        return self

    def shallow(self) -> Self:
        """A stand-in of which only the shapes of inputs and outputs matter: the least that there is."""
        return self

    def with_depth(self) -> Self:
        """The same, taking depth besides the picture.

        Raises:
            ConfigError: it has no form that does.
        """
        raise ConfigError(
            f"depth_input: only plain vision transformers take depth, not {self.kind}; leave it out, or take another "
            "parent."
        )

    def with_experts(self, share: float) -> Self:
        """The same with an expert for every head, which computes a share of the channels of every layer.

        Raises:
            ConfigError: it has no form with experts, or the share cuts through a channel.
        """
        raise ConfigError(f"method: experts needs a plain vision transformer; {self.kind} has no such form.")

    def with_adapters(self, width: int) -> Self:
        """The same with an adapter in every block, or with those it has.

        Raises:
            ConfigError: it has no form with adapters, or has some of another width.
        """
        raise ConfigError(
            f"strategy: adapter needs a plain vision transformer; {self.kind} has no such form. Take lora, last-n or "
            "full."
        )
