"""Memory of batches: used again when it is free, and never before."""

import numpy as np
import torch

from posecore.loading.buffers import ImageBuffers

SHAPE = (2, 8, 6, 3)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_the_array_is_gone():
    buffers = ImageBuffers(SHAPE)
    first = buffers.take()
    place = address(first)
    assert first.shape == SHAPE
    assert first.flags.c_contiguous
    assert first.flags.writeable
    del first
    assert address(buffers.take()) == place


def test_whatever_shares_the_memory_keeps_it():
    makers = {
        "slice": lambda array: array[1, ..., 0],
        "slice of a slice": lambda array: array[1:][..., 1:],
        "reshaped": lambda array: array.reshape(-1)[3:],
        "tensor": torch.from_numpy,
        "slice of a tensor": lambda array: torch.from_numpy(array)[1:],
        "memoryview": memoryview,
        "array of a memoryview": lambda array: np.asarray(memoryview(array)),
    }
    for name, maker in makers.items():
        buffers = ImageBuffers(SHAPE)
        array = buffers.take()
        array[:] = 1
        place, shared = address(array), maker(array)
        del array
        other = buffers.take()
        other[:] = 2
        assert address(other) != place, name
        assert np.all(np.asarray(shared) == 1), name
        del shared
        assert address(buffers.take()) == place, name


def test_arrays_outlive_their_maker():
    array = ImageBuffers(SHAPE).take()
    array[:] = 7
    assert np.all(array == 7)
