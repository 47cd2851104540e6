"""A shard between two operators of the ingestion pipeline: one row of one Arrow block, whatever it holds.

A picture that is still the file it was read from, on a disk that every node sees, does not travel: whoever wants it
reads the file again, which the system has in memory, and knows by its hash that it is the same. All others lie in a
large binary column, so that Ray hands them on through shared memory without taking them apart. They are put there by
one copy, and each is copied out when its turn has come: to make a thousand at a time in fresh memory takes longer than
to hash them. Annotations stay the columns that they are in the plan; only a stage that sees pictures has records made
of them.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from posecore.ingest.fetch import Sample, Samples, source_image
from posecore.ingest.job import IngestJob
from posecore.ingest.source_image import read_again
from posecore.ingest.tally import Tally
from posecore.ingest.write import WrittenShard
from posecore.stages.protocol import Picture
from posecore.tables.columns import Annotations
from posecore.tables.records import to_annotations, to_records

_FIRST_BYTES = 1 << 22
_TABLES = ("images", "instances")
_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("error", pa.large_binary()),
        pa.field("written", pa.large_binary()),
        pa.field("tally", pa.large_binary()),
        *(pa.field(name, pa.large_binary()) for name in _TABLES),
        pa.field("digests", pa.large_list(pa.string())),
        pa.field("hashes", pa.large_list(pa.uint64())),
        pa.field("pictures", pa.large_list(pa.large_binary())),
        pa.field("depths", pa.large_list(pa.large_binary())),
    ]
)


def failed(number: int, error: Exception) -> pa.Table:
    """A shard that could not be made; the error travels as a value, because Ray would wrap one that is raised."""
    return _row(number=number, error=pickle.dumps(error))


def whole(shard: WrittenShard) -> pa.Table:
    """A shard that is on disk."""
    return _row(number=shard.number, written=pickle.dumps(shard))


def fetched(number: int, of_shard: Iterable[Samples], job: IngestJob, tally: Tally) -> pa.Table:
    """A shard whose pictures have been read, with what was counted until the last of them had come."""
    files, parts = _Files(job), [to_annotations([], job.definition.skeleton.num_keypoints)]
    for some in of_shard:
        made_of: Sequence[str | None] = some.annotations.images["source_digest"].to_pylist()
        rows: list[int] = []
        bodies: list[int] = []
        sizes: list[tuple[int, int]] = []
        for row, of_row, image, depth in some.found:
            files.add(image.data, None if depth is None else depth.data, image.digest, made_of[row], image.xxh3)
            rows.append(row)
            bodies += of_row
            sizes.append((image.height, image.width))
        parts.append(_with_sizes(some.annotations.left(rows, bodies), sizes))
    return _content(number, Annotations.joined(parts), files, tally)


def staged(number: int, pictures: Iterable[Picture], job: IngestJob, tally: Tally) -> pa.Table:
    """A shard that a stage has left, with what was counted until the last of its pictures had come."""
    files, records = _Files(job), []
    for picture in pictures:
        files.add(picture.data, picture.depth, picture.record.digest, picture.record.source_digest)
        records.append(picture.record)
    return _content(number, to_annotations(records, job.definition.skeleton.num_keypoints), files, tally)


def number_of(block: pa.Table) -> int:
    """Which shard a block is of."""
    return int(block["number"][0].as_py())


def outcome(block: pa.Table) -> WrittenShard | Exception | None:
    """What came of the shard of a block, or None if it is still on its way."""
    for name in ("error", "written"):
        if (value := block[name][0].as_py()) is not None:
            result: WrittenShard | Exception = pickle.loads(value)
            return result
    return None


def tally_of(block: pa.Table) -> Tally:
    """What was counted of a shard so far."""
    tally: Tally = pickle.loads(block["tally"][0].as_py())
    return tally


def pictures_of(block: pa.Table, job: IngestJob) -> Iterator[Picture]:
    """The pictures of a shard on its way, as stages see them."""
    annotations = _annotations(block)
    records = to_records(annotations, job.definition.name, job.split)
    for record, (data, depth, digest) in zip(records, _files(block, annotations, job), strict=True):
        record.digest = digest
        yield Picture(data=data, record=record, depth=depth)


def samples_of(block: pa.Table, job: IngestJob) -> Samples:
    """The samples of a shard on its way, as they are written; a picture that a stage has changed is hashed."""
    annotations = _annotations(block)
    files = _files(block, annotations, job)
    found = (
        Sample(row, bodies, source_image(data, digest), None if depth is None else source_image(depth))
        for row, (bodies, (data, depth, digest)) in enumerate(zip(annotations.bodies(), files, strict=True))
    )
    return Samples(annotations, found)


def _content(number: int, annotations: Annotations, files: "_Files", tally: Tally) -> pa.Table:
    tables = {name: _written(getattr(annotations, name)) for name in _TABLES}
    return _row(number=number, tally=pickle.dumps(tally), **tables, **files.columns())


def _with_sizes(annotations: Annotations, sizes: list[tuple[int, int]]) -> Annotations:
    """With height and width as the files say."""
    images = annotations.images
    for name, values in zip(("height", "width"), np.array(sizes, np.int32).reshape(-1, 2).T, strict=True):
        column = images.schema.get_field_index(name)
        images = images.set_column(column, images.schema.field(column), pa.array(values, pa.int32()))
    return Annotations(images, annotations.instances)


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _annotations(block: pa.Table) -> Annotations:
    return Annotations(
        *(pa.ipc.open_stream(block[name][0].as_buffer()).read_all().combine_chunks() for name in _TABLES)
    )


def _files(block: pa.Table, annotations: Annotations, job: IngestJob) -> Iterator[tuple[bytes, bytes | None, str]]:
    columns = (block[name][0].values for name in ("pictures", "depths", "digests", "hashes"))
    for name, data, depth, digest, xxh3 in zip(annotations.images["image"], *columns, strict=True):
        content = data.as_py()
        if content is None:
            content = read_again(job.root, name.as_py(), xxh3.as_py(), job.settings)
        yield content, depth.as_py(), digest.as_py()


class _Files:
    """The files of some pictures, the digests of those pictures that have one already, and hashes of what is left out.

    Args:
        job: says whether every node reads the same files from a disk.
    """

    def __init__(self, job: IngestJob) -> None:
        self._on_disk = isinstance(job.root, Path)
        self._pictures, self._depths = _Column(), _Column()
        self._digests: list[str] = []
        self._hashes: list[int | None] = []

    def add(
        self, picture: bytes, depth: bytes | None, digest: str, made_of: str | None, xxh3: int | None = None
    ) -> None:
        """Copies what belongs to one picture and is not in its source file as it is.

        Args:
            picture: its content.
            depth: its depth picture's content, or None.
            digest: of the picture; empty of one that was changed since it was known.
            made_of: digest of what the picture was made of, None if it is the file itself.
            xxh3: of the picture; None if it is not known yet.
        """
        is_file = self._on_disk and bool(digest) and made_of is None
        self._hashes.append(None if not is_file else xxh3_64_intdigest(picture) if xxh3 is None else xxh3)
        self._pictures.add(None if is_file else picture)
        self._depths.add(depth)
        self._digests.append(digest)

    def columns(self) -> dict[str, pa.Array]:
        """Columns of one row."""
        lists = {"digests": pa.array(self._digests, pa.string()), "hashes": pa.array(self._hashes, pa.uint64())}
        in_one_row = {name: pa.LargeListArray.from_arrays([0, len(values)], values) for name, values in lists.items()}
        return {"pictures": self._pictures.in_one_row(), "depths": self._depths.in_one_row(), **in_one_row}


class _Column:
    """Contents one after the other, copied when they are added, so that whoever made them can reuse their memory."""

    def __init__(self) -> None:
        # NumPy asks for large pages, with which 40 MB of pictures are copied in a third of the time.
        self._data = np.empty(_FIRST_BYTES, np.uint8)
        self._edges = [0]
        self._present: list[bool] = []

    def add(self, content: bytes | None) -> None:
        first = self._edges[-1]
        end = first + len(content or b"")
        if end > len(self._data):
            larger = np.empty(max(end, 2 * len(self._data)), np.uint8)
            larger[:first] = self._data[:first]
            self._data = larger
        if content:
            self._data[first:end] = np.frombuffer(content, np.uint8)
        self._edges.append(end)
        self._present.append(content is not None)

    def in_one_row(self) -> pa.Array:
        """A column of one row that has all of them."""
        present = None if all(self._present) else pa.array(self._present).buffers()[1]
        buffers = [
            present,
            pa.py_buffer(np.array(self._edges, np.int64)),
            pa.py_buffer(self._data).slice(0, self._edges[-1]),
        ]
        contents = pa.Array.from_buffers(pa.large_binary(), len(self._present), buffers)
        return pa.LargeListArray.from_arrays([0, len(self._present)], contents)


def _row(**values: Any) -> pa.Table:
    return pa.table(
        [
            values[field.name]
            if isinstance(values.get(field.name), pa.Array)
            else pa.array([values.get(field.name)], field.type)
            for field in _SCHEMA
        ],
        schema=_SCHEMA,
    )
