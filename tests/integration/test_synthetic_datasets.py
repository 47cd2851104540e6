"""Synthetic datasets through the real definitions and readers: what comes out is what the renderer knows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from posecore.datasets.discovery import load_dataset, read_split
from posecore.schema import FloatArray, Record
from posecore.synth.landmarks import AP10K_17, COCO_17, CROWDPOSE_14, MPII_16, WHOLEBODY_133
from posecore.synth.scene import Body, Scene
from posecore.synth.writers import DatasetName, SynthSettings, scene_of, write_dataset

SIZE = (112, 128)
NUM: dict[Literal["train", "val"], int] = {"train": 8, "val": 5}
HUNDREDTH = 0.0051
"""Files keep hundredths of a pixel."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names: tuple[DatasetName, ...] = ("coco", "coco_wholebody", "mpii", "ap10k", "syrip", "crowdpose")
    return {name: write_dataset(name, tmp_path_factory.mktemp(name), NUM["train"], NUM["val"], SIZE) for name in names}


def scenes(name: DatasetName, split: Literal["train", "val"]) -> Iterator[tuple[str, Scene]]:
    settings = SynthSettings(dataset=name, num_train=NUM["train"], num_val=NUM["val"], image_size=SIZE)
    for position in range(NUM[split]):
        yield scene_of(settings, split, position)


def records(name: str, split: str, root: Path) -> dict[str, Record]:
    """Records by file name; a reject fails the test."""
    found = {}
    for record in read_split(load_dataset(name), split, root):
        assert isinstance(record, Record), record
        found[Path(record.image).name] = record
    return found


def annotated(scene: Scene) -> list[Body]:
    return [body for body in scene.bodies if body.role != "crowd" and body.mask.sum() >= 25]


def expected(body: Body, names: tuple[str, ...]) -> FloatArray:
    return body.keypoints(names) if body.role == "labelled" else np.zeros((len(names), 3), np.float32)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["coco", "syrip", "ap10k", "crowdpose"])
def test_coco_family(name: DatasetName, split: Literal["train", "val"], roots: dict[str, Path]) -> None:
    read = records(name, split, roots[name])
    assert len(read) == NUM[split]
    names = {"ap10k": AP10K_17, "crowdpose": CROWDPOSE_14}.get(name, COCO_17)
    for file_name, scene in scenes(name, split):
        record = read[file_name]
        assert (record.height, record.width) == SIZE
        stored = cv2.imread(str(roots[name] / record.image), cv2.IMREAD_COLOR_RGB)
        assert np.abs(stored.astype(int) - scene.image).mean() < 12  # the same picture but for JPEG
        single = [instance for instance in record.instances if not instance.is_crowd]
        bodies = [body for body in annotated(scene) if body.role == "labelled" or name != "crowdpose"]
        assert len(single) == len(bodies)
        for instance, body in zip(single, bodies, strict=True):
            truth = expected(body, names)
            if name in ("ap10k", "crowdpose"):
                truth[truth[:, 2] > 0, 2] = 2
            np.testing.assert_allclose(instance.keypoints[:, :2], truth[:, :2], atol=HUNDREDTH)
            assert (instance.keypoints[:, 2] == truth[:, 2]).all()
            assert (instance.category, instance.category_id) == (body.category, body.category_id)
            assert instance.subject_id == f"{name}-0-{body.subject}"
            rows, columns = np.nonzero(body.mask)
            box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert instance.bbox_xywh == pytest.approx(box)
            area = body.mask.sum() if name == "coco" else box[2] * box[3]
            if name == "crowdpose":  # its file has no areas; the reader's rule stands in
                area *= 0.53
            assert instance.area == pytest.approx(area, rel=0.12 if instance.area_rule == "segment" else 1e-6)


