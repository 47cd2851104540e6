"""Heatmap targets and their decoding, batched on the device the tensors live on.

Two published pairs of encoder and decoder exist, ``udp`` and ``msra``; a head trained with one is read with the same.
Source: ViTPose (ViTAE-Transformer/ViTPose @ c050ed2), ``top_down_transform.py`` (targets), ``top_down_eval.py``
(decoding), ``post_transforms.py`` (flip); the refinement is DARK (Zhang et al., CVPR 2020) as modified by UDP.

The published decoder blurs and takes the logarithm of whole maps. The refinement reads a 3x3 neighbourhood of the
maximum, so only the 13x13 pixels below it are blurred here: one core decodes about half a million points a second on
maps of 64x48 (``benchmarks/decode.py``).
"""

from math import ceil
from typing import ClassVar, Literal

import cv2
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.codecs.codec import Codec, mean_place
from posecore.codecs.spread import REACH, ROUNDED, at_least, second_moments

_LOWEST, _HIGHEST = 0.001, 50.0
_HESSIAN_RIDGE = 1.1920929e-07  # float32 machine epsilon, as published
_LEAST_PEAK = 1e-3

SHARPNESS = 20.0
"""What a map, divided by its maximum, is multiplied by before the softmax that makes a distribution of it.

All 49,152 empty pixels of a map of 256x192 then weigh 1e-4 of its peak and draw the mean less than a pixel towards the
middle; a Gaussian of sigma 2 keeps a spread of half a pixel. The published 500 is an arg-max whose gradient reaches
hardly any pixel.
"""


