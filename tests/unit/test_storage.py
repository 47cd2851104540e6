import hashlib
import uuid
from pathlib import Path

import pytest

from posecore.errors import ConfigError
from posecore.storage import AnyPath, as_path, file_content, sha256_of, write_atomically


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
