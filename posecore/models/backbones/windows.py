"""Square windows that tile the tokens of an image, for attention within each (ViTDet, arXiv 2203.16527)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Windows:
    """Suffix legend: B images, W windows of an image row by row, h w token rows and columns, D channels.

    Attributes:
        side: of a window, in tokens.
        rows: windows below each other.
        columns: windows beside each other.
    """

    side: int
    rows: int
    columns: int

    def cut(self, x_BTD: Tensor) -> Tensor:
        """Images to windows: (B, h·w, D) to (B·W, side², D)."""
        tiles = x_BTD.unflatten(1, (self.rows, self.side, self.columns, self.side))
        return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, x_BTD: Tensor) -> Tensor:
        """Windows to images, the inverse of :meth:`cut`."""
        tiles = x_BTD.unflatten(1, (self.side, self.side)).unflatten(0, (-1, self.rows, self.columns))
        return tiles.transpose(2, 3).flatten(1, 4)
