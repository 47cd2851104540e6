"""A split whose images can be read without learning, one bright blob per keypoint, and a model that sees the blobs."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.conventions import Conventions, LabelConventions
from posecore.datasets.definition import (
    DatasetDefinition,
    EvaluationDefinition,
    LicenseDefinition,
    SplitDefinition,
)
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import HeatmapPath, PoseModel
from posecore.schema import Instance, Record
from posecore.shards.store import ShardStore, open_store
from posecore.skeletons.skeleton import Keypoint, Skeleton

HANDS = Skeleton(
    name="hands2",
    keypoints=(
        Keypoint(name="left_hand", union="left_wrist", oks_sigma=0.05, flip="right_hand"),
        Keypoint(name="right_hand", union="right_wrist", oks_sigma=0.05, flip="left_hand"),
    ),
    links=(("left_hand", "right_hand"),),
)


def hands_definition(
    evaluation: EvaluationDefinition | None = None, labels: LabelConventions | None = None
) -> DatasetDefinition:
    """A dataset of two points per body."""
    return DatasetDefinition(
        name="hands",
        title="Hands",
        reader="posecore.formats.coco:CocoReader",
        skeleton=HANDS,
        license=LicenseDefinition(id="CC0-1.0"),
        splits={"val": SplitDefinition(annotations="none.json")},
        conventions=labels or LabelConventions(),
        evaluation=evaluation or EvaluationDefinition(),
    )


def hands_store(folder: Path, definition: DatasetDefinition, num_images: int = 6, bodies: int = 2) -> ShardStore:
    """Bodies side by side on black images; the left hand is the blob on the right half of its box."""
    rng = np.random.default_rng(5)
    pictures = []
    for number in range(num_images):
        height, width = 200, 170 * bodies
        rows, columns = np.mgrid[:height, :width]
        image = np.zeros((height, width))
        instances = []
        for body in range(bodies):
            box = np.array([170 * body + 30.3, 40.0, 100.6 + 3 * number, 120.0])
            left = box[:2] + box[2:] * rng.uniform([0.65, 0.2], [0.9, 0.8])
            right = box[:2] + box[2:] * rng.uniform([0.1, 0.2], [0.35, 0.8])
            for x, y in (left, right):
                image += 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
            keypoints = np.array([[*left, 2], [*right, 2]], np.float32)
            instances.append(
                Instance(
                    id=str(100 * number + body), bbox_xywh=tuple(box), keypoints=keypoints,
                    area=float(box[2] * box[3]), area_rule="box",
                )
            )  # fmt: skip
        pictures.append((np.repeat(image.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2), instances))
    return drawn_split(definition, folder, pictures)


def drawn_split(
    definition: DatasetDefinition, folder: Path, pictures: Sequence[tuple[NDArray[np.uint8], list[Instance]]]
) -> ShardStore:
    """Ingests pictures, RGB, and their bodies."""
    root, records = folder / "raw", []
    root.mkdir(parents=True)
    for number, (image, instances) in enumerate(pictures):
        name = f"{number:03d}.png"
        cv2.imwrite(str(root / name), image[..., ::-1])
        height, width = image.shape[:2]
        records.append(
            Record(
                dataset="hands", split="val", source_id=str(number), image=name, width=width, height=height,
                instances=instances, license="CC0-1.0",
            )
        )  # fmt: skip
    job = ingest_job(definition, "val", root, folder / "shards", IngestSettings())
    ingest(job, records)
    return open_store(job.folder)


class BlobModel(PoseModel):
    """Sees brightness: its heatmaps are the crop, shrunk, each hand in its own half. Mirroring swaps the hands."""

    def __init__(self, conventions: Conventions) -> None:
        config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(128, 96))
        super().__init__(ModelCard(architecture=config, skeletons={"hands": HANDS}, conventions={"hands": conventions}))
        self.calls = 0

    @torch.no_grad()
    def predict(
        self, images: Tensor, dataset: str, path: HeatmapPath = "regression", depth: Tensor | None = None
    ) -> Tensor:
        assert not self.training
        self.calls += 1
        brightness = (images - images.amin()).mean(dim=1, keepdim=True)
        height, width = self.config.heatmap_size
        aligned = self.conventions[dataset].codec == "udp"
        small = torch.nn.functional.interpolate(brightness, (height, width), mode="bilinear", align_corners=aligned)
        if not aligned:  # pixel i of a msra heatmap stands for pixel 4·i of the crop
            small = brightness[:, :, ::4, ::4]
        right_half = torch.arange(width, device=images.device) >= width / 2
        return torch.cat([small * right_half, small * ~right_half], dim=1)
