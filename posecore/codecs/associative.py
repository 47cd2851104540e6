"""Whole pictures as maps: a heatmap per point with all bodies on it, and a tag map that says which body a peak is of.

Source: Newell et al., Associative Embedding (arXiv 1611.05424), and Cheng et al., HigherHRNet (arXiv 1908.10357):
heatmaps at two resolutions, tags at the coarser one. Grids are aligned as in ``udp``: the centres of the first and last
pixels of picture and maps lie on each other, so that mirroring is exact at every resolution.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posecore.codecs.grouping import SceneBodies, from_the_trunk, group_bodies
from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.scene import SceneCodec, SceneReading
from posecore.skeletons.skeleton import Skeleton


class AssociativeCodec(SceneCodec):
    """Heatmaps and tags at ``heatmap_size``, heatmaps at twice that; a point's outputs are one line, in this order.

    Attributes:
        kind: names this codec.
        input_size: (height, width) of the picture in pixels.
        heatmap_size: (height, width) of the coarser maps.
        heatmap_sigma: spread of the Gaussians in pixels of either map.
    """

    kind: Literal["associative"] = "associative"
    input_size: tuple[int, int] = (512, 512)
    heatmap_size: tuple[int, int] = (128, 128)
    heatmap_sigma: float = 2.0
    loss: ClassVar[str] = "associative_embedding"
    reads: ClassVar[frozenset[str]] = frozenset({"grouping"})

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the finer maps, in whose pixels found points are."""
        height, width = self.heatmap_size
        return 2 * height, 2 * width

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the coarser heatmaps, and of the finer ones."""
        return self.heatmap_size, self.frame_size

    @property
    def parts(self) -> tuple[HeatmapCodec, HeatmapCodec, HeatmapCodec]:
        """How each of the maps that :meth:`split` gives lies on the picture."""
        coarse, fine = (
            HeatmapCodec(input_size=self.input_size, heatmap_size=size, heatmap_sigma=self.heatmap_sigma)
            for size in self.sizes
        )
        return coarse, coarse, fine

    @property
    def outputs_per_point(self) -> float:
        """Pixels of all maps of a point."""
        height, width = self.heatmap_size
        return 6.0 * height * width

    def bodies(
        self, outputs: Tensor, of_mirrored: Tensor | None, skeleton: Skeleton, reading: SceneReading
    ) -> list[SceneBodies]:
        """Groups peaks by their tags; with a flip test heatmaps are averaged, and the tags of both count."""
        heatmaps, tags, fine = self._maps(outputs)
        if of_mirrored is None:
            all_tags = tags[:, None]
        else:
            partners = torch.from_numpy(skeleton.flip_indices).to(outputs.device)
            also, tags_also, fine_also = (maps[:, partners].flip(-1) for maps in self._maps(of_mirrored))
            heatmaps, all_tags = (heatmaps + also) / 2, torch.stack([tags, tags_also], dim=1)
            fine = (fine + fine_also) / 2
        grouped = group_bodies(heatmaps, all_tags, from_the_trunk(skeleton), reading.grouping)
        return [
            replace(bodies, covariances=self._blurs(of_picture, bodies))
            for of_picture, bodies in zip(fine, grouped, strict=True)
        ]

    def _maps(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, K, h, w) heatmaps of both resolutions together, tags, and the finer heatmaps alone, at the finer one."""
        coarse, tags, fine = self.split(outputs)
        return self.merged(coarse, fine), self.enlarged(tags), fine

    def _blurs(self, fine: Float[Tensor, "k h w"], bodies: SceneBodies) -> Float[np.ndarray, "m k 2 2"]:
        """How blurred the finer heatmap, whose window is the smaller one, is around each point.

        NaN where there is no point, and where that map says nothing of a point that the coarser one has shown.
        """
        points = torch.from_numpy(bodies.keypoints).to(fine.device).flatten(0, 1)
        which = torch.arange(fine.shape[0], device=fine.device).repeat(len(bodies.keypoints))
        x, y = points.round().long().unbind(-1)
        height, width = self.frame_size
        at_point = fine[which, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        found = self.parts[2].blurs(fine, which, points).reshape(*bodies.keypoints.shape, 2).cpu().numpy()
        known = (bodies.keypoint_scores > 0) & (at_point.reshape(bodies.keypoint_scores.shape) > 0).cpu().numpy()
        return np.where(known[..., None, None], found, np.float32(np.nan))

    def split(
        self, outputs: Float[Tensor, "n k p"]
    ) -> tuple[Float[Tensor, "n k h w"], Float[Tensor, "n k h w"], Float[Tensor, "n k h2 w2"]]:
        """The coarser heatmaps, the tags, and the finer heatmaps that outputs are made of."""
        height, width = self.heatmap_size
        coarse, tags, fine = outputs.split((height * width, height * width, 4 * height * width), dim=2)
        return (
            coarse.unflatten(2, self.heatmap_size),
            tags.unflatten(2, self.heatmap_size),
            fine.unflatten(2, self.frame_size),
        )

    def draw(
        self, keypoints: Float[Tensor, "n m k 2"], weights: Float[Tensor, "n m k"]
    ) -> tuple[Float[Tensor, "n k h w"], Float[Tensor, "n k h2 w2"]]:
        """Targets at both resolutions: a Gaussian per body and point, the larger value where two meet.

        Args:
            keypoints: x, y of all bodies in pixels of the input.
            weights: 1 for points to draw, else 0.
        """
        coarse, fine = (self._drawn(keypoints, weights, size) for size in self.sizes)
        return coarse, fine

    def _drawn(self, keypoints: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, K, h, w) the windows of three sigmas around every point, as single bodies are drawn."""
        num_images, _, num_points = weights.shape
        radius = int(3 * self.heatmap_sigma)
        offsets = torch.arange(-radius, radius + 1, device=weights.device)
        points = self.on_map(keypoints.double(), size)
        pixels = torch.trunc(points + 0.5)
        lines, values = [], []
        for axis, length in ((0, size[1]), (1, size[0])):
            line = pixels[..., axis, None] + offsets
            value = torch.exp(-((line - points[..., axis, None]) ** 2) / (2 * self.heatmap_sigma**2))
            values.append(torch.where((line >= 0) & (line < length), value, 0.0).float())
            lines.append(line.clamp(0, length - 1).long())
        drawn = values[1][..., :, None] * values[0][..., None, :] * (weights > 0.5)[..., None, None]
        places = lines[1][..., :, None] * size[1] + lines[0][..., None, :]
        drawn, places = (each.transpose(1, 2).flatten(2) for each in (drawn, places))  # (n, K, M · window)
        maps = torch.zeros(num_images, num_points, size[0] * size[1], device=weights.device)
        return maps.scatter_reduce(2, places, drawn, "amax").unflatten(2, size)

    def places(
        self, keypoints: Float[Tensor, "n m k 2"], weights: Float[Tensor, "n m k"]
    ) -> tuple[Int[Tensor, "n m k"], Bool[Tensor, "n m k"]]:
        """Where on the flattened tag map each point lies, and which points lie on it at all.

        Args:
            keypoints: x, y of all bodies in pixels of the input.
            weights: 1 for points that count, else 0.
        """
        pixels = torch.round(self.on_map(keypoints, self.heatmap_size)).long()
        height, width = self.heatmap_size
        x, y = pixels.unbind(-1)
        inside = (weights > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return torch.where(inside, y * width + x, 0), inside

    def on_map(self, points: Float[Tensor, "*batch 2"], size: tuple[int, int]) -> Float[Tensor, "*batch 2"]:
        """x, y in pixels of the input to x, y in pixels of a map of this (height, width)."""
        ratio = [(small - 1) / (side - 1) for small, side in zip(size, self.input_size, strict=True)]
        return points * points.new_tensor(ratio[::-1])

    def merged(self, coarse: Float[Tensor, "n k h w"], fine: Float[Tensor, "n k h2 w2"]) -> Float[Tensor, "n k h2 w2"]:
        """The mean of both resolutions' heatmaps, at the finer one."""
        return (self.enlarged(coarse) + fine) / 2

    def enlarged(self, maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h2 w2"]:
        """Maps at the finer resolution."""
        return F.interpolate(maps, self.frame_size, mode="bilinear", align_corners=True)
