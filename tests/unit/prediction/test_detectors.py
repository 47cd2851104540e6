import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from posecore.errors import PredictionError
from posecore.prediction.detectors import TransformersDetector
from tests.support.tiny_detector import save_tiny_detector

LABELS = {0: "person", 1: "dog"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that knows two classes."""
    return str(save_tiny_detector(tmp_path_factory.mktemp("detector"), LABELS))


def test_boxes_of_the_class_come_in_image_pixels_the_surest_first(folder: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, shape, np.uint8) for shape in ((50, 70, 3), (90, 40, 3))]
    found = {label: TransformersDetector(folder, label, min_score=0.2)(images) for label in LABELS.values()}

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=images, return_tensors="pt"))
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        scores = outputs.logits[row].softmax(-1)[:, :-1]
        best = scores.max(-1)
        for label, name in LABELS.items():
            chosen = torch.nonzero((best.indices == label) & (best.values > 0.2))[:, 0]
            order = chosen[best.values[chosen].argsort(descending=True)]
            x, y, w, h = (outputs.pred_boxes[row, order] * torch.tensor([width, height, width, height])).T
            low = torch.stack([x - w / 2, y - h / 2], dim=1).clip(min=0)
            high = torch.minimum(torch.stack([x + w / 2, y + h / 2], dim=1), torch.tensor([width, height]))
            boxes = found[name][row]
            np.testing.assert_allclose(boxes.bbox_xywh, torch.cat([low, high - low], dim=1), atol=1e-3)
            np.testing.assert_allclose(boxes.scores, best.values[order], atol=1e-5)
    assert sum(len(boxes) for of_label in found.values() for boxes in of_label) > 0


def test_a_detector_that_cannot_be_used_is_explained(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PredictionError, match="does not know the class 'cat'; it finds person, dog"):
        TransformersDetector(folder, "cat")
    for source in (str(tmp_path), str(tmp_path / "absent"), "nobody/nothing@main"):
        with pytest.raises(PredictionError, match="is not a detector that can be loaded"):
            TransformersDetector(source)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PredictionError, match=r"pip install 'posecore\[detector\]'"):
        TransformersDetector(folder)
