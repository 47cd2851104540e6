"""A model of ours in somebody else's layout, for their tools."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from posecore.errors import CheckpointError
from posecore.models.pose_model import PoseModel
from posecore.models.saving import WEIGHTS_FILE, save_model
from posecore.models.sources import OWN_LAYOUT
from posecore.models.weights.layout import CONFIG_FILE, PROCESSOR_FILE
from posecore.models.weights.layouts import LAYOUTS
from posecore.nearest import choices
from posecore.storage import write_atomically, written_aside

_PICKLED = (".pth", ".pt")


def write_weights(model: PoseModel, layout: str, path: str | Path) -> dict[str, str]:
    """Writes a model in a published layout, or in ours.

    Args:
        model: what to write.
        layout: a name of :data:`~posecore.models.weights.layouts.LAYOUTS`, or ``posecore``.
        path: a folder for layouts that have a config beside the weights, and for ours; else a ``.safetensors``, or a
            ``.pth`` with the weights under ``state_dict``, as most publishers have it.

    Returns:
        Our name of each tensor the layout has no place for, with the reason.

    Raises:
        CheckpointError: there is no such layout, it cannot hold this model, or the path is of another kind.
    """
    path = Path(path)
    if layout == OWN_LAYOUT:
        save_model(model, path)
        return {}
    if layout not in LAYOUTS:
        raise CheckpointError(f"no layout is called {layout!r}.{choices(layout, (OWN_LAYOUT, *LAYOUTS))}")
    written = LAYOUTS[layout].write(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in written.tensors.items()}
    if written.config is not None:
        if path.suffix in (".safetensors", *_PICKLED):
            raise CheckpointError(f"{path}: layout {layout} is a folder, weights and config; give a folder's name.")
        with written_aside(path / WEIGHTS_FILE) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
        if written.processor is not None:
            write_atomically(path / PROCESSOR_FILE, json.dumps(written.processor, indent=1).encode())
        write_atomically(path / CONFIG_FILE, json.dumps(written.config, indent=1).encode())
    elif path.suffix == ".safetensors":
        with written_aside(path) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
    elif path.suffix in _PICKLED:
        with written_aside(path) as aside:
            torch.save({"state_dict": tensors}, aside)
    else:
        raise CheckpointError(f"{path}: layout {layout} is one file; its name must end in .safetensors, .pth or .pt.")
    return written.dropped
