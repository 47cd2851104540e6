import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posecore.errors import EvaluationError
from posecore.scoring.json_blocks import float64_of, read_blocks

ENTRIES = [
    {"image_id": 1, "note": 'a "}, {" in a text', "keypoints": [1.5, 2, 3]},
    {"image_id": 2, "nested": {"a": [{"b": 1}, {"c": {}}], "d": {}}},
    {},
    {"long": "x" * 300},
    {"image_id": 3, "of": [{"a": 1}, {"a": 2}]},
]


def plain(entry: Any) -> Any:
    return entry if isinstance(entry, dict) else entry.as_dict()


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_every_entry_comes_once_whatever_the_blocks(tmp_path: Path, block_bytes: int, indent: int | None) -> None:
    path = tmp_path / "results.json"
    path.write_text("\n " + json.dumps(ENTRIES * 5, indent=indent) + "\n")
    blocks = [[plain(entry) for entry in block] for block in read_blocks(path, block_bytes)]
    assert [entry for block in blocks for entry in block] == ENTRIES * 5
    if block_bytes == 64:
        assert len(blocks) > 5


@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
def test_numbers_are_those_of_the_text(tmp_path: Path, block_bytes: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6)) * 10.0 ** rng.integers(-30, 30, (40, 6))
    lists = [[*row, 7, -0.0, 2**63, 10**30] for row in values.tolist()]
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"number": row} for row in lists]))
    found = [float64_of(entry["number"]) for block in read_blocks(path, block_bytes) for entry in block]
    assert found == [np.array(row, np.float64).tobytes() for row in lists], "to the last bit, whole numbers too"


@pytest.mark.parametrize("value", ["null", '"a"', '["a"]', "[1, null]", "[true]"])
def test_what_is_no_list_of_numbers_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "results.json").write_text(f'[{{"number": {value}}}, {{}}]')
    first, _ = (entry for block in read_blocks(tmp_path / "results.json", 24) for entry in block)
    with pytest.raises((TypeError, ValueError)):
        float64_of(first["number"])


def test_an_empty_list_has_no_entries(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[ ]")
    assert [entry for block in read_blocks(tmp_path / "results.json") for entry in block] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a list of objects"),
        ('{"a": 1}', "expected a list of objects"),
        ("[1, 2]", "expected a list of objects"),
        ('[{"a": 1}, {"b": ', "not readable as JSON"),
        ('[{"a": 1} {"b": 2}]', "not readable as JSON"),
        ('[{"a": 1}] trailing', "not readable as JSON"),
    ],
)
@pytest.mark.parametrize("block_bytes", [4, 1 << 20])
def test_what_is_no_list_of_objects_is_refused(tmp_path: Path, text: str, message: str, block_bytes: int) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        list(read_blocks(path, block_bytes))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such file"):
        list(read_blocks(tmp_path / "results.json"))
