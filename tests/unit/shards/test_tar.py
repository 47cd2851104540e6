import contextlib
import hashlib
import io
import tarfile
from io import FileIO

import pytest
from blake3 import blake3

from posecore.errors import IntegrityError
from posecore.shards.tar import (
    END_OF_ARCHIVE,
    TarWriter,
    has_tar_digest,
    member_header,
    members,
    padding,
    stored_size,
    tar_digest,
)

CONTENTS = {"a.jpg": b"x" * 513, "b.json": b"", "c.masks.npz": b"y" * 512}


def archive() -> bytes:
    parts = [member_header(name, len(data)) + data + padding(len(data)) for name, data in CONTENTS.items()]
    return b"".join(parts) + END_OF_ARCHIVE


@pytest.mark.parametrize(("name", "size"), [("a.jpg", 0), ("k" * 99, 8**11 - 1), ("000000000139.masks.npz", 12345)])
def test_headers_equal_the_standard_librarys(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [("", 1), ("k" * 100, 1), ("a", -1), ("a", 8**11)])
def test_what_does_not_fit_a_header_is_refused(name, size):
    with pytest.raises(ValueError, match="tar member"):
        member_header(name, size)


def test_tarfile_reads_every_member():
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        assert {info.name: tar.extractfile(info).read() for info in tar} == CONTENTS


def test_members_names_every_content():
    data = archive()
    found = {member.name: data[member.offset : member.offset + member.size] for member in members(data, "t")}
    assert found == CONTENTS
    assert sum(stored_size(len(content)) for content in CONTENTS.values()) + len(END_OF_ARCHIVE) == len(data)


@pytest.mark.parametrize("length", [0, 100, 512, 600, 1100, 1536])
def test_a_tar_that_ends_early_is_noticed(length):
    with pytest.raises(IntegrityError, match="ends"):
        list(members(archive()[:length], "t.tar"))


@pytest.mark.parametrize("position", [0, 130, 150, 300])
def test_a_flipped_byte_in_a_header_is_noticed(position):
    data = bytearray(archive())
    data[position] ^= 0x11
    with pytest.raises(IntegrityError, match="byte 0"):
        list(members(bytes(data), "t.tar"))


def test_the_writer_and_the_bytes_agree_on_the_digest(tmp_path):
    contents = {**CONTENTS, "d.jpg": bytes(3 << 20), **{f"{number}.json": b"{}" for number in range(400)}}
    path = tmp_path / "t.tar"
    with FileIO(path, "wb") as file:
        tar = TarWriter(file)
        found = [tar.add(name, data) for name, data in contents.items()]
        digest = tar.finish()
    data = path.read_bytes()
    assert len(data) == tar.position
    assert found == list(members(data, "t"))
    assert {member.name: data[member.offset : member.offset + member.size] for member in found} == contents
    assert tar_digest(data, "t") == digest


def test_the_digest_is_that_of_the_tar_with_large_contents_replaced_by_theirs():
    contents = {"a.jpg": bytes(16384), "a.json": bytes(16383), "a.masks.npz": b"z"}
    parts = [member_header(name, len(data)) + data + padding(len(data)) for name, data in contents.items()]
    named = f"blake3-{blake3(bytes(16384)).hexdigest()}".encode()
    assert not padding(16384)
    replaced = [member_header("a.jpg", 16384) + named, *parts[1:], END_OF_ARCHIVE]
    found = tar_digest(b"".join(parts) + END_OF_ARCHIVE, "t")
    assert found == f"blake3-{blake3(b''.join(replaced)).hexdigest()}"
    assert has_tar_digest(b"".join(parts) + END_OF_ARCHIVE, found, "t")


def test_a_digest_of_the_third_format_is_recognised():
    parts = [
        member_header(name, len(data)) + hashlib.sha256(data).hexdigest().encode() + padding(len(data))
        for name, data in CONTENTS.items()
    ]
    former = hashlib.sha256(b"".join(parts) + END_OF_ARCHIVE).hexdigest()
    assert has_tar_digest(archive(), former, "t")
    assert not has_tar_digest(archive().replace(b"xx", b"xy"), former, "t")


def test_any_flipped_byte_changes_the_digest_or_is_refused():
    data = bytearray(archive())
    whole = tar_digest(memoryview(data), "t")
    for position in range(len(data)):
        data[position] ^= 0x11
        with contextlib.suppress(IntegrityError):
            assert tar_digest(memoryview(data), "t") != whole
        data[position] ^= 0x11
    assert tar_digest(memoryview(data), "t") == whole


def test_pieces_are_written_at_a_megabyte_or_at_512_parts_and_not_before(tmp_path):
    """Each member has three parts: header, content, and what fills its last block."""
    path = tmp_path / "t.tar"
    with FileIO(path, "w") as file:
        writer = TarWriter(file)
        for number in range(170):
            writer.add(str(number), b"x")
        assert path.stat().st_size == 0
        writer.add("170", b"x")
        assert path.stat().st_size == writer.position == 171 * 1024
        writer.add("large", bytes((1 << 20) - 2 * 512))
        assert path.stat().st_size == 171 * 1024, "a block is missing to a megabyte"
        writer.add("empty", b"")
        assert path.stat().st_size == writer.position
        writer.finish()
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) == 173
