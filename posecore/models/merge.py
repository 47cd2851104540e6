"""One expert of a model with experts as a plain dense model: the same numbers, nothing to route, nothing extra to run.

The expert's rows follow the shared rows of the layer it completes, ``W = [W_shared; W_expert]`` and likewise the bias
(ViTAE-Transformer/ViTPose @ c050ed2, ``tools/model_split.py``, which leaves the other experts in the file; this does
not).
"""

import torch

from posecore.errors import ConfigError
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel


def merge_experts(model: PoseModel, task: str) -> PoseModel:
    """A dense model that computes for one task what the model with experts does.

    Args:
        model: is left as it is; the result shares no memory with it.
        task: a dataset of the model. Datasets that share its head are kept with it, all others are left out.

    Returns:
        In the model's mode, on its device and in its type; as an ordinary dense architecture it can be exported,
        fine-tuned or given experts again.

    Raises:
        ConfigError: the model has no experts, or does not know the task.
    """
    backbone = model.config.backbone
    if not backbone.has_experts:
        raise ConfigError("the model has no experts to merge; its heads share one dense backbone already.")
    if task not in model.skeletons:
        raise ConfigError(f"the model has no expert for {task!r}; it knows {', '.join(model.skeletons)}.")
    owner = model.owner(task)
    kept = {dataset for dataset in model.skeletons if model.owner(dataset) == owner}
    weights, merged = model.state_dict(), {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        if layer.endswith(".mlp.fc2"):
            expert = f"{layer.removesuffix('fc2')}experts.{owner}.{kind}"
            merged[name] = torch.cat([tensor, weights[expert]])
        elif ".mlp.experts." not in name and _dataset(name) in (None, owner):
            merged[name] = tensor.clone()
    architecture = model.config.model_copy(
        update={
            "backbone": backbone.model_copy(update={"expert_share": 0.0}),
            "shared_heads": {dataset: owner for dataset in kept if dataset != owner},
        }
    )
    card = model.card.model_copy(
        update={
            "architecture": architecture,
            "skeletons": {dataset: skeleton for dataset, skeleton in model.skeletons.items() if dataset in kept},
            "conventions": {dataset: value for dataset, value in model.conventions.items() if dataset in kept},
        }
    )
    with without_memory():
        dense = PoseModel(card)
    dense.load_state_dict(merged, assign=True)
    return dense.train(model.training)


def _dataset(name: str) -> str | None:
    """The dataset a tensor belongs to, None for one that all share."""
    part, _, rest = name.partition(".")
    return rest.partition(".")[0] if part in ("heads", "prototypes") else None
