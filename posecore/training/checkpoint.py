"""Checkpoints that fit any world size, sharding stage and engine, and are whole or absent.

A checkpoint is a folder: ``state.safetensors`` (float32 weights, both AdamW moments, buffers, moving average, anchors,
all under their full names), ``state.json`` (step, seed, world size, configuration) and ``manifest.json``, written last,
with the size and SHA-256 of the other two. A reader trusts nothing that the manifest does not name: Ray Train may merge
the folders of two attempts that used one name, and a killed process may leave a folder half written.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from posecore.config import Config, parse_config
from posecore.errors import CheckpointError, ConfigError, IntegrityError
from posecore.models.finite import refuse_nonfinite
from posecore.models.saving import load_weights
from posecore.schema import Json
from posecore.storage import AnyPath, write_atomically
from posecore.training.engine import EngineState

FORMAT = 1
MANIFEST_FILE = "manifest.json"
_TENSORS_FILE = "state.safetensors"
_PROGRESS_FILE = "state.json"
_MANIFEST_BYTES, _PROGRESS_BYTES = 1 << 20, 16 << 20
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
        skipped: steps so far that were passed over because they were not finite.
        bad_samples: by dataset, rows of the samples so far that are damaged and that others stood in for.
    """

    step: int
    seed: int
    world_size: int
    config: dict[str, Json]
    datasets: tuple[str, ...] = ()
    skipped: int = 0
    bad_samples: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


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
    """Writes a checkpoint into an empty or missing folder; the manifest comes last.

    Raises:
        CheckpointError: a tensor is not finite; nothing is written.
    """
    refuse_nonfinite_state(state, f"the checkpoint of step {progress.step}")
    values = _ProgressFile(
        format=FORMAT,
        optimizer_steps=state.optimizer_steps,
        updates=state.updates,
        average_updates=state.average_updates,
        loss_scale=state.loss_scale,
        step=progress.step,
        seed=progress.seed,
        world_size=progress.world_size,
        config=progress.config,
        datasets=progress.datasets,
        skipped=progress.skipped,
        bad_samples=dict(progress.bad_samples),
    )
    files = {
        _TENSORS_FILE: save_tensors(dict(_tensors(state))),
        _PROGRESS_FILE: json.dumps(values.model_dump(mode="json"), indent=1).encode(),
    }
    for name, data in files.items():
        write_atomically(folder / name, data)
    manifest = {
        name: {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    write_atomically(folder / MANIFEST_FILE, json.dumps({"format": FORMAT, "files": manifest}, indent=1).encode())


def refuse_nonfinite_state(state: EngineState, origin: str) -> None:
    """Returns if every tensor of a state is finite.

    Args:
        state: weights, moments, buffers and averages.
        origin: what the message calls it.

    Raises:
        CheckpointError: one is not; names some.
    """
    refuse_nonfinite(_tensors(state), origin, "it is not saved, and the last checkpoint is one from before.")


def load_checkpoint(folder: AnyPath) -> tuple[EngineState, Progress]:
    """Reads and verifies a checkpoint.

    Raises:
        CheckpointError: there is no manifest (the checkpoint was never finished), it is of another format, or holds
            numbers that are not finite.
        IntegrityError: a file is missing, truncated, changed, or says what no checkpoint says.
    """
    files = _verified_files(folder, (_TENSORS_FILE, _PROGRESS_FILE))
    values = _progress_file(files[_PROGRESS_FILE], folder)
    sections: dict[str, dict[str, Tensor]] = {section: {} for section in _SECTIONS}
    try:
        for key, tensor in load_tensors(files[_TENSORS_FILE]).items():
            section, _, name = key.partition("/")
            sections[section][name] = tensor
    except (SafetensorError, KeyError) as error:
        raise IntegrityError(f"{folder / _TENSORS_FILE} holds no state ({error}); use another checkpoint.") from None
    state = EngineState(
        **sections,
        optimizer_steps=values.optimizer_steps,
        updates=values.updates,
        average_updates=values.step if values.average_updates is None else values.average_updates,
        loss_scale=values.loss_scale,
    )
    refuse_nonfinite(_tensors(state), str(folder), "its run had diverged; use another checkpoint.")
    return state, _progress(values)


def load_progress(folder: AnyPath) -> Progress:
    """Reads where a run stands, and not its tensors.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
        IntegrityError: likewise.
    """
    return _progress(_progress_file(_verified_files(folder, (_PROGRESS_FILE,))[_PROGRESS_FILE], folder))


def check_sizes(folder: AnyPath) -> None:
    """Returns if a checkpoint was finished and its files have the sizes they had then; their bytes are not read.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
        IntegrityError: likewise.
    """
    for name, stated in _manifest(folder).files.items():
        _check_size(folder / name, stated)


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


def _tensors(state: EngineState) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under the name it has in the file."""
    return ((f"{section}/{name}", t) for section in _SECTIONS for name, t in getattr(state, section).items())


class _File(Config):
    """What the manifest says of a file."""

    num_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Manifest(Config):
    """``manifest.json``."""

    format: int
    files: dict[str, _File]


class _ProgressFile(Config):
    """``state.json``."""

    format: int
    optimizer_steps: int = Field(ge=0)
    updates: dict[str, int] = {}
    average_updates: int | None = Field(default=None, ge=0)
    loss_scale: tuple[float, int] | None = None
    step: int = Field(ge=0)
    seed: int = Field(ge=0)
    world_size: int = Field(gt=0)
    config: dict[str, Any]
    datasets: tuple[str, ...] = ()
    skipped: int = Field(default=0, ge=0)
    bad_samples: dict[str, tuple[int, ...]] = {}


def _progress_file(data: bytes, folder: AnyPath) -> _ProgressFile:
    path = folder / _PROGRESS_FILE
    return _parsed(_json(data, path), _ProgressFile, path)


def _progress(values: _ProgressFile) -> Progress:
    return Progress(
        step=values.step,
        seed=values.seed,
        world_size=values.world_size,
        config=values.config,
        datasets=values.datasets,
        skipped=values.skipped,
        bad_samples=values.bad_samples,
    )


_FileT = TypeVar("_FileT", bound=Config)


def _manifest(folder: AnyPath) -> _Manifest:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST_FILE}: the checkpoint was never finished; use another.")
    if path.stat().st_size > _MANIFEST_BYTES:
        raise IntegrityError(f"{path} is larger than any manifest; use another checkpoint.")
    value = _json(path.read_bytes(), path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint manifest of format {FORMAT}.")
    return _parsed(value, _Manifest, path)


def _check_size(path: AnyPath, stated: _File) -> None:
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; use another checkpoint.")
    size = path.stat().st_size
    if size != stated.num_bytes:
        raise _changed(path, size, stated)


def _changed(path: AnyPath, size: int, stated: _File) -> IntegrityError:
    return IntegrityError(
        f"{path} is not what was written ({size} of {stated.num_bytes} bytes, or changed); use another checkpoint."
    )


def _verified_files(folder: AnyPath, names: Sequence[str]) -> dict[str, bytes]:
    manifest = _manifest(folder)
    files = {}
    for name in names:
        path, stated = folder / name, manifest.files.get(name)
        if stated is None:
            raise IntegrityError(f"{folder / MANIFEST_FILE} does not name {name}; use another checkpoint.")
        _check_size(path, stated)  # first: what has another size need not be read
        if name == _PROGRESS_FILE and stated.num_bytes > _PROGRESS_BYTES:
            raise IntegrityError(f"{path} is larger than any such file; use another checkpoint.")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != stated.sha256:
            raise _changed(path, len(data), stated)
        files[name] = data
    return files


def _json(data: bytes, path: AnyPath) -> Json:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise IntegrityError(f"{path} is not readable as JSON; use another checkpoint.") from None


def _parsed(value: Json, kind: type[_FileT], path: AnyPath) -> _FileT:
    try:
        return parse_config(value, kind, origin=str(path))
    except ConfigError as error:
        raise IntegrityError(f"{' '.join(str(error).split())[:500]} Use another checkpoint.") from None
