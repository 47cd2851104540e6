"""Writes safetensors files a tensor at a time, so that a file of any size takes the memory of its largest tensor.

The format: the length of a JSON header in eight bytes, the header, then the values of all tensors without gaps.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By the names of the format."""
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor to be written.

    Attributes:
        name: in the file.
        shape: in the file.
        dtype: in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensor_file(
    write: Callable[[bytes | memoryview], object],
    slots: Sequence[Slot],
    values: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Writes a safetensors file from front to back.

    Args:
        write: takes the next bytes.
        slots: what is written, in any order.
        values: given a slot's name, its tensor, on any device; asked for one after the other.
        metadata: words beside the tensors.

    Returns:
        Name to the place of the first byte of its values in the file.
    """
    ordered = sorted(slots, key=lambda slot: -slot.dtype.itemsize)  # so that every value is aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    places: dict[str, int] = {}
    size = 0
    for slot in ordered:
        places[slot.name] = size
        offsets = (size, size + slot.num_bytes)
        header[slot.name] = {"dtype": DTYPE_NAMES[slot.dtype], "shape": slot.shape, "data_offsets": offsets}
        size += slot.num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write(struct.pack("<Q", len(text)) + text)
    for slot in ordered:
        write(_bytes_of(values(slot.name), slot))
    return {name: 8 + len(text) + place for name, place in places.items()}


def _bytes_of(tensor: Tensor, slot: Slot) -> memoryview:
    flat = tensor.detach().to("cpu", slot.dtype).contiguous().reshape(-1)
    assert flat.numel() == math.prod(slot.shape), slot.name
    data: memoryview = flat.view(torch.uint8).numpy().data
    return data
