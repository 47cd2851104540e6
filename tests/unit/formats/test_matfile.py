import contextlib
import io
import random
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from posecore.errors import DatasetError
from posecore.formats.matfile import MADE_AT_ONCE, StoredStructs, damage_in_a_sentence, read_mat


def written(variables: dict[str, Any], compressed: bool = True) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("compressed", [True, False])
def test_values_are_those_written(compressed: bool) -> None:
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = "ä", np.zeros((0, 0))
    structs = np.array([(1.5, "one"), (2.5, "two")], dtype=[("number", object), ("long_field_name", object)])
    found = read_mat(
        written({"matrix": matrix, "cells": cells, "structs": structs, "flag": np.array([[True]])}, compressed), "x.mat"
    )
    assert np.array_equal(found["matrix"], matrix)
    assert found["cells"][0] == "ä"
    assert found["cells"][1].shape == (0, 0)
    assert list(found["structs"]) == [
        {"number": 1.5, "long_field_name": "one"},
        {"number": 2.5, "long_field_name": "two"},
    ]
    assert found["flag"] == 1.0


def test_a_long_struct_array_makes_the_entries_that_are_asked_for() -> None:
    count = MADE_AT_ONCE + 1
    structs = np.array([(row, "x") for row in range(count)], dtype=[("number", object), ("text", object)])
    found = read_mat(written({"structs": structs}), "x.mat")["structs"]
    assert isinstance(found, StoredStructs)
    assert [entry["number"] for entry in found] == list(range(count))
    assert found[-1] == {"number": count - 1, "text": "x"}
    assert found[1:5:2] == [found[1], found[3]]
    assert (found.value(7, "number"), found.value(7, "absent")) == (7, None)
    for index in (count, -count - 1):
        with pytest.raises(IndexError):
            found[index]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_files_are_refused_and_never_crash(compressed: bool) -> None:
    structs = np.array([(1.5, "one", np.arange(9.0))] * 3, dtype=[("a", object), ("b", object), ("c", object)])
    data = written({"RELEASE": structs}, compressed)
    for length in range(129, len(data), 5):
        with pytest.raises(DatasetError, match=r"x\.mat"):
            read_mat(data[:length], "x.mat")
    generator = random.Random(7)
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(128, len(data))] = generator.randrange(256)
        with contextlib.suppress(DatasetError):
            found = read_mat(bytes(damaged), "x.mat")
            with damage_in_a_sentence("x.mat"):
                for value in found.values():
                    assert not isinstance(value, StoredStructs) or all(isinstance(entry, dict) for entry in value)


def test_what_all_variables_unpack_to_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written({"a": np.zeros(100), "b": np.zeros(100)})
    assert len(read_mat(data, "x.mat")) == 2
    for room, message in ((1200, "all are more than 1200 bytes"), (800, "more than 800"), (0, "more than 0")):
        monkeypatch.setattr("posecore.formats.matfile.MAX_UNPACKED_BYTES", room)
        with pytest.raises(DatasetError, match=message):
            read_mat(data, "x.mat")


def test_other_files_are_named_for_what_they_are() -> None:
    for data in (b"", b"hello" * 100, b"\0" * 200):
        with pytest.raises(DatasetError, match="not a little-endian MATLAB level-5 file"):
            read_mat(data, "x.mat")
    with pytest.raises(DatasetError, match="save it with -v7"):
        read_mat(b"\x89HDF\r\n\x1a\n" + bytes(600), "x.mat")


def test_kinds_without_use_are_refused() -> None:
    for value in (scipy.sparse.eye(3), np.array([1j, 2j])):
        with pytest.raises(DatasetError, match="array class"):
            read_mat(written({"x": value}), "x.mat")
