"""Memory of batches: used again when it is free, and never before."""

import numpy as np
import torch

from posecore.loading.buffers import ByteBuffers, ImageBuffers

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


def test_memory_of_a_gone_image_serves_one_that_is_about_as_large():
    buffers = ByteBuffers()
    first = buffers.take(900)
    view, place = first.reshape(30, 30), address(first)
    del first
    assert address(buffers.take(900)) != place  # it is still looked at
    del view
    for too_large, size in ((True, 599), (False, 600)):
        other = buffers.take(size)
        assert other.size >= size
        assert (address(other) != place) == too_large
    assert buffers.take(1000).size >= 1000


def test_little_memory_is_kept_for_later():
    buffers = ByteBuffers()
    arrays = [buffers.take(100 << number) for number in range(8)]
    places = [address(array) for array in arrays]
    while arrays:
        arrays.pop(0)
    assert address(buffers.take(100 << 8)) not in places[4:]  # fits none of those
    for number in range(4, 8):
        assert address(buffers.take(100 << number)) == places[number]
    buffers.take(100)
    assert len(buffers._free) <= 5