class HeatmapCodec(Codec):
    """One way to draw a keypoint as a map and to read it back.

    Attributes:
        kind: ``udp`` centres the Gaussian on the exact point and refines by Taylor expansion; ``msra`` rounds the
            centre to a pixel and moves a quarter pixel towards the larger neighbour.
        input_size: (height, width) of the crop in pixels.
        heatmap_size: (height, width) of the map.
        heatmap_sigma: spread of the Gaussian in heatmap pixels; 2 belongs to 64x48, 3 to 96x72.
        blur_kernel: side of the Gaussian blur before the refinement; 11 belongs to sigma 2, 17 to sigma 3.
        blur_border: what the blur sees beyond the map: its mirror image, as in ViTPose, or zeros, as in mmpose 1 and
            Sapiens, which draw a point within half a kernel of the border inwards. (Those also scale the blurred map
            to its former maximum: a constant in the logarithm.)
    """

    kind: Literal["udp", "msra"] = "udp"
    input_size: tuple[int, int] = (256, 192)
    heatmap_size: tuple[int, int] = (64, 48)
    heatmap_sigma: float = 2.0
    blur_kernel: int = 11
    blur_border: Literal["mirror", "zero"] = "mirror"
    loss: ClassVar[str] = "squared_error"

    @property
    def crop(self) -> Literal["udp", "msra"]:
        """The affine that crops for this codec are cut with (:func:`~posecore.geometry.crop_matrix`)."""
        return self.kind

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frame that decoded points live in: the map."""
        return self.heatmap_size

    @property
    def outputs_per_point(self) -> float:
        """Pixels of a map."""
        height, width = self.heatmap_size
        return height * width

    def encode(
        self, keypoints_crop: Float[Tensor, "n k 2"], weights: Float[Tensor, "n k"]
    ) -> tuple[Float[Tensor, "n k h w"], Float[Tensor, "n k"]]:
        """Draws one Gaussian per keypoint on the window of three sigmas around it.

        Args:
            keypoints_crop: x, y in crop pixels.
            weights: 0 for points that do not count; above 0.5 for points to draw.

        Returns:
            Float32 targets, all zero where nothing is drawn, and the weights, zeroed where the whole window lies
            outside the map, by more than a pixel on the left and the top.
        """
        device = keypoints_crop.device
        height, width = self.heatmap_size
        size = torch.tensor([width, height], dtype=torch.float64, device=device)
        points = keypoints_crop.double() / self._stride(device)
        pixel = torch.trunc(points + 0.5)
        radius = int(3 * self.heatmap_sigma)
        # As published, one pixel further out on the left and the top: there the end of the window, which is exclusive,
        # is asked not to be negative. Such a point counts and has an empty map.
        inside = ((pixel + radius + 1 >= 0) & (pixel - radius < size)).all(dim=-1)
        weights = weights * inside
        peak = points if self.kind == "udp" else pixel
        column, row = (
            self._profile(peak[..., axis], pixel[..., axis], length, radius)
            for axis, length in ((0, width), (1, height))
        )
        row = row * (weights > 0.5)[..., None]
        return row[..., :, None] * column[..., None, :], weights

    def decode(self, heatmaps: Float[Tensor, "n k h w"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """Reads one point per map.

        Args:
            heatmaps: predictions; a flip test averages the two maps before this.

        Returns:
            Float32 x, y in heatmap pixels, and the maxima of the maps as scores. A map without a positive value gives
            (-1, -1).
        """
        maps = heatmaps.float().flatten(0, 1)
        scores, x, y = _maxima(maps)
        offset = self._taylor_offset(maps, x, y) if self.kind == "udp" else _quarter_offset(maps, x, y)
        points = torch.where((scores > 0)[:, None], torch.stack([x, y], dim=-1) + offset, -1.0)
        num_keypoints = heatmaps.shape[1]
        return points.float().reshape(-1, num_keypoints, 2), scores.reshape(-1, num_keypoints)

    def covariances(
        self, heatmaps: Float[Tensor, "n k h w"], points: Float[Tensor, "n k 2"]
    ) -> Float[Tensor, "n k 2 2"]:
        """Second moments about each point of the map around it, less those of the Gaussian drawn there.

        A map that is the mean of the Gaussians of all places where the point may be, which is what the squared error
        asks for, has the variance of the places plus the Gaussian's own. Only the window of :data:`REACH` sigmas is
        looked at: beyond it a map holds noise, which distance would square, and other bodies. So the result says how
        blurred a peak is, and not that another one is nearly as high.

        Args:
            heatmaps: predictions.
            points: as :meth:`decode` found them, in heatmap pixels.

        Returns:
            Float32, px² of the map, no axis below that of a rounded pixel; NaN where there is no point.
        """
        places = points.flatten(0, 1)
        found = self.blurs(heatmaps.flatten(0, 1), torch.arange(len(places), device=places.device), places)
        return torch.where((points >= 0).all(dim=-1)[..., None, None], found.reshape(*points.shape, 2), torch.nan)

    def blurs(
        self, maps: Float[Tensor, "m h w"], which: Int[Tensor, " q"], points: Float[Tensor, "q 2"]
    ) -> Float[Tensor, "q 2 2"]:
        """As :meth:`covariances`, of any points on any maps.

        Args:
            maps: predictions.
            which: map of each point.
            points: in pixels of the map.
        """
        height, width = maps.shape[-2:]
        pixel = torch.round(points).nan_to_num().long()
        radius = int(3 * self.heatmap_sigma)
        around = torch.arange(-ceil(REACH * self.heatmap_sigma), ceil(REACH * self.heatmap_sigma) + 1)
        lines, offsets, drawn = [], [], []
        for axis, length in ((0, width), (1, height)):
            line = pixel[:, axis, None] + around.to(points.device)
            offset = line - points[:, axis, None]
            gaussian = torch.exp(-(offset**2) / (2 * self.heatmap_sigma**2))
            gaussian = gaussian * _inside(line, length) * (around.abs() <= radius).to(points.device)
            lines.append(line)
            offsets.append(offset)
            drawn.append(gaussian)
        inside = _inside(lines[1], height)[:, :, None] & _inside(lines[0], width)[:, None, :]
        at = lines[1].clamp(0, height - 1)[:, :, None] * width + lines[0].clamp(0, width - 1)[:, None, :]
        patch = maps.float().flatten(1)[which[:, None], at.flatten(1)].reshape(inside.shape)
        own = drawn[1][:, :, None] * drawn[0][:, None, :]
        spread = _mean_moments((patch * inside).clamp(min=0), *offsets) - _mean_moments(own, *offsets)
        return at_least(spread, ROUNDED)

    def flip_back(
        self, heatmaps: Float[Tensor, "n k h w"], flip_indices: Int[Tensor, " k"], shift: bool
    ) -> Float[Tensor, "n k h w"]:
        """Maps of the mirrored image in the frame of the original one: sides swapped, columns reversed.

        Args:
            heatmaps: predictions for the mirrored crop.
            flip_indices: mirror partner of every keypoint.
            shift: move the result right by one column, leaving column 0, which aligns crops of the ``msra`` convention.
        """
        restored = heatmaps[:, flip_indices].flip(-1)
        return torch.cat([restored[..., :1], restored[..., :-1]], dim=-1) if shift else restored

    def expect(self, heatmaps: Float[Tensor, "n k h w"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """Means of the maps' softmax, in heatmap pixels, and their maxima, without gradient."""
        maps = heatmaps.float()
        confidence = maps.detach().amax(dim=(2, 3))
        sharpness = SHARPNESS / confidence.clamp(min=_LEAST_PEAK)
        weights = (sharpness[..., None] * maps.flatten(2)).softmax(dim=-1).unflatten(2, maps.shape[2:])
        means = [mean_place(weights.sum(dim=2)), mean_place(weights.sum(dim=3))]
        return torch.stack(means, dim=-1), confidence

    def _stride(self, device: torch.device) -> Tensor:
        """(2,) float64 crop pixels per heatmap pixel in x, y."""
        shorten = 1 if self.kind == "udp" else 0
        ratio = [(i - shorten) / (h - shorten) for i, h in zip(self.input_size, self.heatmap_size, strict=True)]
        return torch.tensor(ratio[::-1], dtype=torch.float64, device=device)

    def _profile(self, peak: Tensor, pixel: Tensor, length: int, radius: int) -> Tensor:
        """One axis of the Gaussian: (n, k, length) float32, zero beyond ``radius`` of ``pixel`` and for NaN."""
        grid = torch.arange(length, dtype=torch.float64, device=peak.device)
        values = torch.exp(-((grid - peak[..., None]) ** 2) / (2 * self.heatmap_sigma**2))
        return torch.where((grid - pixel[..., None]).abs() <= radius, values, 0.0).float()

    def _taylor_offset(self, maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(m, 2) float64 Newton step from the pixels (x, y) to the maxima of the maps' blurred logarithm."""
        height, width = maps.shape[-2:]
        reach = self.blur_kernel // 2 + 1
        around = torch.arange(-reach, reach + 1, device=maps.device)
        rows, columns = y[:, None] + around, x[:, None] + around
        places = (_reflect(rows, height)[:, :, None] * width + _reflect(columns, width)[:, None, :]).flatten(1)
        patch = maps.flatten(1).gather(1, places).reshape(-1, len(around), len(around))
        if self.blur_border == "zero":
            patch = patch * _inside(rows, height)[:, :, None] * _inside(columns, width)[:, None, :]
        blur = self._blur_to_three(maps.device)
        smooth = ((patch @ blur).transpose(1, 2) @ blur).transpose(1, 2)
        logs = smooth.clamp(_LOWEST, _HIGHEST).log()
        lines = _replicate_edge(logs, y, height).transpose(1, 2)
        return _newton_step(_replicate_edge(lines, x, width).transpose(1, 2).double())

    def _blur_to_three(self, device: torch.device) -> Tensor:
        """(blur_kernel + 2, 3) matrix that blurs a line of pixels and keeps the middle three."""
        taps = torch.from_numpy(cv2.getGaussianKernel(self.blur_kernel, 0)[:, 0])
        columns = [torch.nn.functional.pad(taps, (shift, 2 - shift)) for shift in range(3)]
        return torch.stack(columns, dim=1).to(device, torch.float32)


def _mean_moments(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(m, 2, 2) means of what :func:`second_moments` sums."""
    return second_moments(weights, x, y) / weights.sum(dim=1).sum(dim=1).clamp(min=_LEAST_PEAK)[:, None, None]


def _maxima(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum of each (m, h, w) map and its first place: (m,) values, columns and rows."""
    flat = maps.flatten(1)
    # On the CPU numpy's vectorised argmax is seven times torch's; a graph cannot hold it.
    by_numpy = flat.device.type == "cpu" and not torch.onnx.is_in_onnx_export()
    place = torch.from_numpy(flat.detach().numpy().argmax(1)) if by_numpy else flat.argmax(1)
    return flat.gather(1, place[:, None])[:, 0], place % maps.shape[2], place // maps.shape[2]


def _reflect(index: Tensor, length: int) -> Tensor:
    """Indices mirrored into 0 … length - 1 without repeating the border pixel (OpenCV's reflect-101)."""
    period = max(2 * (length - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def _inside(index: Tensor, length: int) -> Tensor:
    return (index >= 0) & (index < length)


def _replicate_edge(three: Tensor, middle: Tensor, length: int) -> Tensor:
    """Replaces a row of (m, 3, 3) neighbourhoods that lies beyond the border by the border row, which is the middle."""
    first = torch.where((middle == 0)[:, None], three[:, 1], three[:, 0])
    last = torch.where((middle == length - 1)[:, None], three[:, 1], three[:, 2])
    return torch.stack([first, three[:, 1], last], dim=1)


def _newton_step(logs: Tensor) -> Tensor:
    """(m, 2) step -(H + eps I)^-1 g in x, y from the middle of (m, 3, 3) values; 0 where the matrix is singular."""
    (upper_left, up, _), (left, here, right), (_, down, lower_right) = (row.unbind(1) for row in logs.unbind(1))
    gradient_x, gradient_y = (right - left) / 2, (down - up) / 2
    xx, yy = right - 2 * here + left + _HESSIAN_RIDGE, down - 2 * here + up + _HESSIAN_RIDGE
    xy = (lower_right - right - down + 2 * here - left - up + upper_left) / 2
    determinant = xx * yy - xy * xy
    step = torch.stack([xy * gradient_y - yy * gradient_x, xy * gradient_x - xx * gradient_y], dim=-1)
    return torch.where((determinant != 0)[:, None], step / determinant[:, None], 0.0)


def _quarter_offset(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(m, 2) quarter pixel towards the larger neighbour, 0 within a pixel of the border."""
    height, width = maps.shape[-2:]
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    at_x, at_y = x.clamp(1, width - 2), y.clamp(1, height - 2)
    place = (at_y * width + at_x)[:, None]
    left, right, up, down = maps.flatten(1).gather(1, place + place.new_tensor([-1, 1, -width, width])).unbind(1)
    slope_x, slope_y = right - left, down - up
    return 0.25 * torch.stack([slope_x, slope_y], dim=-1).sign() * inside[:, None]
