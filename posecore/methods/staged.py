"""Methods of which the optimiser must know more than their parameters: stages, and weights that are held in place."""

from typing import Protocol, runtime_checkable


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
class InheritingMethod(Protocol):
    """Some of its weights are a trained model's, and may be held to the values they start from."""

    def inherited(self, name: str) -> bool:
        """Whether a parameter of that name is one of them."""
        ...
