"""Methods of which the loop must know more than parameters and losses: stages, weights held in place, teachers."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from posecore.models.pose_model import PoseModel
from posecore.models.sources import ModelFolder


@runtime_checkable
class StagedMethod(Protocol):
    """Told by the loop which step comes, so that its stages are a function of the step and survive a resume.

    A frozen part keeps its weights and AdamW's moments of it, without weight decay; its bias correction starts when it
    thaws. A part that has learned once is not frozen again.

    Attributes:
        parts: prefixes of parameter names; the parameters under one are frozen and thawed together.
    """

    parts: tuple[str, ...]

    def begin_step(self, step: int, total_steps: int) -> frozenset[str]:
        """Prepares for the 0-based ``step`` of ``total_steps`` and returns the parts that are frozen in it."""
        ...


@runtime_checkable
class FollowingMethod(Protocol):
    """Some of its weights follow others when a step begins; all others change in the update alone.

    Attributes:
        following: prefixes of their names.
    """

    following: tuple[str, ...]


@runtime_checkable
class InheritingMethod(Protocol):
    """Some of its weights are a trained model's, and may be held to the values they start from."""

    def inherited(self, name: str) -> bool:
        """Whether a parameter of that name is one of them."""
        ...


@runtime_checkable
class ObservingMethod(Protocol):
    """Has more to say of a step than what is minimised; the log shows it beside the loss terms."""

    def observations(self) -> dict[str, Tensor]:
        """By name, (2,) sum and number of values since the last call, of which the mean is shown.

        The same names on every rank in every step. A number of 0 is allowed.
        """
        ...


@runtime_checkable
class AskingMethod(Protocol):
    """Asks trained models that are no part of it: nothing optimises them, and no checkpoint holds them."""

    def asked(self) -> Sequence[tuple[PoseModel, ModelFolder]]:
        """Each with the folder that its weights lie in; on the meta device where they are not read yet."""
        ...
