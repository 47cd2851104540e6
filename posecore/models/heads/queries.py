"""A head for whole pictures that says bodies at once: score, box, points and their covariances, from queries.

Source: Liu et al., GroupPose (arXiv 2308.07313) and Yang et al., ED-Pose (arXiv 2302.01593): queries of a body and of
each of its points, refined layer by layer from the best places of the feature grid. Every layer moves boxes and points
by shares of the body's size, as RF-DETR does with boxes (arXiv 2511.09554), so that what is learned of large bodies
holds for small ones. Here one grid of features is read, that of the backbone; and queries of points are the only
weights that know of a skeleton, so that all others are common to skeletons.
"""

import math
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from posecore.codecs.queries import QueryCodec
from posecore.geometry import CropConvention
from posecore.models.bounds import MAX_WIDTH
from posecore.models.head import Approach, Head, Surroundings
from posecore.models.heads.query_decoder import DecoderLayer, embed_places

_PROPOSED_SIDE = 0.2
"""Side of a box before anything is learned, as a share of the picture's."""
_LOG_SIZES = 4.0
"""A layer changes a side by less than this many times e, whatever it says."""
_RARE = math.log(0.01 / 0.99)
"""Logit of a score before anything is learned (Lin et al., arXiv 1708.02002)."""
_SPREAD = [math.log(0.1), math.log(0.1), 0.0]
"""Of a point before anything is learned: it is off by a tenth of its body's side, either way."""


class QueryHeadConfig(Head):
    """Scores, boxes, points and covariances of at most as many bodies as there are queries.

    Attributes:
        kind: names this head.
        num_queries: most bodies of a picture; never more than the feature grid has places.
        channels: width of the decoder.
        num_layers: of the decoder.
        num_heads: of attention; ``channels`` must be 8 times a multiple of it.
        num_samples: places around it at which every head of a query reads the picture.
        hidden: width of the feed-forward parts.
    """

    kind: Literal["queries"] = "queries"
    num_queries: int = Field(default=100, gt=0, le=1000)
    channels: int = Field(default=256, gt=0, le=MAX_WIDTH)
    num_layers: int = Field(default=3, gt=0, le=12)
    num_heads: int = Field(default=8, gt=0, le=64)
    num_samples: int = Field(default=4, gt=0, le=64)
    hidden: int = Field(default=1024, gt=0, le=4 * MAX_WIDTH)
    crop: ClassVar[CropConvention | None] = "udp"
    whole_scenes: ClassVar[bool] = True
    approach: ClassVar[Approach] = "one-stage"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.channels % 8 or self.channels % self.num_heads:
            raise ValueError(f"channels {self.channels} must be a multiple of 8 and of num_heads {self.num_heads}.")
        return self

    @property
    def upsampling(self) -> int:
        """One: there are no maps."""
        return 1

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> "QueryHead":
        """A freshly initialised head; it serves features of any size."""
        return QueryHead(self, num_features, num_keypoints)

    def codec(self, convention: CropConvention, model: Surroundings) -> QueryCodec:
        """Sets of bodies in pictures of the model's size."""
        return QueryCodec(input_size=model.input_size)


