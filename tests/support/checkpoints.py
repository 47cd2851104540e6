"""Whole states, which fit into a test's memory: read from a checkpoint, written as one or several ranks would."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from posecore.storage import AnyPath
from posecore.training.checkpoint import (
    MANIFEST_FILE,
    SECTIONS,
    Checkpoint,
    Counts,
    Progress,
    commit_checkpoint,
)
from posecore.training.checkpoint_pieces import Piece, share, write_pieces
from posecore.training.context import LocalContext
from posecore.training.ema import WeightAverage


@dataclass(kw_only=True, eq=False)
class State:
    """Everything an optimiser step changes."""

    weights: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    buffers: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    anchor: dict[str, Tensor] = field(default_factory=dict)
    optimizer_steps: int
    updates: dict[str, int] = field(default_factory=dict)
    average_updates: int = 0
    loss_scale: tuple[float, int] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {f"{section}/{name}": t for section in SECTIONS for name, t in getattr(self, section).items()}

    @property
    def counts(self) -> Counts:
        return Counts(**{count.name: getattr(self, count.name) for count in fields(Counts)})


def newest(run: LocalContext | Path) -> AnyPath:
    """Folder of the newest checkpoint of a run."""
    folder = (run if isinstance(run, LocalContext) else LocalContext(run)).store.newest()
    assert folder is not None
    return folder


def load_checkpoint(folder: AnyPath) -> tuple[State, Progress]:
    checkpoint = Checkpoint(folder)
    sections = {name: {key: checkpoint.read(name, key) for key in checkpoint.shapes(name)} for name in SECTIONS}
    checkpoint.close()
    return State(**sections, **asdict(checkpoint.counts)), checkpoint.progress


def averaged(average: WeightAverage) -> dict[str, Tensor]:
    """What an average is now, by name, where no other rank has a part of it."""
    return {piece.key.removeprefix("average/"): piece.values.view(piece.shape).clone() for piece in average.pieces()}


def save_checkpoint(folder: AnyPath, state: State, progress: Progress, ranks: int = 1) -> None:
    pieces = [Piece.whole(key, tensor) for key, tensor in state.tensors.items()]
    files = {}
    for rank in range(ranks):
        files |= write_pieces(folder, f"rank_{rank:05d}", share(pieces, rank, ranks))
    commit_checkpoint(folder, files, state.counts, progress)


def save_format_1(folder: Path, state: State, progress: Progress) -> None:
    """As posecore wrote checkpoints first: one file of tensors, and the hash of all of it."""
    said = {"format": 1, **asdict(state.counts), **asdict(progress)}
    files = {"state.safetensors": save(state.tensors), "state.json": json.dumps(said).encode()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        name: {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    (folder / MANIFEST_FILE).write_text(json.dumps({"format": 1, "files": manifest}))
