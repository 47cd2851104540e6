"""Somebody's ONNX file as a model: its graph is run as it is by onnxruntime, and nothing in it can be trained.

The graph, as bytes, is the one tensor of the backbone, and what it gives are the outputs that a codec reads; so such a
model is saved, judged, asked and traced as any other. :mod:`posecore.models.weights.onnx_file` reads the files.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.simcc import SimccCodec
from posecore.extras import needed
from posecore.geometry import CropConvention
from posecore.models.backbone import Backbone, BackboneModule
from posecore.models.bounds import MAX_INPUT_PX, MAX_RATIO, MAX_WIDTH
from posecore.models.groups import Group
from posecore.models.head import Head, Surroundings
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD

MAX_GRAPH_BYTES = (1 << 31) - 1
"""Of a graph with its weights: an ONNX file cannot hold more."""
NEEDED_BY = "an ONNX file as a model"

_Side = Annotated[int, Field(gt=0, le=MAX_INPUT_PX * MAX_RATIO)]
_Colours = tuple[float, float, float]


class OnnxGraphConfig(Backbone):
    """A graph and what goes in and comes out.

    Attributes:
        kind: names this backbone.
        num_bytes: of the graph with its weights.
        num_parameters: numbers among them.
        input_name: of the graph's one input.
        output_names: of its outputs in the order they are read: heatmaps, or the bins of x and those of y, apart or as
            one.
        output_shape: (K, h, w) heatmaps, or (K, X + Y) bins, of one crop.
        batch: crops the graph takes at once; None for any number.
        layout: order of the input's axes.
        channels: order of its colours.
        mean: subtracted from these colours in [0, 1].
        std: what they are divided by after that.
        stride: crop pixels per pixel of a heatmap; 1 for bins.
    """

    learns: ClassVar[bool] = False
    finished: ClassVar[bool] = True

    kind: Literal["onnx"] = "onnx"
    num_bytes: int = Field(gt=0, le=MAX_GRAPH_BYTES)
    num_parameters: int = Field(ge=0)
    input_name: str
    output_names: tuple[str, ...] = Field(min_length=1, max_length=2)
    output_shape: tuple[_Side, ...] = Field(min_length=2, max_length=3)
    batch: int | None = Field(default=None, gt=0, le=MAX_WIDTH)
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: _Colours = IMAGENET_MEAN
    std: _Colours = IMAGENET_STD
    stride: int = Field(default=1, gt=0, le=MAX_INPUT_PX)

    @property
    def size_multiple(self) -> int:
        """Crop sides are multiples of this."""
        return self.stride

    @property
    def uncounted_parameters(self) -> int:
        """Those of the graph."""
        return self.num_parameters

    def build(self, input_size: tuple[int, int], tasks: Sequence[str]) -> "OnnxGraph":
        """A graph whose bytes are still to come."""
        return OnnxGraph(self)


class OnnxGraph(BackboneModule):
    """Crops to what the graph makes of them; it has no features but its outputs.

    Args:
        config: what goes in and comes out.
    """

    def __init__(self, config: OnnxGraphConfig) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.output_shape[0]
        self.graph: Tensor
        self.register_buffer("graph", torch.zeros(config.num_bytes, dtype=torch.uint8))
        self._session: tuple[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the session, which belongs to a process."""
        return self.__dict__ | {"_session": None}

    def forward(self, images: Tensor, groups: list[Group]) -> Tensor:
        """(B, 3, H, W) normalised RGB to (B, K, h, w) heatmaps or (B, K, X + Y) bins, float32, without gradients."""
        if images.is_meta or not len(images):
            return images.new_zeros((len(images), *self.config.output_shape))
        return self.answers(images, self._on(images.device))

    def answers(self, images: Tensor, session: Any) -> Tensor:
        """As :meth:`forward` by a session of whoever runs the graph."""
        config = self.config
        crops = self._as_wanted(images.detach().float()).cpu().numpy()
        size = config.batch or len(crops)
        found = []
        for start in range(0, len(crops), size):
            part = crops[start : start + size]
            missing = size - len(part)
            given = torch.cat([torch.from_numpy(part), torch.zeros((missing, *part.shape[1:]))]).numpy()
            outputs = session.run(list(config.output_names), {config.input_name: given})
            found.append(torch.cat([torch.from_numpy(lines) for lines in outputs], dim=-1)[: len(part)])
        return torch.cat(found).float().to(images.device)

    def _as_wanted(self, images: Tensor) -> Tensor:
        config = self.config
        order = [0, 1, 2] if config.channels == "rgb" else [2, 1, 0]
        images = images[:, order]
        ours = tuple(tuple(values[place] for place in order) for values in (IMAGENET_MEAN, IMAGENET_STD))
        if (config.mean, config.std) != ours:
            mean, std, their_mean, their_std = (
                torch.tensor(values, device=images.device).view(3, 1, 1) for values in (*ours, config.mean, config.std)
            )
            images = (images * std + mean - their_mean) / their_std
        return images if config.layout == "nchw" else images.permute(0, 2, 3, 1).contiguous()

    def _on(self, device: torch.device) -> Any:
        if self._session is None or self._session[0] != device.type:
            self._session = device.type, open_session(self.graph.cpu().numpy().tobytes(), device.type)
        return self._session[1]


class _AsItIs(Head):
    """What an ONNX graph gives is the answer already."""

    @property
    def upsampling(self) -> int:
        """1: there is nothing to enlarge."""
        return 1

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> nn.Module:
        """Nothing to be done."""
        return nn.Identity()


class OnnxHeatmapsConfig(_AsItIs):
    """Heatmaps that an ONNX graph gives as they are."""

    kind: Literal["onnx_heatmaps"] = "onnx_heatmaps"


class OnnxBinsConfig(_AsItIs):
    """SimCC bins that an ONNX graph gives as they are, those of x first.

    Attributes:
        kind: names this head.
        split_ratio: bins per crop pixel.
    """

    crop: ClassVar[CropConvention | None] = "msra"

    kind: Literal["onnx_bins"] = "onnx_bins"
    split_ratio: int = Field(default=2, gt=0, le=MAX_RATIO)

    def codec(self, convention: CropConvention, model: Surroundings) -> SimccCodec:
        """SimCC's, of this many bins per pixel."""
        return SimccCodec(input_size=model.input_size, split_ratio=self.split_ratio)


def open_session(graph: bytes | str, device: str = "cpu") -> Any:
    """A graph ready to run, with as many threads as torch uses.

    Args:
        graph: an ONNX file's bytes, or its path.
        device: ``cuda`` runs there if this onnxruntime can.

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    runtime = needed("onnxruntime", NEEDED_BY)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] * (device == "cuda") + ["CPUExecutionProvider"]
    available = runtime.get_available_providers()
    return runtime.InferenceSession(graph, options, providers=[name for name in wanted if name in available])
