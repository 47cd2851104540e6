"""A further view of a crop, made on the training device: turned, resized, moved, mirrored, recoloured, partly hidden.

What was done is known, so a point of the crop can be carried into the view. The crop is sampled once, bilinear and
black outside; the hidden part is another place of the same view, as if a hand or a cloth of the scene lay there. Every
number is drawn from a crop's own seed: the same view on any rank, in any batch, and after a resume.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from posecore.config import Config
from posecore.methods.batch import from_light, to_light
from posecore.methods.crop_draws import random_shares

_DRAWS = 12
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MIDDLE = 0.5


class ViewConfig(Config):
    """How a view differs from its crop; turn, size, move and colour are as far as SHIFT (arXiv 2504.05789) goes.

    Attributes:
        rotation_degrees: turned by up to this, either way.
        scale: smallest and largest magnification.
        shift: moved by up to this share of the crop's width and height, either way.
        mirror_probability: of the mirrored crop.
        colour: brightness, contrast and saturation are each multiplied by up to 1 ± this.
        occlusion_probability: of hiding one point the teacher is sure of. The teacher sees it, so its place is taught.
        occlusion_extent: side of the hiding square, relative to the crop's longer side.
    """

    rotation_degrees: float = Field(default=60.0, ge=0, le=180)
    scale: tuple[float, float] = (0.6, 1.3)
    shift: float = Field(default=0.05, ge=0, le=0.5)
    mirror_probability: float = Field(default=0.5, ge=0, le=1)
    colour: float = Field(default=0.25, ge=0, lt=1)
    occlusion_probability: float = Field(default=0.5, ge=0, le=1)
    occlusion_extent: float = Field(default=0.08, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {self.scale} must be two magnifications, the smaller one first.")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """One further view of each of n crops.

    Attributes:
        matrix: (n, 2, 3) float32, from pixels of the crop to pixels of the view.
        mirrored: (n,) bool; then points trade places with their mirror partners.
        size: (height, width) of crops and views in pixels.
        draws: (n, …) float32 in [0, 1), for what :meth:`paint` decides.
        config: how far views go.
    """

    matrix: Tensor
    mirrored: Tensor
    size: tuple[int, int]
    draws: Tensor
    config: ViewConfig

    @classmethod
    def drawn(cls, seeds: Tensor, size: tuple[int, int], config: ViewConfig) -> "Views":
        """Draws a view per crop.

        Args:
            seeds: (n,) int64, see :class:`~posecore.schema.CropGroup`.
            size: (height, width) of the crops in pixels.
            config: how far views go.
        """
        draws = random_shares(seeds, _DRAWS)
        angle = torch.deg2rad(config.rotation_degrees * (2 * draws[:, 0] - 1))
        zoom = config.scale[0] + (config.scale[1] - config.scale[0]) * draws[:, 1]
        mirrored = draws[:, 4] < config.mirror_probability
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        side = torch.where(mirrored, -1.0, 1.0)
        linear = torch.stack([torch.stack([cos * side, -sin], dim=-1), torch.stack([sin * side, cos], dim=-1)], dim=1)
        extent = draws.new_tensor(size[::-1])
        center = (extent - 1) / 2
        moved = center + config.shift * extent * (2 * draws[:, 2:4] - 1)
        matrix = torch.cat([linear, (moved - linear @ center)[:, :, None]], dim=2)
        return cls(matrix, mirrored, size, draws[:, 5:], config)

    def carry(self, points: Tensor, weights: Tensor, flip_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the crops in their views.

        Args:
            points: (n, K, 2) float32 x, y in crop pixels.
            weights: (n, K) what they count.
            flip_indices: (K,) mirror partner of every point.

        Returns:
            (n, K, 2) in pixels of the view, and the weights, 0 for points beyond its border.
        """
        moved = points @ self.matrix[:, :, :2].mT + self.matrix[:, None, :, 2]
        moved = torch.where(self.mirrored[:, None, None], moved[:, flip_indices], moved)
        weights = torch.where(self.mirrored[:, None], weights[:, flip_indices], weights)
        last = points.new_tensor(self.size[::-1]) - 1
        return moved, weights * ((moved >= 0) & (moved <= last)).all(dim=-1)

    def paint(self, images: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        """The pictures of the views.

        Args:
            images: (n, 3, H, W) float32 crops, normalised.
            points: (n, K, 2) float32 x, y in pixels of the view.
            weights: (n, K); a point that may be hidden has one above 0.
        """
        place = self._places()
        grid = self._grid(place + self._borrowed(place, points, weights))
        light = F.grid_sample(to_light(images), grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return from_light(self._recoloured(light))

    def carry_depth(self, depth: Tensor) -> Tensor:
        """(n, H, W) metres of the crops to those of the views: nearest pixels, 0 (not known) beyond the border."""
        grid = self._grid(self._places()[None])
        return F.grid_sample(depth[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=True)[:, 0]

    def _places(self) -> Tensor:
        """(H, W, 2) x, y of every pixel."""
        rows, columns = (torch.arange(length, device=self.matrix.device).float() for length in self.size)
        return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)

    def _grid(self, places: Tensor) -> Tensor:
        """(n or 1, H, W, 2) pixels of the views to where in the crops they are, from -1 to 1."""
        height, width = self.size
        sampled = (places - self.matrix[:, None, None, :, 2]) @ _inverse(self.matrix[:, :, :2]).mT[:, None]
        return 2 * sampled / sampled.new_tensor([width - 1, height - 1]) - 1

    def _borrowed(self, place: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        """(n, H, W, 2) how far away the pixel is whose colour a pixel of the view shows: 0 outside hidden squares."""
        happens, which, source = self.draws[:, 3], self.draws[:, 4], self.draws[:, 5:7]
        usable = weights > 0
        count = usable.sum(dim=1)
        hides = (happens < self.config.occlusion_probability) & (count > 0)
        wanted = torch.minimum((which * count).long() + 1, count)  # which of the usable points, counted from 1
        chosen = ((usable.cumsum(dim=1) == wanted[:, None]) & usable).float()
        center = (points * chosen[..., None]).sum(dim=1)[:, None, None]
        radius = self.config.occlusion_extent * max(self.size) / 2
        covered = ((place - center).abs() <= radius).all(dim=-1) & hides[:, None, None]
        away = source * source.new_tensor(self.size[::-1]) - center[:, 0, 0]
        return covered[..., None] * away[:, None, None]

    def _recoloured(self, light: Tensor) -> Tensor:
        """(n, 3, H, W) in 0 … 1 with another brightness, contrast and saturation."""
        brightness, contrast, saturation = (
            (1 + self.config.colour * (2 * self.draws[:, index] - 1))[:, None, None, None] for index in range(3)
        )
        light = light * brightness
        light = torch.lerp(light.new_tensor(_MIDDLE), light, contrast)
        grey = (light * light.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        return torch.lerp(grey, light, saturation).clamp(0, 1)


def _inverse(linear: Tensor) -> Tensor:
    """(n, 2, 2) to its inverse, in closed form: no library call that could differ from device to device."""
    (a, b), (c, d) = linear[:, 0].unbind(-1), linear[:, 1].unbind(-1)
    adjugate = torch.stack([torch.stack([d, -b], dim=-1), torch.stack([-c, a], dim=-1)], dim=1)
    return adjugate / (a * d - b * c)[:, None, None]
