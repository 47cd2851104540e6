"""What a rank writes of a training state: runs of values of flattened tensors, in safetensors files.

Every way to shard a state cuts flattened tensors into runs: ZeRO-3 each tensor into equal parts, ZeRO-1 and 2 a row of
tensors laid end to end. So a piece is a run, and whoever reads it asks for another run, whatever cut the first.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from posecore.models.tensor_file import DTYPE_NAMES, Slot, write_tensor_file
from posecore.storage import AnyPath
from posecore.training.checkpoint_files import FileEntry, TensorEntry, hashed_file

MAX_FILE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A run of a tensor's values.

    Attributes:
        key: ``section/name``, such as ``exp_avg/model.backbone.pos_embed``.
        shape: of the whole tensor.
        start: index of the first value in the flattened tensor.
        values: (n,) on any device; may be the very memory that training changes.
    """

    key: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    @classmethod
    def whole(cls, key: str, tensor: Tensor) -> "Piece":
        """All of a tensor."""
        return cls(key, tuple(tensor.shape), 0, tensor.detach().reshape(-1))

    @property
    def num_bytes(self) -> int:
        """Of the values."""
        return self.values.numel() * self.values.element_size()


def share(pieces: Sequence[Piece], rank: int, world_size: int) -> list[Piece]:
    """Those of a state that every rank has whole which one rank writes: about as many bytes on each.

    Args:
        pieces: the same on every rank.
        rank: of this process.
        world_size: number of processes.
    """
    total = sum(piece.num_bytes for piece in pieces)
    mine, before = [], 0
    for piece in pieces:
        middle = before + piece.num_bytes // 2
        if (middle * world_size // total if total else 0) == rank:
            mine.append(piece)
        before += piece.num_bytes
    return mine


def write_pieces(
    folder: AnyPath, prefix: str, pieces: Iterable[Piece], max_bytes: int = MAX_FILE_BYTES
) -> dict[str, FileEntry]:
    """Writes pieces into ``<prefix>-<number>.safetensors``, a block at a time.

    A tensor that a file holds whole has its shape there, and any safetensors reader finds it. A run of one has the full
    name, too, and one dimension; the file's metadata say under ``runs`` what it is of.

    Args:
        folder: is created.
        prefix: of the files' names, which no other rank has.
        pieces: any two of one file are of different tensors.
        max_bytes: of the values in a file.

    Returns:
        What a manifest says of each file, by name.

    Raises:
        OSError: the store cannot be written.
    """
    return {
        (name := f"{prefix}-{number:03d}.safetensors"): _write_file(folder / name, packed)
        for number, packed in enumerate(_packed(pieces, max_bytes))
    }


def _packed(pieces: Iterable[Piece], max_bytes: int) -> Iterator[list[Piece]]:
    packed: list[Piece] = []
    size = 0
    for piece in pieces:
        for part in _parts(piece, max_bytes):
            if packed and size + part.num_bytes > max_bytes:
                yield packed
                packed, size = [], 0
            packed.append(part)
            size += part.num_bytes
    if packed:
        yield packed


def _parts(piece: Piece, max_bytes: int) -> Iterator[Piece]:
    most = max_bytes // piece.values.element_size()
    for start in range(0, max(piece.values.numel(), 1), most):
        yield replace(piece, start=piece.start + start, values=piece.values[start : start + most])


def _write_file(path: AnyPath, pieces: Sequence[Piece]) -> FileEntry:
    by_key = {piece.key: piece for piece in pieces}
    slots, runs = [], {}
    for key, piece in by_key.items():
        is_whole = piece.values.numel() == math.prod(piece.shape)
        slots.append(Slot(key, piece.shape if is_whole else tuple(piece.values.shape), piece.values.dtype))
        if not is_whole:
            runs[key] = {"shape": piece.shape, "start": piece.start}
    metadata = {"runs": json.dumps(runs)} if runs else {}
    with hashed_file(path) as file:
        places = write_tensor_file(file.write, slots, lambda key: by_key[key].values, metadata)
        return file.entry(
            {
                key: TensorEntry(
                    dtype=DTYPE_NAMES[piece.values.dtype],
                    shape=piece.shape,
                    start=piece.start,
                    count=piece.values.numel(),
                    offset=places[key],
                )
                for key, piece in by_key.items()
            }
        )
