"""One head of a model as an ONNX file that any runtime can run, and everything needed to use it in its metadata.

The graph takes ``images``, (B, 3, H, W) float32 RGB crops, normalised, with B free and the size fixed, and returns
``outputs``: (B, K, h, w) heatmaps, or (B, K, X + Y) logits of a SimCC head, the bins of x first. Cropping and decoding
stay outside: the metadata says how, as JSON under the keys of :func:`onnx_metadata`.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posecore.asides import aside_folder
from posecore.errors import CheckpointError, ConfigError
from posecore.extras import needed
from posecore.models.architecture import ModelCard
from posecore.models.merge import merge_experts
from posecore.models.onnx_graph import OnnxGraphConfig
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from posecore.models.pose_model import PoseModel
from posecore.models.sapiens2 import Sapiens2Config
from posecore.models.vit import VitConfig

TOLERANCE = 1e-4
"""Largest difference of the exported graph's outputs, relative to the largest output or to 1."""
METADATA_PREFIX = "posecore."
"""What the keys of our metadata begin with."""
_OPSET = 18


class _OneHead(nn.Module):
    """Crops in, one head's outputs out."""

    def __init__(self, model: PoseModel, task: str) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head(task)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images, ()))


def export_onnx(model: PoseModel, task: str, path: Path) -> PoseModel:
    """Writes one head of a model as ONNX; weights above 2 GB go to a second file beside it, ``<name>.data``.

    Args:
        model: experts are merged into a dense model first; Sapiens2's rotation is exported in float32, which changes
            its outputs a little against the bfloat16 it was trained with.
        task: the head.
        path: file to write.

    Returns:
        The dense float32 model that the graph was made from.

    Raises:
        ConfigError: there is no such head, the model was read from such a file, or the packages of the ``export`` extra
            are missing.
    """
    if isinstance(model.config.backbone, OnnxGraphConfig):
        raise ConfigError(
            "the model is an ONNX file already, which is not written again; copy the file it was read from."
        )
    _need("onnx", "onnxscript")
    dense = _with_exact_rotation(single_head(model, task)).float()
    example = torch.zeros(2, 3, *dense.input_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter speaks of its own internals
        program = torch.onnx.export(
            _OneHead(dense, task).eval(),
            (example,),
            input_names=["images"],
            output_names=["outputs"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(onnx_metadata(dense, task))
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside_folder(path.parent) as folder:
        program.save(folder / path.name)
        for file in sorted(folder.iterdir(), reverse=True):  # the data first, the graph that names it last
            shutil.move(file, path.parent / file.name)
    return dense


def single_head(model: PoseModel, task: str) -> PoseModel:
    """A dense copy of a model on the CPU that answers for one head, and for those that share it, only.

    Raises:
        ConfigError: there is no such head.
    """
    if task not in model.skeletons:
        raise ConfigError(f"the model has no head {task!r}; it has {', '.join(model.skeletons)}.")
    if isinstance(model.config.backbone, VitConfig) and model.config.backbone.expert_dim:
        model = merge_experts(model, task)
    owner = model.owner(task)
    kept = [dataset for dataset in model.skeletons if model.owner(dataset) == owner]
    shared = {dataset: owner for dataset in kept if dataset != owner}
    card = model.card.model_copy(
        update={
            "architecture": model.config.model_copy(update={"shared_heads": shared}),
            "skeletons": {dataset: model.skeletons[dataset] for dataset in kept},
            "conventions": {dataset: model.conventions[dataset] for dataset in kept},
        }
    )
    return _rebuilt(model, card)


def _with_exact_rotation(model: PoseModel) -> PoseModel:
    backbone = model.config.backbone
    if not isinstance(backbone, Sapiens2Config):
        return model
    exact = backbone.model_copy(update={"rope_dtype": "float32"})
    architecture = model.config.model_copy(update={"backbone": exact})
    return _rebuilt(model, model.card.model_copy(update={"architecture": architecture}))


def _rebuilt(model: PoseModel, card: ModelCard) -> PoseModel:
    """A model of another card with those of the weights that it has."""
    with torch.device("meta"):
        rebuilt = PoseModel(card)
    weights = model.state_dict()
    rebuilt.load_state_dict({name: weights[name].cpu().clone() for name in rebuilt.state_dict()}, assign=True)
    return rebuilt.eval()


def onnx_metadata(model: PoseModel, task: str) -> dict[str, str]:
    """What a user of the file must know, as JSON by key, each key beginning with ``posecore.``."""
    skeleton = model.skeletons[task]
    codec = model.codec(task)
    values = {
        "head": task,
        "skeleton": skeleton.model_dump(mode="json"),
        "keypoints": skeleton.names,
        "flip_pairs": skeleton.flip_pairs,
        "links": skeleton.link_indices,
        "input_size": model.input_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "codec": codec.kind,
        "crop": codec.crop,
        "frame_size": codec.frame_size,
        "conventions": model.conventions[task].model_dump(mode="json"),
        "architecture": model.config.model_dump(mode="json"),
        "licenses": model.card.licenses,
        "lineage": model.card.lineage,
    }
    return {METADATA_PREFIX + key: json.dumps(value) for key, value in values.items()}


def check_onnx(path: Path, dense: PoseModel, task: str) -> float:
    """Runs the file with onnxruntime at two batch sizes beside the model it was made from.

    Args:
        path: of the file.
        dense: what :func:`export_onnx` returned.
        task: the head.

    Returns:
        The largest difference, relative to the largest output or to 1.

    Raises:
        CheckpointError: it is above :data:`TOLERANCE`.
        ConfigError: onnxruntime is missing.
    """
    runtime = _need("onnxruntime")[0]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in (1, 3):
        images = torch.randn(batch, 3, *dense.input_size, generator=generator)
        expected = dense.predict(images, task)
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp(min=1)))
    if not worst <= TOLERANCE:
        raise CheckpointError(f"{path}: onnxruntime computes something else (largest difference {worst:.1e}).")
    return worst


def _need(*packages: str) -> list[Any]:
    return [needed(package, "ONNX export") for package in packages]
