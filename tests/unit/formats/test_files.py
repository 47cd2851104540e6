import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from posecore.errors import DatasetError
from posecore.formats.files import read_json, read_text, relative_path
from posecore.formats.reader import Source
from posecore.formats.values import Refusal


def test_paths_are_joined_with_forward_slashes() -> None:
    assert relative_path("images/", "./a", "/b.jpg") == "images/a/b.jpg"
    assert relative_path("", "b.jpg") == "b.jpg"


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x", "C:/x.jpg", "a\\b.jpg", "s3://bucket/x", "a\0b", "", "."])
def test_paths_out_of_the_root_are_refused(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        relative_path(name)
    assert caught.value.reason == "path-escape"


def test_json_with_nan_is_read(make_source: Callable[..., Source], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": NaN}')
    assert math.isnan(read_json(make_source("a.json"), "a.json")["x"])


@pytest.mark.parametrize("content", [b"", b'{"x": ', b"[" * 100_000, b"\xff\xfe\x00"])
def test_broken_json_is_one_clear_sentence(make_source: Callable[..., Source], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"tiny train: a\.json is not valid JSON"):
        read_json(make_source("a.json"), "a.json")


def test_missing_and_unreadable_files_are_named(make_source: Callable[..., Source], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.json is missing below"):
        read_json(make_source("a.json"), "a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatasetError, match="folder cannot be read"):
        read_text(make_source("folder"), "folder")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_text(make_source("a.csv"), "a.csv")


def test_a_pipe_is_not_waited_for_and_a_giant_not_read(make_source: Callable[..., Source], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    with pytest.raises(DatasetError, match=r"tiny train: .*pipe cannot be read .it is a pipe, not a file"):
        read_json(make_source("pipe"), "pipe")
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(1001)
    with pytest.raises(DatasetError, match=r"giant cannot be read .it has more than the 1000 bytes allowed"):
        read_json(make_source("giant", max_file_bytes=1000), "giant")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(DatasetError, match="link is missing"):
        read_json(make_source("link"), "link")


@pytest.mark.parametrize(
    "text", ['{"name": "\\ud800"}', f'{{"x": NaN, "y": {2**70}}}', '{"x": NaN, "y": ' + "[" * 300 + "]" * 300 + "}"]
)
def test_json_that_could_not_be_written_again_is_refused(
    make_source: Callable[..., Source], tmp_path: Path, text: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json is not valid JSON"):
        read_json(make_source("a.json"), "a.json")


def test_byte_order_mark_is_taken_off(make_source: Callable[..., Source], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfscorer")
    assert read_text(make_source("a.csv"), "a.csv") == "scorer"
