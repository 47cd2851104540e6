"""A stage that keeps one of several pictures that show the same."""

from typing import ClassVar

from pydantic import Field

from posecore.stages.protocol import Stage


class Deduplicate(Stage):
    """Takes out every image that shows the same as one before it that is kept (``duplicate-picture``), by their ids.

    The only stage that looks at a whole split: before it is cut into shards, and so before all other stages. Pictures
    are those of the download. Of a film's frames those are left that differ from each other.

    Attributes:
        max_distance: bits of the 64 of a perceptual hash that may differ.
        min_correlation: least correlation of two thumbnails of 16x16 pixels.
    """

    may_lose: ClassVar[bool] = True

    max_distance: int = Field(default=8, ge=0, le=11)
    min_correlation: float = Field(default=0.97, ge=-1, le=1)
