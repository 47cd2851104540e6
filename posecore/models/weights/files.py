"""Opening checkpoint files of unknown origin: tensors come out, and nothing in a file is ever executed.

``.safetensors`` holds tensors and nothing else. Every other file is read by ``torch.load(weights_only=True)``, which
builds tensors and plain containers only and refuses any other object; NumPy arrays of numbers, which mmengine writes
into the metadata of its checkpoints, are let through as well, and the curves in its training files are read as nothing.
Local files are mapped, not copied, where the format allows it.
"""

import json
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy._core.multiarray as _numpy_pickling
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from posecore.counting import counted
from posecore.errors import CheckpointError, IntegrityError
from posecore.models.finite import is_finite
from posecore.storage import TooLarge, read_at_most

INDEX_SUFFIX = ".safetensors.index.json"
MAX_BYTES = 128 << 30
"""Of one file; five times the largest published."""
_MAX_INDEX_BYTES = 64 << 20
_MAX_PICKLE_BYTES = 64 << 20
_MAX_TENSORS = 100_000
_MAX_WRAPPERS = 8
_MAX_SHARING = 4
"""How often a file's values may be used on average: a few tensors share theirs, such as tied weights."""
_WRAPPERS = ("state_dict", "model", "module", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Of every name: of a model wrapped for several GPUs, compiled, or held by a training program."""


class _Nothing:
    """Stands for an object of a training program, which is not looked at."""

    def __setstate__(self, state: object) -> None:
        pass


def _nothing(*_: object) -> None:
    """Stands for a function of a training program, which is not called."""


_IGNORED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Nothing, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_nothing, "__builtin__.getattr"),  # by which such a buffer names its own methods
    (_nothing, "builtins.getattr"),
]
_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    *(
        (getattr(_numpy_pickling, name), f"{module}.{name}")
        for name in ("_reconstruct", "scalar")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
    ),
]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint file, by name, wrappers and prefixes that all names have (``module.``, …) removed.

    Args:
        path: a local ``.safetensors`` file, the index of a sharded one, or a file that ``torch.save`` wrote.

    Raises:
        CheckpointError: the file is cut, is no checkpoint, could run code when read, holds something else than
            tensors where tensors belong, or holds values that are not finite.
        IntegrityError: a sharded file's index names shards that are missing, or points out of its folder.
    """
    if path.name.endswith(INDEX_SUFFIX):
        tensors = _read_sharded(path)
    elif path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    else:
        tensors = _unwrapped(_read_pickle(path), path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.")
    tensors = _without_prefixes(tensors)
    _check_values(tensors, path)
    return tensors


def shard_names(index: Path) -> list[str]:
    """The files a sharded checkpoint's index names, all in the index's own folder, sorted.

    Raises:
        IntegrityError: the index is not readable, or names a file outside its own folder.
    """
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name:
            raise IntegrityError(f"{index} names {name!r}, which is outside its folder; do not use this checkpoint.")
    return names


def _weight_map(index: Path) -> dict[str, str]:
    """File name by tensor name."""
    try:
        weight_map = json.loads(read_at_most(index, _MAX_INDEX_BYTES))["weight_map"]
        return {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, TooLarge):
        raise IntegrityError(f"{index} is not an index of safetensors shards; download it again.") from None


def _read_sharded(index: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in shard_names(index):
        if not (index.parent / name).is_file():
            raise IntegrityError(f"{index} names {name}, which is missing; download it again.")
        tensors |= _read_safetensors(index.parent / name)
    if differing := _weight_map(index).keys() ^ tensors.keys():
        raise IntegrityError(f"{index} and its shards disagree about {min(differing)}; download them again.")
    return tensors


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a file; name a file of weights.")
    if status.st_size > MAX_BYTES:
        raise CheckpointError(f"{path} has more than the {MAX_BYTES >> 30} GiB that a file of weights may have.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _check_file(path)
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is cut or not a safetensors file ({error}); download it again.") from None


def _check_beginning(path: Path) -> None:
    """A page that a server sent instead, or a file that was never weights, is called what it is."""
    with path.open("rb") as file:
        begin = file.read(16)
    if not begin.startswith((b"PK", b"\x80")):  # a zip archive, or the pickle of an older torch
        what = f"begins with {begin!r}, as no file of weights does" if begin else "is empty"
        raise CheckpointError(f"{path} {what}; name another file, or download it again.")


def _read_pickle(path: Path) -> Any:
    _check_file(path)
    _check_beginning(path)
    _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_NUMPY, *_IGNORED]):
            warnings.simplefilter("ignore")  # what torch warns of here, it also refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"wants to call {found[1]}" if found else "holds more than tensors"
        raise CheckpointError(
            f"{path} {what} when it is read, which could run any code, so it was not read; "
            "ask its publisher for a safetensors file or a plain state dict."
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        # torch.load answers a damaged file with whichever of these its parser stumbles over first.
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript program, not a checkpoint; use the publisher's file of plain weights."
            ) from None
        raise CheckpointError(f"{path} is cut or not a checkpoint; download it again.") from None


def _check_archive(path: Path) -> None:
    """Torch stores without compression; a compressed entry could unfold to any size, and is read whole."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path} is cut or not a checkpoint; download it again.") from None
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"{path} is compressed inside, which no checkpoint is; save it again with torch.save."
            )
        if entry.filename.endswith(".pkl") and entry.file_size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path} describes its tensors in {entry.file_size} bytes, more than the {_MAX_PICKLE_BYTES} allowed; "
                "save it again as a plain state dict."
            )


def _unwrapped(value: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(_MAX_WRAPPERS):  # and not for ever: a pickled dict may hold itself
        wrapper = next((key for key in _WRAPPERS if key in value), None) if isinstance(value, Mapping) else None
        if wrapper is None:
            break
        value = value[wrapper]
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds {type(value).__name__} where tensors by name belong.")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is {type(tensor).__name__}, not a tensor.")
    return dict(value)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(_MAX_WRAPPERS):
        prefix = next((one for one in _PREFIXES if all(name.startswith(one) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    if len(tensors) > _MAX_TENSORS:
        raise CheckpointError(
            f"{path} holds {counted(len(tensors), 'tensor')}, more than the {_MAX_TENSORS} a model may have."
        )
    _check_plain(tensors, path)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if claimed > _MAX_SHARING * sum(held.values()):
        raise CheckpointError(f"{path}: its tensors claim {claimed} bytes together, far more than the file holds.")
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{path}: {name} holds {bad} of {tensor.numel()} values that are NaN or infinite; the training that "
                "wrote it diverged, or the file is damaged."
            )


def _check_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{path}: {name} is not a plain tensor of real numbers ({tensor.type()}).")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            # A tensor of stride 0 costs nothing in the file and everything once it is copied.
            raise CheckpointError(f"{path}: {name} claims {tensor.numel()} values, more than the file holds.")
