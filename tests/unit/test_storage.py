import hashlib
import os
import socket
import uuid
from pathlib import Path

import pytest

from posecore.errors import ConfigError, PreflightError
from posecore.storage import (
    AnyPath,
    ExpectedFile,
    TooLarge,
    as_path,
    file_content,
    make_writable,
    read_at_most,
    sha256_of,
    write_atomically,
)


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    return tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")


def test_local_paths_stay_local_and_urls_become_remote() -> None:
    assert as_path("a/b") == as_path("file://a/b") == Path("a/b")
    remote = as_path("memory://a/b")
    assert not isinstance(remote, Path)
    assert as_path(remote) is remote


def test_an_unknown_protocol_is_refused_with_the_url() -> None:
    with pytest.raises(ConfigError, match=r"^nowhere://a: .*'nowhere'.* give a local path or a URL"):
        as_path("nowhere://a")


def test_a_file_is_written_with_its_folders_and_replaced_whole(folder: AnyPath) -> None:
    path = folder / "deep" / "file"
    for data in (b"first", b"", b"second" * 1000):
        write_atomically(path, data)
        with file_content(path) as content:
            assert bytes(content) == data
        assert sha256_of(path, chunk_bytes=7) == hashlib.sha256(data).hexdigest()
    assert [child.name for child in path.parent.iterdir()] == ["file"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "file", []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        synced.append((os.fstat(descriptor).st_size, os.fstat(descriptor).st_ino, path.exists()))

    monkeypatch.setattr("os.fsync", watched)
    write_atomically(path, b"x" * 5000)
    assert synced == [(5000, path.stat().st_ino, False)]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_read_up_to_a_size_and_not_beyond(folder: AnyPath) -> None:
    path = folder / "file"
    write_atomically(path, b"12345")
    assert read_at_most(path, 5) == b"12345"
    with pytest.raises(TooLarge, match="more than the 4 bytes allowed"):
        read_at_most(path, 4)
    with pytest.raises(FileNotFoundError):
        read_at_most(folder / "none", 5)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a socket", "a device"])
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "a socket":
            listener.bind(str(path))
        with pytest.raises(OSError, match="No such device" if kind == "a socket" else f"it is {kind}, not a file"):
            read_at_most(path, 100)


def test_a_dangling_link_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        read_at_most(tmp_path / "x", 100)


@pytest.mark.parametrize("name", ["file", "folder", "none", "none/within", "nul\0"])
def test_what_is_expected_to_be_read_may_be_missing_or_no_file(tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    expected = [ExpectedFile(f"{tmp_path}/{name}", soon=True) for _ in range(2)]
    if name == "file":
        assert expected[0].read(1) == b"x"
    else:
        with pytest.raises(OSError):
            expected[0].read(1)
    expected[1].close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_writable(tmp_path / "new" / "folder", "the report")
    assert (tmp_path / "new" / "folder").is_dir()
    make_writable(as_path("memory://anything"), "the report")
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"^the report .*/file/below cannot be made: Not a directory\.$"):
        make_writable(tmp_path / "file" / "below", "the report")
    monkeypatch.setattr("os.access", lambda *_: False)  # as on a disk mounted to be read: root may write anywhere else
    with pytest.raises(PreflightError, match="cannot be written"):
        make_writable(tmp_path, "the report")
