"""Checkpoints that fit any world size, sharding stage and engine, and are whole or absent.

A checkpoint is a folder: ``state.safetensors`` (float32 weights, both AdamW moments, buffers, moving average, anchors,
all under their full names), ``state.json`` (step, seed, world size, configuration) and ``manifest.json``, written last,
with the size and SHA-256 of the other two. A reader trusts nothing that the manifest does not name: Ray Train may merge
the folders of two attempts that used one name, and a killed process may leave a folder half written.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from posecore.errors import CheckpointError, IntegrityError
from posecore.models.saving import load_weights
from posecore.schema import Json
from posecore.storage import AnyPath, write_atomically
from posecore.training.engine import EngineState

FORMAT = 1
MANIFEST_FILE = "manifest.json"
_TENSORS_FILE = "state.safetensors"
_PROGRESS_FILE = "state.json"
_SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers", "average", "anchor")
_NAME = re.compile(r"step_(\d{8})_ws(\d+)_\w+")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; with the engine's state, all that is needed to go on.

    Every random number of a step is drawn from a generator seeded by (seed, step, rank), and every batch is a function
    of (seed, step), so the two integers are the whole state of all generators and of the loader.

    Attributes:
        step: optimiser steps done, which is the next step's 0-based number.
        seed: of the run.
        world_size: ranks that wrote it; another number may read it.
        config: the run's training configuration.
        datasets: what it trains on, in the order of a batch's groups; empty where nobody knows.
    """

    step: int
    seed: int
    world_size: int
    config: dict[str, Json]
    datasets: tuple[str, ...] = ()


def checkpoint_name(step: int, world_size: int, attempt: str) -> str:
    """A folder name no other attempt of the same run can use.

    Args:
        step: optimiser steps done.
        world_size: ranks that write it.
        attempt: letters, digits and underscores; another one after every restart.
    """
    return f"step_{step:08d}_ws{world_size}_{attempt}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name, or None if it is no such name."""
    found = _NAME.fullmatch(name)
    return int(found.group(1)) if found else None


def save_checkpoint(folder: Path, state: EngineState, progress: Progress) -> None:
    """Writes a checkpoint into an empty or missing folder; the manifest comes last."""
    tensors = {f"{section}/{name}": t for section in _SECTIONS for name, t in getattr(state, section).items()}
    values = {
        "format": FORMAT,
        "optimizer_steps": state.optimizer_steps,
        "updates": state.updates,
        "average_updates": state.average_updates,
        "loss_scale": state.loss_scale,
        "step": progress.step,
        "seed": progress.seed,
        "world_size": progress.world_size,
        "config": progress.config,
        "datasets": list(progress.datasets),
    }
    files = {_TENSORS_FILE: save_tensors(tensors), _PROGRESS_FILE: json.dumps(values, indent=1).encode()}
    for name, data in files.items():
        write_atomically(folder / name, data)
    manifest = {
        name: {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    write_atomically(folder / MANIFEST_FILE, json.dumps({"format": FORMAT, "files": manifest}, indent=1).encode())


def load_checkpoint(folder: AnyPath) -> tuple[EngineState, Progress]:
    """Reads and verifies a checkpoint.

    Raises:
        CheckpointError: there is no manifest (the checkpoint was never finished), or it is of another format.
        IntegrityError: a file is missing, truncated or changed.
    """
    files = _verified_files(folder)
    values = json.loads(files[_PROGRESS_FILE])
    sections: dict[str, dict[str, object]] = {section: {} for section in _SECTIONS}
    for key, tensor in load_tensors(files[_TENSORS_FILE]).items():
        section, _, name = key.partition("/")
        sections[section][name] = tensor
    state = EngineState(
        **sections,  # type: ignore[arg-type]
        optimizer_steps=values["optimizer_steps"],
        updates=values.get("updates", {}),
        average_updates=values.get("average_updates", values["step"]),
    )
    if values.get("loss_scale") is not None:
        scale, unchanged = values["loss_scale"]
        state.loss_scale = (scale, unchanged)
    progress = Progress(
        step=values["step"],
        seed=values["seed"],
        world_size=values["world_size"],
        config=values["config"],
        datasets=tuple(values.get("datasets", ())),
    )
    return state, progress


def load_trained(folder: AnyPath, method: nn.Module) -> int:
    """Puts what a checkpoint learned into a method, to evaluate or save its model: the average if one was kept.

    BatchNorm's statistics are then the average's, too, where the checkpoint has them: those of runs before it had a
    warm-up do not.

    Returns:
        The optimiser steps done.

    Raises:
        CheckpointError: the checkpoint is unfinished or belongs to another architecture.
        IntegrityError: a file is missing, truncated or changed.
    """
    state, progress = load_checkpoint(folder)
    load_weights(method, state.weights | state.buffers | state.average, origin=str(folder))
    return progress.step


def _verified_files(folder: AnyPath) -> dict[str, bytes]:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {MANIFEST_FILE}: the checkpoint was never finished; use another."
        ) from None
    except ValueError:
        raise IntegrityError(f"{folder / MANIFEST_FILE} is not readable as JSON; use another checkpoint.") from None
    if not isinstance(manifest, Mapping) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder / MANIFEST_FILE} is not a checkpoint manifest of format {FORMAT}.")
    files = {}
    for name in (_TENSORS_FILE, _PROGRESS_FILE):
        stated = manifest["files"][name]
        try:
            data = (folder / name).read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{folder / name} is missing; use another checkpoint.") from None
        if len(data) != stated["num_bytes"] or hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise IntegrityError(
                f"{folder / name} is not what was written ({len(data)} of {stated['num_bytes']} bytes, or changed); "
                "use another checkpoint."
            )
        files[name] = data
    return files