def test_crowds_are_run_lengths_of_exactly_their_pixels(tmp_path: Path) -> None:
    settings = SynthSettings(dataset="coco", num_train=60, num_val=0, image_size=(128, 128))
    root = write_dataset("coco", tmp_path, 60, 0, (128, 128))
    read = records("coco", "train", root)
    crowds = unlabelled = 0
    for position in range(60):
        file_name, scene = scene_of(settings, "train", position)
        members = [body.mask for body in scene.bodies if body.role == "crowd"]
        marked = [instance for instance in read[file_name].instances if instance.is_crowd]
        assert len(marked) == bool(members)
        unlabelled += sum(
            instance.num_keypoints == 0 and not instance.is_crowd for instance in read[file_name].instances
        )
        if members:
            rle = coco_mask.frPyObjects(marked[0].segmentation, 128, 128)
            assert (coco_mask.decode(rle) == np.logical_or.reduce(members)).all()
            assert not marked[0].keypoints.any()
            crowds += 1
    assert crowds
    assert unlabelled


def test_wholebody(roots: dict[str, Path]) -> None:
    whole_hands = 0
    for split in ("train", "val"):
        read = records("coco_wholebody", split, roots["coco_wholebody"])
        for file_name, scene in scenes("coco_wholebody", split):
            single = [instance for instance in read[file_name].instances if not instance.is_crowd]
            for instance, body in zip(single, annotated(scene), strict=True):
                truth = expected(body, WHOLEBODY_133)
                assert (instance.keypoints[:17, 2] == truth[:17, 2]).all()
                parts = {"face": range(23, 91), "lefthand": range(91, 112), "righthand": range(112, 133)}
                for part, indices in parts.items():
                    points = instance.keypoints[list(indices)]
                    assert instance.extras[f"{part}_valid"] == bool((points[:, 2] > 0).any())
                    whole_hands += part != "face" and bool((points[:, 2] > 0).all())
                labelled = instance.keypoints[:, 2] > 0
                assert not (labelled & (truth[:, 2] == 0)).any()
                np.testing.assert_allclose(instance.keypoints[labelled, :2], truth[labelled, :2], atol=HUNDREDTH)
    assert whole_hands


@pytest.mark.parametrize("form", ["json", "mat"])
def test_mpii_in_both_forms(form: str, roots: dict[str, Path]) -> None:
    read: dict[str, Record] = {}
    for split in ("train", "val") if form == "json" else ("mat_train",):
        read |= records("mpii", split, roots["mpii"])
    persons = 0
    for split in ("train", "val"):
        for file_name, scene in scenes("mpii", split):
            bodies = [body for body in scene.bodies if body.role == "labelled" and body.keypoints(MPII_16).any()]
            if not bodies:
                continue
            for instance, body in zip(read[file_name].instances, bodies, strict=True):
                truth = body.keypoints(MPII_16)
                labelled = instance.keypoints[:, 2] > 0
                wanted = truth[:, 2] > 0
                derived = np.isin(np.arange(16), [6, 7])
                assert (labelled == wanted)[~derived].all()
                assert not (labelled & ~wanted).any()
                assert labelled[6] <= (wanted[2] and wanted[3])
                np.testing.assert_allclose(instance.keypoints[labelled, :2], truth[labelled, :2], atol=HUNDREDTH)
                if form == "mat":
                    assert (instance.keypoints[labelled, 2] == truth[labelled, 2]).all()
                x, _, width, height = body.extent_xywh
                assert instance.scale is not None
                assert instance.center is not None
                assert instance.scale[0] == pytest.approx(max(width, height), abs=1e-3)
                assert instance.center[0] == pytest.approx(x + width / 2, abs=HUNDREDTH)
                if instance.head_bbox_xyxy is not None:
                    x1, y1, x2, y2 = instance.head_bbox_xyxy
                    top, neck = body.points[[body.names.index(name) for name in ("head_top", "upper_neck")], :2]
                    assert 0.8 * np.hypot(x2 - x1, y2 - y1) == pytest.approx(np.hypot(*(top - neck)), abs=0.02)
                persons += 1
    assert persons > 10
