"""A small detector on disk; its weights are random, its files are those of a real one."""

from collections.abc import Mapping
from pathlib import Path

import torch
import transformers


def save_tiny_detector(folder: Path, labels: Mapping[int, str]) -> Path:
    """Writes a model of ``transformers`` that knows the given classes."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        patch_size=16, num_detection_tokens=12, id2label=dict(labels),
        label2id={name: key for key, name in labels.items()},
    )  # fmt: skip
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    transformers.YolosImageProcessorPil(size={"height": 64, "width": 64}, do_pad=False).save_pretrained(folder)
    return folder
