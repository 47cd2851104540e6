"""Pictures of several bodies that can be read without learning, and models of whole pictures that read them.

A left hand is a red blob, a right hand a green one, and around both the blue says which body they are of.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.queries import QueryCodec
from posecore.codecs.scene import SceneReading
from posecore.conventions import Conventions
from posecore.datasets.definition import DatasetDefinition
from posecore.methods.batch import to_light
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.groups import Group
from posecore.models.pose_model import HeatmapPath, PoseModel
from posecore.schema import Instance
from posecore.shards.store import ShardStore
from tests.support.dot_worlds import HANDS, drawn_split

BODIES = (2, 0, 3, 1)
"""Of each picture."""


def scene_store(folder: Path, definition: DatasetDefinition, bodies: Sequence[int] = BODIES) -> ShardStore:
    """Pictures of different shapes; hands of different bodies lie nearer to each other than those of one."""
    random = np.random.default_rng(3)
    pictures = []
    for number, count in enumerate(bodies):
        height, width = ((200, 300), (240, 160))[number % 2]
        rows, columns = np.mgrid[:height, :width]
        image = np.zeros((height, width, 3))
        instances = []
        places = random.permutation(12)[: 2 * count]
        for body in range(count):
            points = []
            for channel in range(2):
                place = int(places[2 * body + channel])
                x, y = (place % 4 + random.uniform(0.4, 0.6)) * width / 4, (place // 4 + 0.5) * height / 3
                image[..., channel] += 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
                near = (abs(columns - x) < 16) & (abs(rows - y) < 16)
                image[near, 2] = 60 * (body + 1)
                points.append((x, y, 2))
            instances.append(
                Instance(
                    id=str(10 * number + body), bbox_xywh=(0, 0, width, height), area=width * height / 4,
                    keypoints=np.array(points, np.float32), area_rule="box",
                )
            )  # fmt: skip
        pictures.append((image.clip(0, 255).astype(np.uint8), instances))
    return drawn_split(definition, folder, pictures)


class SceneBlobModel(PoseModel):
    """Sees colours: its heatmaps are red and green, its tags the blue; mirroring swaps the hands."""

    head: ClassVar[dict[str, Any]] = {"kind": "associative", "channels": 8}

    def __init__(self) -> None:
        config = ModelConfig.model_validate({"backbone": "vit-nano", "head": self.head, "input_size": (160, 192)})
        conventions = {"hands": Conventions(codec="udp")}
        super().__init__(ModelCard(architecture=config, skeletons={"hands": HANDS}, conventions=conventions))
        self.calls = 0

    def features(self, images: Tensor, groups: list[Group], depth: Tensor | None = None) -> Tensor:
        """The picture itself."""
        assert not self.training
        self.calls += 1
        # Of a mirrored picture a hand is the other one, as a network would say.
        light = to_light(images)
        mirrored = self.calls % 2 == 0 and self.mirrors
        return light[:, [1, 0, 2]] if mirrored else light

    mirrors = False
    """Whether every second call is of mirrored pictures."""

    def heatmaps(self, features: Tensor, dataset: str, path: HeatmapPath = "regression") -> Tensor:
        """Red, green and blue as the codec reads them."""
        small, large = (
            torch.nn.functional.interpolate(features, size, mode="bilinear", align_corners=True) for size in MAPS.sizes
        )
        tags = 255 / 20 * small[:, 2:].expand(-1, 2, -1, -1)
        return torch.cat([small[:, :2].flatten(2), tags.flatten(2), large[:, :2].flatten(2)], dim=2)


MAPS = AssociativeCodec(input_size=(160, 192), heatmap_size=(40, 48))


class SceneSetModel(SceneBlobModel):
    """Sees the same, and says it as a set: of eight queries as many are sure as there are bodies, in no order."""

    head: ClassVar[dict[str, Any]] = {"kind": "queries", "channels": 8, "num_heads": 2, "num_layers": 1}

    def heatmaps(self, features: Tensor, dataset: str, path: HeatmapPath = "regression") -> Tensor:
        """One layer of bodies whose points are off by 2 and 4 pixels of the input along x and y."""
        codec = self.codec(dataset)
        assert isinstance(codec, QueryCodec)
        found = MAPS.bodies(super().heatmaps(features, dataset), None, HANDS, SceneReading())
        outputs = features.new_zeros(len(found), 1, 8, 5 + 5 * 2)
        outputs[..., 0] = -9.0
        for image, bodies in enumerate(found):
            for row, (points, score) in enumerate(zip(bodies.keypoints, bodies.scores, strict=True)):
                shares = codec.shares(_on_input(points))
                low, high = shares.amin(0), shares.amax(0)
                sides = (high - low).clamp(min=0.01)
                unit = float((sides * codec.sides(sides)).prod().sqrt())
                spread = torch.tensor([2 / unit, 4 / unit]).log().expand(2, -1)
                line = torch.cat([shares, spread, torch.zeros(2, 1)], dim=1).flatten()
                logit = torch.tensor([float(np.log(score / (1 - min(score, 0.999))))])
                outputs[image, 0, 7 - 2 * row] = torch.cat([logit, (low + high) / 2, sides, line])
        return outputs


def _on_input(points: np.ndarray) -> Tensor:
    """x, y in pixels of the finer maps to pixels of the input."""
    height, width = MAPS.frame_size
    return torch.from_numpy(points * np.array([191 / (width - 1), 159 / (height - 1)])).float()
