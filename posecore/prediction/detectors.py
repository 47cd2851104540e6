"""Who finds the bodies: anything that turns images into boxes, and one such thing that others have trained.

A detector is not this library's to train. The optional one is any object-detection model of Hugging Face
``transformers`` (RT-DETR, D-FINE, DETR, YOLOS …), named by a folder or a place on the hub. Of the packages that were
compared it alone installs beside this library: ``ultralytics`` (AGPL) and ``rfdetr`` need torchvision, ``rtmlib``
brings two other builds of OpenCV that overwrite ours. It is kept by many, and read here from safetensors only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]  # of the client it uses
from jaxtyping import UInt8

from posecore.errors import PredictionError
from posecore.prediction.instances import Boxes


class Detector(Protocol):
    """Images to boxes."""

    def __call__(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Boxes]:
        """The bodies in each RGB image, with scores."""
        ...


class TransformersDetector:
    """An object-detection model of ``transformers``, kept to one of its classes.

    Args:
        source: folder with ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``, or a name on the
            hub, ``organisation/name[@revision]``, such as ``PekingU/rtdetr_r50vd_coco_o365``.
        label: class to find, as the model calls it.
        min_score: boxes with a lower score are left out.
        device: where to run.

    Raises:
        PredictionError: ``transformers`` is not installed, there is no such model, or it has no such class.
    """

    def __init__(
        self, source: str, label: str = "person", min_score: float = 0.3, device: torch.device | None = None
    ) -> None:
        try:
            import transformers
        except ImportError:
            raise PredictionError(
                "the detector needs transformers, which is not installed: pip install 'posecore[detector]'; or give "
                "boxes from a file."
            ) from None
        try:
            folder = _folder(source)
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            self._model = transformers.AutoModelForObjectDetection.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, HTTPError) as error:
            detail = " ".join(str(error).split())[:200]
            raise PredictionError(
                f"{source} is not a detector that can be loaded ({detail}); name a folder with config.json, "
                "preprocessor_config.json and model.safetensors, or a model on the Hugging Face hub."
            ) from None
        labels: dict[int, str] = self._model.config.id2label
        self._classes = [number for number, known in labels.items() if known == label]
        if not self._classes:
            raise PredictionError(
                f"{source} does not know the class {label!r}; it finds {', '.join(list(labels.values())[:8])} …"
            )
        self._device = device or torch.device("cpu")
        self._model.eval().to(self._device)
        self._min_score = min_score

    @torch.no_grad()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Boxes]:
        """The boxes of that class in each RGB image, in image pixels, the surest first."""
        inputs: Any = self._processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        outputs = self._model(**inputs.to(self._device))
        found = self._processor.post_process_object_detection(
            outputs, threshold=self._min_score, target_sizes=[image.shape[:2] for image in images]
        )
        return [self._boxes(result, image.shape[:2]) for result, image in zip(found, images, strict=True)]

    def _boxes(self, result: dict[str, Any], image_size: tuple[int, int]) -> Boxes:
        height, width = image_size
        corners = result["boxes"].double().cpu().numpy().clip(0, [width, height, width, height])
        scores = result["scores"].double().cpu().numpy()
        bbox_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        wanted = np.isin(result["labels"].cpu().numpy(), self._classes) & (bbox_xywh[:, 2:] > 0).all(axis=1)
        order = np.argsort(-scores[wanted], kind="stable")
        return Boxes(bbox_xywh[wanted][order], scores[wanted][order])


def _folder(source: str) -> str:
    """The folder itself, or the hub's files in its local cache: at once, where transformers would retry for minutes."""
    if Path(source).is_dir():
        return source
    name, _, revision = source.partition("@")
    return snapshot_download(name, revision=revision or None, allow_patterns=["*.json", "*.safetensors"])
