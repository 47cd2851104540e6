"""What an exported file computes: from crops to outputs, from a picture to keypoints, or as rtmlib has it.

Every graph is a module with names and example inputs, so that one exporter and one check serve all of them.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from posecore.codecs.codec import Codec
from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.queries import QueryCodec
from posecore.codecs.scene import SelectionConfig
from posecore.codecs.simcc import SimccCodec
from posecore.errors import ConfigError
from posecore.geometry import CropConvention
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from posecore.models.pose_model import PoseModel

GraphLayout: TypeAlias = Literal["crops", "picture", "rtmlib"]

_RTMLIB_PADDING = 1.25
_RTMLIB_SPLIT_RATIO = 2
_RTMLIB_BLUR_KERNEL = 11


class Graph(nn.Module):
    """One head's graph.

    Attributes:
        inputs: names, in the order of :meth:`forward`.
        outputs: likewise.
        free_axes: by input or output, the names of its axes that are not fixed.
    """

    inputs: ClassVar[tuple[str, ...]]
    outputs: tuple[str, ...]
    free_axes: dict[str, dict[int, str]]

    mean: Tensor
    std: Tensor

    def __init__(self, model: PoseModel, task: str) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head(task)
        self.input_size = model.input_size
        self.codec = model.codec(task)
        self.padding = model.conventions[task].padding
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def answers(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) normalised RGB to what the head's codec decodes."""
        return self.head(self.backbone(crops, ()))

    def crops(self, image: Tensor, boxes: Tensor) -> Tensor:
        """(H, W, 3) uint8 RGB and (N, 4) boxes to (N, 3, h, w) normalised RGB, as the predictor cuts them."""
        return self.regions(image, *_regions(boxes, self.input_size, self.padding))

    def regions(self, image: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """(H, W, 3) uint8 RGB to (N, 3, h, w) normalised RGB of regions, by (N, 2) centres and sizes."""
        pixels = cut_crops(image, center, scale, self.input_size, self.codec.crop)
        return (pixels / 255 - self.mean) / self.std

    def points(self, outputs: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`answers` says of (N, 4) boxes' crops, as (N, K, 2) places in the picture and (N, K) scores."""
        found, scores = self.codec.decode(outputs)
        return _in_picture(found, *_regions(boxes, self.input_size, self.padding), self.codec), scores

    def given(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """The inputs of the graph for (H, W, 3) uint8 RGB and (N, 4) float32 boxes in its pixels."""
        raise NotImplementedError

    def read(self, outputs: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The graph's outputs for what was given, as :meth:`points` has them."""
        return self.points(torch.cat(list(outputs), dim=-1), boxes)

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Inputs with so many crops."""
        raise NotImplementedError


class CropGraph(Graph):
    """``images``, (B, 3, H, W) float32 RGB crops, normalised, to ``outputs``, what the head's codec decodes."""

    inputs = ("images",)
    outputs: tuple[str, ...] = ("outputs",)
    free_axes = {"images": {0: "batch"}, "outputs": {0: "batch"}}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return (self.answers(images),)

    def given(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """The crops."""
        return (self.crops(image, boxes),)

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise."""
        return (torch.randn(count, 3, *self.input_size, generator=generator),)


class HeadsGraph(CropGraph):
    """As :class:`CropGraph` for several heads, one output each, in the order of their names.

    Args:
        model: without experts.
        tasks: names of the heads.
    """

    def __init__(self, model: PoseModel, tasks: Sequence[str]) -> None:
        super().__init__(model, tasks[0])
        self.further = nn.ModuleList(model.head(task) for task in tasks[1:])
        self.outputs = tuple(f"outputs_{place}" for place in range(len(tasks)))
        self.free_axes = {name: {0: "batch"} for name in (*self.inputs, *self.outputs)}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.backbone(images, ())
        return tuple(head(features) for head in (self.head, *self.further))


class PictureGraph(Graph):
    """``image``, (H, W, 3) uint8 RGB, and ``boxes``, (N, 4) float32 x, y, width, height in its pixels, to keypoints.

    ``keypoints`` are (N, K, 2) float32 x, y in pixels of the picture, ``scores`` (N, K); N is not 0. Cropping and
    decoding are the predictor's, without the mirrored crop.
    """

    inputs = ("image", "boxes")
    outputs = ("keypoints", "scores")
    free_axes = {
        "image": {0: "height", 1: "width"},
        "boxes": {0: "bodies"},
        "keypoints": {0: "bodies"},
        "scores": {0: "bodies"},
    }

    def forward(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return self.points(self.answers(self.crops(image, boxes)), boxes)

    def given(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """As they are."""
        return image, boxes

    def read(self, outputs: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """As they are."""
        keypoints, scores = outputs
        return keypoints, scores

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Boxes on smooth blobs, which reach beyond the picture."""
        height, width = 96, 128
        image = _blobs(height, width, generator)
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6 - 10
        sizes = (0.3 + 0.4 * torch.rand(count, 2, generator=generator)) * torch.tensor([width, height])
        return image, torch.cat([corners, sizes], dim=1)


class BodiesGraph(Graph):
    """``image``, (H, W, 3) uint8 RGB, to the bodies in it, the surest first: as many as there are queries, 50 at most.

    ``boxes`` are (M, 4) float32 x, y, width, height in pixels of the picture, ``keypoints`` (M, K, 2) x, y, ``scores``
    (M,) of the bodies, ``keypoint_scores`` (M, K), and ``covariances`` (M, K, 2, 2) of x and y, px². Which scores are
    enough is the user's to say. Fitting the picture and reading the outputs are the predictor's.

    Raises:
        ConfigError: the head finds bodies in no pass of its own.
    """

    inputs = ("image",)
    outputs = ("boxes", "keypoints", "scores", "keypoint_scores", "covariances")
    free_axes = {"image": {0: "height", 1: "width"}}

    def __init__(self, model: PoseModel, task: str) -> None:
        super().__init__(model, task)
        if not isinstance(self.codec, QueryCodec):
            model.refuse_scenes("layout picture")
            raise AssertionError(self.codec.kind)
        self.queries = self.codec

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        center, scale = _whole(image, self.input_size)
        answer = self.answers(self.regions(image, center, scale))
        scores, boxes, points, point_scores, covariances = self.queries.answers(answer, SelectionConfig().max_bodies)
        step = scale / (self.queries.sides(scale) - 1)
        corners = boxes.unflatten(-1, (2, 2))[0] * step + (center - scale / 2)
        return (
            torch.cat([corners[:, 0], corners[:, 1] - corners[:, 0]], dim=-1),
            points[0] * step + (center - scale / 2),
            scores[0],
            point_scores[0],
            covariances[0] * (step[:, :, None] * step[:, None]),
        )

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Smooth blobs in pictures of different shapes."""
        return (_blobs(64 + 16 * count, 128, generator),)


class RtmlibGraph(Graph):
    """What the classes of rtmlib 0.0.16 run: ``RTMPose`` for SimCC, ``ViTPose`` for heatmaps.

    They crop pictures as OpenCV reads them, which are BGR, and normalise them with the mean and deviation of RGB; the
    graph puts both right first. The outputs are ``simcc_x`` and ``simcc_y``, or ``heatmaps``.

    Raises:
        ConfigError: rtmlib crops or decodes otherwise than the head does.
    """

    inputs = ("input",)
    factor: Tensor
    offset: Tensor

    def __init__(self, model: PoseModel, task: str) -> None:
        super().__init__(model, task)
        if self.padding != _RTMLIB_PADDING:
            raise ConfigError(
                f"rtmlib enlarges boxes by {_RTMLIB_PADDING}, and head {task} was trained at {self.padding:g}."
            )
        self._check_codec(task)
        self.outputs = ("simcc_x", "simcc_y") if isinstance(self.codec, SimccCodec) else ("heatmaps",)
        self.free_axes = {name: {0: "batch"} for name in (*self.inputs, *self.outputs)}
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("factor", (std.flip(0) / std).view(3, 1, 1), persistent=False)
        self.register_buffer("offset", ((mean.flip(0) - mean) / std).view(3, 1, 1), persistent=False)

    def _check_codec(self, task: str) -> None:
        codec = self.codec
        if isinstance(codec, SimccCodec):
            if codec.split_ratio != _RTMLIB_SPLIT_RATIO:
                raise ConfigError(
                    f"rtmlib reads {_RTMLIB_SPLIT_RATIO} bins per pixel, and head {task} has {codec.split_ratio}."
                )
            return
        if not isinstance(codec, HeatmapCodec):
            raise ConfigError(
                f"rtmlib reads heatmaps and SimCC, and head {task} has {codec.kind}; use the layout picture."
            )
        if (codec.kind, codec.blur_kernel, codec.blur_border) != ("udp", _RTMLIB_BLUR_KERNEL, "mirror"):
            raise ConfigError(
                f"rtmlib reads heatmaps as ViTPose's are (udp, a blur of {_RTMLIB_BLUR_KERNEL} pixels), and those of "
                f"head {task} are {codec.kind} with {codec.blur_kernel} pixels and the border {codec.blur_border}; use "
                "the layout picture, which needs no other software."
            )

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        outputs = self.answers(crops.flip(1) * self.factor + self.offset)
        return self.codec.split(outputs) if isinstance(self.codec, SimccCodec) else (outputs,)

    def given(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """The crops as rtmlib would have them of a picture that OpenCV read, cut as the predictor cuts them."""
        return (((self.crops(image, boxes) - self.offset) / self.factor).flip(1),)

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise."""
        return (torch.randn(count, 3, *self.input_size, generator=generator),)


GRAPHS: dict[GraphLayout, type[Graph]] = {"crops": CropGraph, "picture": PictureGraph, "rtmlib": RtmlibGraph}


def graph_of(model: PoseModel, task: str, layout: GraphLayout) -> Graph:
    """The graph of a layout for one head.

    Raises:
        ConfigError: the layout cannot hold what the head says.
    """
    if not model.config.whole_scenes or layout == "crops":
        return GRAPHS[layout](model, task)
    if layout == "picture":
        return BodiesGraph(model, task)
    model.refuse_scenes(f"layout {layout}")
    raise AssertionError(layout)


def _blobs(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(height, width, 3) uint8, smooth."""
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
    image = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return image[0].permute(1, 2, 0).to(torch.uint8).contiguous()


def _whole(image: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """As :func:`posecore.loading.scene.whole_regions`: (1, 2) centre and size of what shows the whole picture."""
    height, width = (torch.scalar_tensor(image.shape[axis]) for axis in (0, 1))
    extent = (torch.stack([width, height]) - 1).clamp(min=1)
    ratio = (input_size[1] - 1) / (input_size[0] - 1)
    x, y = torch.maximum(extent[0], extent[1] * ratio), torch.maximum(extent[1], extent[0] / ratio)
    return torch.stack([width - 1, height - 1])[None] / 2, torch.stack([x, y])[None]


def _regions(boxes: Tensor, input_size: tuple[int, int], padding: float) -> tuple[Tensor, Tensor]:
    """As :func:`posecore.loading.crop.box_region`: (N, 2) centre and size of what is cut for (N, 4) boxes."""
    height, width = input_size
    size = boxes[:, 2:]
    size = torch.where((size <= 0).any(dim=1, keepdim=True), size.clamp(min=1), size)
    w, h = size[:, 0], size[:, 1]
    scale = torch.stack([torch.maximum(w, h * (width / height)), torch.maximum(h, w * (height / width))], dim=1)
    return boxes[:, :2] + size / 2, scale * padding


def cut_crops(
    image: Tensor, center: Tensor, scale: Tensor, input_size: tuple[int, int], crop: CropConvention
) -> Tensor:
    """As ``cv2.warpAffine`` with :func:`posecore.geometry.crop_matrix`: bilinear, black outside, rounded.

    Args:
        image: (H, W, 3) uint8.
        center: (N, 2) x, y in pixels of the picture.
        scale: (N, 2) width, height likewise.
        input_size: (height, width) of the crops.
        crop: the affine.

    Returns:
        (N, 3, height, width) float32 from 0 to 255.
    """
    height, width = input_size
    if crop == "udp":
        step = scale / torch.tensor([width - 1.0, height - 1.0])
        middle = ((width - 1) / 2, (height - 1) / 2)
    else:
        step = (scale[:, :1] / width).expand(-1, 2)
        middle = (width / 2, height / 2)
    sides = (width, height)
    places = [(torch.arange(sides[i]) - middle[i]) * step[:, i : i + 1] + center[:, i : i + 1] for i in (0, 1)]
    (left, x_weights), (top, y_weights) = (_neighbours(place, image.shape[1 - i]) for i, place in enumerate(places))
    pixels = image.reshape(-1, 3)
    total = torch.zeros(())
    for rows, by_row in zip(top, y_weights, strict=True):
        for columns, by_column in zip(left, x_weights, strict=True):
            index = rows[:, :, None] * image.shape[1] + columns[:, None, :]
            weight = by_row[:, :, None] * by_column[:, None, :]
            total = total + pixels[index].float() * weight[..., None]
    return torch.round(total).permute(0, 3, 1, 2)


def _neighbours(place: Tensor, length: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The pixels before and after each place on an axis, within it, and their weights, 0 for those beyond it."""
    before = torch.floor(place)
    share = place - before
    indices, weights = [], []
    for pixel, weight in ((before, 1 - share), (before + 1, share)):
        inside = (pixel >= 0) & (pixel <= length - 1)
        indices.append(torch.where(inside, pixel, 0.0).long())
        weights.append(torch.where(inside, weight, 0.0))
    return (indices[0], indices[1]), (weights[0], weights[1])


def _in_picture(points: Tensor, center: Tensor, scale: Tensor, codec: Codec) -> Tensor:
    """As :func:`posecore.geometry.heatmap_to_image`."""
    height, width = codec.frame_size
    last = 1.0 if codec.crop == "udp" else 0.0
    steps = torch.tensor([width - last, height - last])
    return points * (scale / steps)[:, None] + (center - scale / 2)[:, None]
