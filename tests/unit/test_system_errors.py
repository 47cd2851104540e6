"""What the operating system refused, said for a person."""

import errno
import os
from pathlib import Path

import pytest

from posecore.asides import aside_file
from posecore.system_errors import is_full, said_of_system


def refused(work: object, *arguments: object) -> OSError:
    with pytest.raises(OSError) as caught:
        work(*arguments)  # type: ignore[operator]
    return caught.value


def test_files_and_folders_that_are_not_what_they_must_be(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "notes").touch()
    absent = refused((tmp_path / "frame" / "a.jpg").read_bytes)
    assert said_of_system(absent) == (
        f"{tmp_path}/frame/a.jpg: there is no such file or folder; did you mean {tmp_path}/frames?"
    )
    inside = refused((tmp_path / "notes" / "a.jpg").write_bytes, b"")
    assert said_of_system(inside) == f"{tmp_path}/notes/a.jpg: a file is where a folder must be; name another place."
    folder = refused((tmp_path / "frames").write_bytes, b"")
    assert said_of_system(folder) == f"{tmp_path}/frames is a folder; name a file, such as one in it."


def test_a_file_that_is_still_being_written_is_called_by_what_it_will_be(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with aside_file(tmp_path) as path:
        error = refused(path.replace, tmp_path / "out")
        assert said_of_system(error).startswith(f"{tmp_path}/out is a folder")
        assert said_of_system(OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))).startswith(
            f"{tmp_path}: you may"
        )


def test_a_full_disk_is_known_by_whoever_says_so() -> None:
    error = refused(Path("/dev/full").write_bytes, b"x" * 100_000)
    assert is_full(error)
    assert (
        said_of_system(error, "gallery")
        == "no space is left on the disk for gallery; free some, or name another place."
    )
    assert said_of_system(error) == "no space is left on the disk; free some, or name another place."
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert is_full(RuntimeError("database or disk is full"))
    assert not is_full(OSError(errno.EACCES, "Permission denied"))


def test_other_words_of_the_system_keep_the_place() -> None:
    assert said_of_system(OSError(errno.EROFS, "Read-only file system", "/x")).startswith(
        "/x is on a disk that can only"
    )
    assert said_of_system(OSError(errno.ENAMETOOLONG, "File name too long", "/x")) == "/x: File name too long."
    assert said_of_system(OSError("no address")) == "no address"