class QueryHead(nn.Module):
    """See the module's description; arguments as :meth:`QueryHeadConfig.build`."""

    def __init__(self, config: QueryHeadConfig, num_features: int, num_keypoints: int) -> None:
        super().__init__()
        width, layers = config.channels, range(config.num_layers)
        self.num_queries = config.num_queries
        self.project = nn.Conv2d(num_features, width, kernel_size=1)
        self.norm = nn.LayerNorm(width)
        self.proposed_score = _score(width)
        self.proposed_box = _perceptron(width, 4)
        self.body_query = nn.Parameter(torch.randn(1, width))
        self.hinted_query = nn.Parameter(torch.randn(1, width))
        self.point_queries = nn.Parameter(torch.randn(num_keypoints, width))
        self.point_places = nn.Parameter(torch.zeros(num_keypoints, 2))
        self.point_factors = nn.Parameter(torch.tensor(_SPREAD).repeat(num_keypoints, 1))
        self.where = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.num_heads, config.num_samples, config.hidden) for _ in layers
        )
        self.out_norm = nn.LayerNorm(width)
        self.scores = nn.ModuleList(_score(width) for _ in layers)
        self.boxes = nn.ModuleList(_perceptron(width, 4) for _ in layers)
        self.moves = nn.ModuleList(_perceptron(width, 2) for _ in layers)
        self.factors = nn.ModuleList(_said_at_first(nn.Linear(width, 3), _SPREAD) for _ in layers)

    def forward(self, features_BDhw: Tensor, hints: Tensor | None = None) -> Tensor:
        """What every layer says, the proposals first; the last one is the answer.

        Args:
            features_BDhw: of the backbone.
            hints: (B, G, M, 4 + 2K) float32 of bodies that queries of their own begin with, in groups that do not see
                each other: x, y of the centre, width and height of the box, x, y of the points, shares of the input;
                NaN for bodies and points that are not known.

        Returns:
            (B, L, Q + G · M, 5 + 5K) float32 as :class:`~posecore.codecs.queries.QueryCodec` splits it; the first
            layer says of what was hinted at what the hint said.
        """
        picture = self.norm(self.project(features_BDhw).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        logits, boxes = self._proposals(picture)
        points = self._usual_points(boxes)
        num_queries, sees = logits.shape[1], None
        if hints is not None:
            hinted_boxes, hinted_points = self._hinted(hints.flatten(1, 2))
            sees = _sees(hints, num_queries)
            logits = torch.cat([logits, logits.new_zeros(hinted_boxes.shape[:2])], dim=1)
            boxes, points = torch.cat([boxes, hinted_boxes], dim=1), torch.cat([points, hinted_points], dim=1)
        said = [_line(logits, boxes, points, self.point_factors.float().expand(*points.shape[:2], -1, -1))]
        contents = torch.cat([self.body_query, self.point_queries]).expand(points.shape[1], -1, -1)
        is_hinted = (torch.arange(points.shape[1], device=picture.device) >= num_queries).to(contents.dtype)
        queries = (contents + is_hinted[:, None, None] * self.hinted_query).to(picture.dtype)
        queries = queries.expand(*points.shape[:2], -1, -1)
        for number, layer in enumerate(self.layers):
            boxes, points = boxes.detach(), points.detach()
            refs = _references(boxes, points)
            where = self.where(embed_places(refs, queries.shape[-1]).to(queries.dtype))
            queries = layer(queries, where, refs, picture, sees)
            known = self.out_norm(queries)
            of_body, of_points = known[:, :, 0], known[:, :, 1:]
            points = points + self.moves[number](of_points).float() * boxes[:, :, None, 2:]
            boxes = _changed(boxes, self.boxes[number](of_body).float())
            logits = self.scores[number](of_body)[..., 0].float()
            said.append(_line(logits, boxes, points, self.factors[number](of_points).float()))
        return torch.stack(said, dim=1)

    def _proposals(self, picture_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q) and boxes (B, Q, 4) of the places of the feature grid that most likely are bodies."""
        height, width = picture_BChw.shape[2:]
        places = picture_BChw.flatten(2).transpose(1, 2)
        logits = self.proposed_score(places)[..., 0].float()
        chosen = logits.topk(min(self.num_queries, height * width), dim=1).indices
        picked = places.gather(1, chosen[..., None].expand(-1, -1, places.shape[-1]))
        x, y = (chosen % width + 0.5) / width, torch.div(chosen, width, rounding_mode="floor") / height + 0.5 / height
        centres = torch.stack([x, y], dim=-1).float()
        cells = F.pad(centres, (0, 2), value=_PROPOSED_SIDE)
        return logits.gather(1, chosen), _changed(cells, self.proposed_box(picked).float())

    def _usual_points(self, boxes: Tensor) -> Tensor:
        """(B, N, K, 2) where points usually are in boxes."""
        return boxes[:, :, None, :2] + self.point_places.float() * boxes[:, :, None, 2:]

    def _hinted(self, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and points of (B, N, 4 + 2K) hints; what is not known is where it usually is."""
        anywhere = hints.new_tensor([0.5, 0.5, _PROPOSED_SIDE, _PROPOSED_SIDE])
        boxes = torch.where(hints[..., :4].isnan(), anywhere, hints[..., :4])
        points = hints[..., 4:].unflatten(-1, (-1, 2))
        return boxes, torch.where(points.isnan(), self._usual_points(boxes), points)


def _references(boxes: Tensor, points: Tensor) -> Tensor:
    """(B, N, 1 + K, 4) where each query of a body is, and its body's width and height."""
    places = torch.cat([boxes[:, :, None, :2], points], dim=2)
    return torch.cat([places, boxes[:, :, None, 2:].expand_as(places)], dim=-1)


def _changed(boxes: Tensor, changes: Tensor) -> Tensor:
    """Boxes whose centres are moved by shares of their sides, and whose sides are multiplied."""
    factors = (_LOG_SIZES * torch.tanh(changes[..., 2:] / _LOG_SIZES)).exp()
    return torch.cat([boxes[..., :2] + changes[..., :2] * boxes[..., 2:], boxes[..., 2:] * factors], dim=-1)


def _sees(hints: Tensor, num_queries: int) -> Tensor:
    """(B, N, N) bool: queries see each other, and hinted bodies those of their own group that are known."""
    _, num_groups, num_bodies = hints.shape[:3]
    groups = torch.arange(num_groups, device=hints.device).repeat_interleave(num_bodies)
    group = torch.cat([groups.new_full((num_queries,), -1), groups])
    known = ~hints[..., 0].flatten(1).isnan()
    known = torch.cat([known.new_ones(len(hints), num_queries), known], dim=1)
    itself = torch.eye(len(group), dtype=torch.bool, device=hints.device)
    return (group[:, None] == group) & known[:, None] | itself


def _line(logits: Tensor, boxes: Tensor, points: Tensor, factors: Tensor) -> Tensor:
    """(B, N, 5 + 5K) what :meth:`~posecore.codecs.queries.QueryCodec.split` takes apart."""
    return torch.cat([logits[..., None], boxes, torch.cat([points, factors], dim=-1).flatten(2)], dim=-1)


def _perceptron(width: int, num_outputs: int) -> nn.Sequential:
    """Two layers, of which the last says nothing at first."""
    last = _said_at_first(nn.Linear(width, num_outputs), [0.0] * num_outputs)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)


def _score(width: int) -> nn.Linear:
    """A layer by which bodies are rare at first."""
    layer = nn.Linear(width, 1)
    nn.init.constant_(layer.bias, _RARE)
    return layer


def _said_at_first(layer: nn.Linear, values: list[float]) -> nn.Linear:
    """The layer, which gives these values whatever it sees, until it has learned something."""
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(values))
    return layer
