"""Checkpoints that fit any world size, sharding stage and engine, and are whole or absent.

A checkpoint is a folder, or a prefix of an object store. Every rank writes its own pieces of the state into safetensors
files (:mod:`posecore.training.checkpoint_pieces`): float32 weights, both AdamW moments, buffers, moving average,
anchors, all under their full names. ``state.json`` has step, seed, world size and configuration. ``manifest.json`` is
written last and says what every file holds and what its bytes hash to. A reader trusts nothing that the manifest does
not name, and reads, whatever the number of ranks that wrote it, the runs of values that it needs and no more.

Checkpoints of format 1, one file with everything in it, are read as well.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.config import Config, digest_json, parse_config
from posecore.errors import CheckpointError, ConfigError, IntegrityError
from posecore.models.finite import refuse_nonfinite
from posecore.models.saving import refuse_other_architecture
from posecore.models.tensor_file import DTYPES
from posecore.schema import Json
from posecore.storage import AnyPath, TooLarge, read_at_most, write_atomically
from posecore.training.checkpoint_files import FileEntry, OldFileEntry, TensorEntry, VerifiedFile, hashed_file, settle

FORMAT = 2
MANIFEST_FILE = "manifest.json"
SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers", "average", "anchor")
_OF_AN_OPTIMIZER = re.compile(r"moment\.[a-z][a-z0-9_]{0,39}")
_PROGRESS_FILE = "state.json"
_OLD_TENSORS_FILE = "state.safetensors"
_MANIFEST_BYTES, _PROGRESS_BYTES, _HEADER_BYTES = 256 << 20, 16 << 20, 100 << 20
_STAGED_VALUES = 4 << 20  # on their way to a GPU or another precision
_FILE_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}")
_NAME = re.compile(r"step_(\d{8})_ws(\d+)_\w+")
_DIVERGED = "its run had diverged; use another checkpoint."


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
        seconds: of training so far, over all attempts that led here.
        hardware: what the steps were made on, with their number.
        joules: that the machines counted over all those attempts; None where one of them did not.
        best: the best value of the metric that the run looks at, the step it was found at, and the evaluations since.
    """

    step: int
    seed: int
    world_size: int
    config: dict[str, Json]
    datasets: tuple[str, ...] = ()
    skipped: int = 0
    bad_samples: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    hardware: Mapping[str, int] = field(default_factory=dict)
    joules: float | None = None
    best: tuple[float, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is counted beside the tensors; the same on every rank.

    Attributes:
        optimizer_steps: updates AdamW has made.
        updates: part of a staged method to the updates AdamW has made of it, where it was frozen in some.
        average_updates: how many the moving average has had.
        loss_scale: the factor of the loss in ``fp16``, and the updates since it last changed; None elsewhere.
    """

    optimizer_steps: int
    updates: Mapping[str, int] = field(default_factory=dict)
    average_updates: int = 0
    loss_scale: tuple[float, int] | None = None


class UnfinishedError(CheckpointError):
    """A checkpoint has no manifest: it was being written when its run was killed."""


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


def commit_checkpoint(folder: AnyPath, files: Mapping[str, FileEntry], counts: Counts, progress: Progress) -> None:
    """Makes a checkpoint of what all ranks have written.

    Args:
        folder: in which the files lie.
        files: by name.
        counts: of the state.
        progress: of the run.

    Raises:
        OSError: the store cannot be written.
    """
    state = _ProgressFile(format=FORMAT, **asdict(progress), **asdict(counts))
    with hashed_file(folder / _PROGRESS_FILE) as file:
        file.write(json.dumps(state.model_dump(mode="json"), indent=1).encode())
    settle(folder, [_PROGRESS_FILE])
    named = {_PROGRESS_FILE: file.entry(), **files}
    manifest = _Manifest(format=FORMAT, files=named, digest=manifest_digest(named))
    write_atomically(folder / MANIFEST_FILE, manifest.model_dump_json().encode())


def manifest_digest(files: Mapping[str, FileEntry]) -> str:
    """SHA-256 of what a manifest says of its files, as 64 hexadecimal digits.

    Blocks prove themselves; where a tensor lies in them is proved by this.
    """
    return digest_json({name: entry.model_dump(mode="json") for name, entry in files.items()})


class Checkpoint:
    """A whole checkpoint, of which nothing is in memory but where everything lies.

    Args:
        folder: local or remote.

    Raises:
        UnfinishedError: there is no manifest.
        CheckpointError: it is of another format.
        IntegrityError: a file is missing, truncated, changed, or says what no checkpoint says.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        files = _manifest(folder)
        self._files = {name: VerifiedFile(folder / name, entry) for name, entry in files.items()}
        self._progress = self._read_progress()
        self._runs: dict[str, list[tuple[TensorEntry, VerifiedFile]]] | None = None

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        values = self._progress
        names = Progress.__dataclass_fields__
        return Progress(**{name: getattr(values, name) for name in names})

    @property
    def counts(self) -> Counts:
        """What the engine and the average had counted."""
        values = self._progress
        averaged = values.step if values.average_updates is None else values.average_updates
        return Counts(
            optimizer_steps=values.optimizer_steps,
            updates=values.updates,
            average_updates=averaged,
            loss_scale=values.loss_scale,
        )

    def shapes(self, section: str) -> dict[str, tuple[int, ...]]:
        """Name to shape of a section's tensors: weights, exp_avg, exp_avg_sq, buffers, average or anchor.

        Raises:
            IntegrityError: the files do not hold all of a tensor, or no tensors at all.
        """
        prefix = f"{section}/"
        return {
            key.removeprefix(prefix): runs[0][0].shape for key, runs in self._index().items() if key.startswith(prefix)
        }

    def has(self, section: str, name: str) -> bool:
        """Whether a section has a tensor of that name."""
        return self._key(section, name) in self._index()

    def trained_section(self, name: str) -> str:
        """Where what was learned of a parameter or buffer lies: in the average, if it is part of one."""
        return next(section for section in ("average", "weights", "buffers") if self.has(section, name))

    def read(self, section: str, name: str) -> Tensor:
        """A whole tensor, on the CPU.

        Raises:
            CheckpointError: it holds numbers that are not finite.
            IntegrityError: a file is missing, truncated or changed.
        """
        entry, _ = self._index()[self._key(section, name)][0]
        tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        self.read_into(section, name, tensor.view(-1))
        return tensor

    @torch.no_grad()
    def read_into(self, section: str, name: str, target: Tensor, start: int = 0) -> None:
        """Fills a tensor with a run of a tensor's values, those from ``start`` on.

        Args:
            section: see :meth:`shapes`.
            name: of the tensor.
            target: (n,) of any precision on any device; the values are rounded to it.
            start: index in the flattened tensor.

        Raises:
            CheckpointError: it holds numbers that are not finite.
            IntegrityError: a file is missing, truncated or changed.
        """
        key = self._key(section, name)
        runs = self._index()[key]
        dtype = DTYPES[runs[0][0].dtype]
        if target.device.type == "cpu" and target.dtype == dtype and target.is_contiguous():
            self._read_run(key, runs, target, start)
            return
        for first in range(0, len(target), _STAGED_VALUES):
            part = target[first : first + _STAGED_VALUES]
            staged = torch.empty(len(part), dtype=dtype)
            self._read_run(key, runs, staged, start + first)
            part.copy_(staged)

    def refuse_other_method(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Returns if the checkpoint's weights and buffers are exactly a method's.

        Args:
            shapes: of the method's parameters and buffers.

        Raises:
            CheckpointError: one sentence naming what is missing, unexpected or of another shape.
        """
        found = self.shapes("weights") | self.shapes("buffers")
        refuse_other_architecture(shapes, found, origin=str(self.folder))

    def close(self) -> None:
        """Lets go of all files."""
        for file in self._files.values():
            file.close()

    def _key(self, section: str, name: str) -> str:
        """Of a tensor; the weights of a mean teacher were among the buffers once."""
        key = f"{section}/{name}"
        was = f"buffers/{name}"
        return was if section == "weights" and key not in self._index() and was in self._index() else key

    def _read_run(self, key: str, runs: list[tuple[TensorEntry, VerifiedFile]], target: Tensor, start: int) -> None:
        stop, size = start + len(target), target.element_size()
        view = target.view(torch.uint8).numpy().data
        for entry, file in runs:
            first, last = max(start, entry.start), min(stop, entry.start + entry.count)
            if first < last:
                place = slice((first - start) * size, (last - start) * size)
                file.read_into(entry.offset + (first - entry.start) * size, view[place])
        refuse_nonfinite({key: target}, str(self.folder), _DIVERGED)

    def _index(self) -> dict[str, list[tuple[TensorEntry, VerifiedFile]]]:
        """Where the runs of every tensor lie, in order, without gaps."""
        if self._runs is None:
            self._runs = {}
            for file in self._files.values():
                for key, entry in self._tensors(file).items():
                    file.look()  # before a tensor of the stated size is made
                    self._runs.setdefault(key, []).append((entry, file))
            for key, runs in self._runs.items():
                runs.sort(key=lambda run: run[0].start)
                self._check_runs(key, runs)
            self._runs = dict(sorted(self._runs.items(), key=lambda item: _place(item[0].partition("/")[0])))
        return self._runs

    def _check_runs(self, key: str, runs: list[tuple[TensorEntry, VerifiedFile]]) -> None:
        section, slash, _ = key.partition("/")
        first, end = runs[0][0], 0
        sound = _place(section)[0] <= len(SECTIONS) and bool(slash) and first.dtype in DTYPES
        for entry, file in runs:
            sound = sound and (entry.shape, entry.dtype) == (first.shape, first.dtype)
            sound = sound and entry.offset + entry.count * DTYPES[entry.dtype].itemsize <= file.entry.num_bytes
            end = entry.start + entry.count if entry.start == end else -1
        if not sound:
            raise IntegrityError(f"{self.folder / MANIFEST_FILE} holds no state ({key}); use another checkpoint.")
        if end != math.prod(first.shape):
            raise IntegrityError(f"{self.folder / MANIFEST_FILE} lacks a piece of {key}; use another checkpoint.")

    def _tensors(self, file: VerifiedFile) -> Mapping[str, TensorEntry]:
        if isinstance(file.entry, FileEntry):
            return file.entry.tensors
        return tensors_in(file) if file.path.name == _OLD_TENSORS_FILE else {}

    def _read_progress(self) -> "_ProgressFile":
        path, file = self.folder / _PROGRESS_FILE, self._files.get(_PROGRESS_FILE)
        if file is None:
            raise IntegrityError(f"{self.folder / MANIFEST_FILE} does not name {path.name}; use another checkpoint.")
        if file.entry.num_bytes > _PROGRESS_BYTES:
            raise IntegrityError(f"{path} is larger than any such file; use another checkpoint.")
        return _parsed(_json(file.read(0, file.entry.num_bytes), path), _ProgressFile, path)


@torch.no_grad()
def load_trained(folder: AnyPath, method: nn.Module) -> int:
    """Puts what a checkpoint learned into a method, to evaluate its model: the average if one was kept.

    BatchNorm's statistics are then the average's, too, where the checkpoint has them: those of runs before it had a
    warm-up do not.

    Returns:
        The optimiser steps done.

    Raises:
        CheckpointError: the checkpoint is unfinished or belongs to another architecture.
        IntegrityError: a file is missing, truncated or changed.
    """
    checkpoint = Checkpoint(folder)
    own = method.state_dict()
    checkpoint.refuse_other_method({name: tuple(tensor.shape) for name, tensor in own.items()})
    for name, tensor in own.items():
        tensor.copy_(checkpoint.read(checkpoint.trained_section(name), name))
    checkpoint.close()
    return checkpoint.progress.step


class _OldManifest(Config):
    """``manifest.json`` of format 1."""

    format: int
    files: dict[str, OldFileEntry]


class _Manifest(Config):
    """``manifest.json``."""

    format: int
    files: dict[str, FileEntry]
    digest: str


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
    seconds: float = Field(default=0.0, ge=0)
    hardware: dict[str, int] = {}
    joules: float | None = Field(default=None, ge=0)
    best: tuple[float, int, int] | None = None


_FileT = TypeVar("_FileT", bound=Config)


def _manifest(folder: AnyPath) -> "Mapping[str, FileEntry | OldFileEntry]":
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UnfinishedError(f"{folder} has no {MANIFEST_FILE}: the checkpoint was never finished; use another.")
    try:
        value = _json(read_at_most(path, _MANIFEST_BYTES), path)
    except TooLarge:
        raise IntegrityError(f"{path} is larger than any manifest; use another checkpoint.") from None
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error.strerror or error}); use another checkpoint.") from None
    kinds: dict[Any, type[_Manifest] | type[_OldManifest]] = {1: _OldManifest, FORMAT: _Manifest}
    if not isinstance(value, dict) or type(value.get("format")) is not int or value["format"] not in kinds:
        raise CheckpointError(f"{path} is not a checkpoint manifest of format 1 or {FORMAT}.")
    manifest = _parsed(value, kinds[value["format"]], path)
    files = manifest.files
    stray = next((name for name in files if not _FILE_NAME.fullmatch(name)), None)
    if stray is not None:
        raise IntegrityError(f"{path} names {stray[:100]!r}, which is no file of a checkpoint; use another checkpoint.")
    if isinstance(manifest, _Manifest) and manifest.digest != manifest_digest(manifest.files):
        raise IntegrityError(f"{path} is not what was written; use another checkpoint.")
    if value["format"] == 1 and _OLD_TENSORS_FILE not in files:
        raise IntegrityError(f"{path} does not name {_OLD_TENSORS_FILE}; use another checkpoint.")
    return files


def tensors_in(file: VerifiedFile) -> dict[str, TensorEntry]:
    """Where the tensors lie in a safetensors file that says so itself, as checkpoints of format 1 and models do.

    Raises:
        IntegrityError: it is missing, truncated, changed or no such file.
    """
    try:
        length = int.from_bytes(file.read(0, 8), "little")
        header = _json(file.read(8, min(length, _HEADER_BYTES)), file.path)
        return dict(_entries(header, 8 + length))
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"{file.path} holds no state ({error}); use another checkpoint.") from None


def _entries(header: Json, first: int) -> Iterator[tuple[str, TensorEntry]]:
    for key, said in header.items():
        if key != "__metadata__":
            begin, end = said["data_offsets"]
            count = math.prod(said["shape"])
            if end - begin != count * DTYPES[said["dtype"]].itemsize:
                raise ValueError(key)
            values = {"dtype": said["dtype"], "shape": said["shape"], "start": 0, "count": count}
            yield key, parse_config(values | {"offset": first + begin}, TensorEntry, origin=key)


def _json(data: bytes, path: AnyPath) -> Json:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise IntegrityError(f"{path} is not readable as JSON; use another checkpoint.") from None


def _parsed(value: Json, kind: type[_FileT], path: AnyPath) -> _FileT:
    try:
        return parse_config(value, kind, origin=str(path))
    except (ConfigError, TypeError) as error:
        raise IntegrityError(f"{' '.join(str(error).split())[:500]} Use another checkpoint.") from None


def section_of(moment: str) -> str:
    """The section for what an optimiser keeps of parameters, by its own name for that."""
    return moment if moment in SECTIONS else f"moment.{moment}"


def _place(section: str) -> tuple[int, str]:
    """By which sections are in order: ours, then moments of other optimisers by name, then what is no section."""
    if section in SECTIONS:
        return SECTIONS.index(section), ""
    return len(SECTIONS) + (_OF_AN_OPTIMIZER.fullmatch(section) is None), section
