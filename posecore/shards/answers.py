"""What a teacher says of every crop of a split, stored once: tars of arrays, read by instance with one ``pread``.

::

    answers-000000.tar    per crop <row>.outputs.npy and <row>.features.npy, those of the mirrored crop as
                          <row>-mirrored.outputs.npy …; row is that of the split's index.parquet
    answers-000000.json   its commit record: the tar beside it is whole, and this is what it was made from
    index.parquet         a row per crop: instance, shard, offset, XXH3 of its members' content
    manifest.json         whose answers to what, digests of all files; written last

A folder without a manifest is not finished. Reading costs the index in memory, 28 bytes per crop, and nothing else.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64

from posecore.config import Config, digest_json
from posecore.conventions import Conventions
from posecore.errors import ConfigError, IntegrityError
from posecore.shards.index import write_table
from posecore.shards.manifest import INSTANCES_NAME, MANIFEST_NAME
from posecore.shards.npy import npy_bytes, npy_header
from posecore.shards.open_files import OpenFiles
from posecore.shards.tar import BLOCK_BYTES, TarWriter, has_tar_digest, stored_size
from posecore.storage import file_content, write_atomically, written_aside
from posecore.tables.parquet import read_parquet

FORMAT: Literal[1] = 1
_AGAIN = f"remove {MANIFEST_NAME} there and run the job again, which keeps what is whole"

AnswerPrecision: TypeAlias = Literal["float16", "float32"]
"""What numbers are stored as."""

Bodies: TypeAlias = Literal["labelled", "all", "images"]
"""What is cropped: boxes with a labelled point; all boxes; or every image as one body, its boxes and labels unseen."""


class CropTerms(Config):
    """Which crops were shown: un-augmented ones.

    Attributes:
        dataset: digest of the split.
        bodies: the labelled ones, or all with a box.
        input_size: (height, width) of the crops.
        conventions: they were cut by.
        mirrored: whether the mirrored crops were shown as well.
    """

    dataset: str
    bodies: Bodies
    input_size: tuple[int, int]
    conventions: Conventions
    mirrored: bool


class LessonTerms(Config):
    """Who was asked, and what of the answer was kept.

    Attributes:
        teacher: SHA-256 of its weights.
        head: that answered.
        points: of that head whose outputs were kept, in this order; empty if outputs were not kept.
        feature_size: (height, width) of the grid that features were averaged onto; None if they were not kept.
    """

    teacher: str
    head: str
    points: tuple[int, ...]
    feature_size: tuple[int, int] | None


class AnswerTerms(Config):
    """Everything stored answers depend on: under equal terms, a teacher says the same.

    Attributes:
        lesson: who was asked for what.
        crops: of which crops.
        precision: of the stored numbers.
    """

    lesson: LessonTerms
    crops: CropTerms
    precision: AnswerPrecision

    @cached_property
    def digest(self) -> str:
        """Names a folder of answers."""
        return digest_json(self.model_dump(mode="json"))


class AnswerShard(Config):
    """One tar of answers.

    Attributes:
        name: file name.
        digest: of the whole tar, as :mod:`posecore.shards.tar` defines it.
        size_bytes: of the whole tar.
        num_crops: answers in it.
    """

    name: str
    digest: str
    size_bytes: int
    num_crops: int


class AnswerCommit(Config):
    """The side-car of a tar: it says that the tar is whole, and what it was made from.

    Attributes:
        terms: digest of the terms.
        code: version of the code that asked the teacher.
        shard: the tar.
        outputs_shape: of every crop's outputs, None if not kept.
        features_shape: of every crop's features, None if not kept.
        rows: of the instances, per crop.
        mirrored: per crop.
        checksums: 64-bit XXH3 of the content of every crop's members together.
    """

    terms: str
    code: str
    shard: AnswerShard
    outputs_shape: tuple[int, ...] | None
    features_shape: tuple[int, ...] | None
    rows: tuple[int, ...]
    mirrored: tuple[bool, ...]
    checksums: tuple[int, ...]


class AnswerManifest(Config):
    """Names finished answers.

    Attributes:
        format: of the files.
        terms: what the answers depend on.
        code: version of the code that asked the teacher.
        outputs_shape: of every crop's outputs, None if not kept.
        features_shape: of every crop's features, None if not kept.
        shards: the tars in order.
        index: SHA-256 of the index.
    """

    format: Literal[1] = FORMAT
    terms: AnswerTerms
    code: str
    outputs_shape: tuple[int, ...] | None
    features_shape: tuple[int, ...] | None
    shards: tuple[AnswerShard, ...]
    index: str

    @property
    def num_crops(self) -> int:
        """Answers in all shards."""
        return sum(shard.num_crops for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Of all shards."""
        return sum(shard.size_bytes for shard in self.shards)


class Answer(NamedTuple):
    """What a teacher says of one crop.

    Attributes:
        outputs: (P, …) of its head for the kept points, or None.
        features: (D, h, w) of its backbone, or None.
    """

    outputs: NDArray[np.floating] | None
    features: NDArray[np.floating] | None


class CropAnswer(NamedTuple):
    """An answer and the crop it was given to.

    Attributes:
        row: of the instance.
        mirrored: whether the mirrored crop was shown.
        answer: in the precision that is to be stored.
    """

    row: int
    mirrored: bool
    answer: Answer


def answers_name(number: int, suffix: str) -> str:
    """File name of a tar (``tar``) or its side-car (``json``)."""
    return f"answers-{number:06d}.{suffix}"


def write_answers(
    folder: Path, number: int, terms: AnswerTerms, code: str, answers: Iterable[CropAnswer]
) -> AnswerCommit:
    """Writes one tar and its side-car; equal answers give equal bytes.

    Args:
        folder: of the answers.
        number: of the tar.
        terms: of the answers.
        code: version of the code that asks.
        answers: at least one, all of one shape.
    """
    rows, mirrored, checksums = [], [], []
    shapes: tuple[tuple[int, ...] | None, ...] = (None, None)
    name = answers_name(number, "tar")
    with written_aside(folder / name) as aside, FileIO(aside, "wb") as file:
        tar = TarWriter(file)
        for row, is_mirrored, answer in answers:
            rows.append(row)
            mirrored.append(is_mirrored)
            checksums.append(_add(tar, f"{row}-mirrored" if is_mirrored else str(row), answer))
            shapes = tuple(None if array is None else array.shape for array in answer)
        shard = AnswerShard(name=name, digest=tar.finish(), size_bytes=tar.position, num_crops=len(rows))
    commit = AnswerCommit(
        terms=terms.digest,
        code=code,
        shard=shard,
        outputs_shape=shapes[0],
        features_shape=shapes[1],
        rows=tuple(rows),
        mirrored=tuple(mirrored),
        checksums=tuple(checksums),
    )
    write_atomically(folder / answers_name(number, "json"), commit.model_dump_json().encode())
    return commit


def _add(tar: TarWriter, key: str, answer: Answer) -> int:
    checksum = xxh3_64()
    for name, array in zip(Answer._fields, answer, strict=True):
        if array is not None:
            content = npy_bytes(array)
            tar.add(f"{key}.{name}.npy", content)
            checksum.update(content)
    return checksum.intdigest()


def finished_shard(
    folder: Path, number: int, terms: AnswerTerms, code: str, rows: Sequence[int]
) -> AnswerCommit | None:
    """The commit record of a tar that is whole and was made from the same, or None.

    Args:
        folder: of the answers.
        number: of the tar.
        terms: of the answers.
        code: version of the code that asks.
        rows: of the instances, per crop.
    """
    path = folder / answers_name(number, "tar")
    try:
        commit = AnswerCommit.model_validate_json((folder / answers_name(number, "json")).read_bytes())
        if (commit.terms, commit.code, commit.rows) != (terms.digest, code, tuple(rows)):
            return None
        with file_content(path) as data:
            return commit if has_tar_digest(data, commit.shard.digest, str(path)) else None
    except (FileNotFoundError, ValueError):
        return None


def publish_answers(folder: Path, terms: AnswerTerms, code: str, commits: Sequence[AnswerCommit]) -> AnswerManifest:
    """Writes index and manifest of whole tars, and removes others and what killed writers left.

    Args:
        folder: of the answers.
        terms: of the answers.
        code: version of the code that asked.
        commits: of all tars, in order.
    """
    ours = {answers_name(number, suffix) for number in range(len(commits)) for suffix in ("tar", "json")}
    for path in folder.iterdir():
        if path.name.endswith(".part.tar") or (path.name.startswith("answers-") and path.name not in ours):
            path.unlink(missing_ok=True)
    outputs_shape, features_shape = commits[0].outputs_shape, commits[0].features_shape
    crop_bytes = _CropLayout(outputs_shape, features_shape, terms.precision).crop_bytes
    columns: dict[str, list[Any]] = {name: [] for name in _INDEX_SCHEMA.names}
    for number, commit in enumerate(commits):
        count = commit.shard.num_crops
        columns["row"] += commit.rows
        columns["mirrored"] += commit.mirrored
        columns["shard"] += [number] * count
        columns["offset"] += range(0, count * crop_bytes, crop_bytes)
        columns["xxh3"] += commit.checksums
    table = pa.table(columns, _INDEX_SCHEMA).sort_by([("row", "ascending"), ("mirrored", "ascending")])
    manifest = AnswerManifest(
        terms=terms,
        code=code,
        outputs_shape=outputs_shape,
        features_shape=features_shape,
        shards=tuple(commit.shard for commit in commits),
        index=hashlib.sha256(write_table(folder / INSTANCES_NAME, table)).hexdigest(),
    )
    value = manifest.model_dump(mode="json")
    write_atomically(folder / MANIFEST_NAME, json.dumps({"digest": digest_json(value), **value}, indent=1).encode())
    return manifest


_INDEX_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("mirrored", pa.bool_(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("xxh3", pa.uint64(), nullable=False),
    ]
)


class _CropLayout:
    """Where the arrays of a crop lie within its bytes: the same for every crop.

    Attributes:
        crop_bytes: of a crop, tar headers included.
    """

    def __init__(
        self,
        outputs_shape: tuple[int, ...] | None,
        features_shape: tuple[int, ...] | None,
        precision: AnswerPrecision,
    ) -> None:
        self._dtype = np.dtype(precision)
        self._arrays: list[tuple[tuple[int, ...], int, int, int] | None] = []
        self.crop_bytes = 0
        for shape in (outputs_shape, features_shape):
            if shape is None:
                self._arrays.append(None)
                continue
            count, header = math.prod(shape), len(npy_header(self._dtype.str, shape))
            self._arrays.append((shape, count, self.crop_bytes + BLOCK_BYTES, header))
            self.crop_bytes += stored_size(header + count * self._dtype.itemsize)

    def answer(self, data: bytes) -> tuple[Answer, int]:
        """The arrays, which refer to the bytes, and their XXH3."""
        checksum = xxh3_64()
        arrays: list[NDArray[np.floating] | None] = []
        for place in self._arrays:
            if place is None:
                arrays.append(None)
                continue
            shape, count, start, header = place
            checksum.update(data[start : start + header + count * self._dtype.itemsize])
            arrays.append(np.frombuffer(data, self._dtype, count, start + header).reshape(shape))
        return Answer(*arrays), checksum.intdigest()


class AnswerStore:
    """Finished answers, read by instance. Safe to use from several threads.

    Args:
        folder: of the answers.

    Raises:
        IntegrityError: the answers are not finished, or the index is not that of the manifest.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_answer_manifest(self.folder)
        self._layout = _CropLayout(
            self.manifest.outputs_shape, self.manifest.features_shape, self.manifest.terms.precision
        )
        table = self._read_index()
        self._keys = 2 * table["row"].to_numpy() + table["mirrored"].to_numpy()
        self._places = [table[name].to_numpy() for name in ("shard", "offset", "xxh3")]
        self._files = OpenFiles(lambda number: self.folder / self.manifest.shards[number].name)

    def read(self, row: int, mirrored: bool) -> Answer:
        """The answer to one crop.

        Args:
            row: of the instance, in the split's ``index.parquet``.
            mirrored: whether the crop is mirrored.

        Raises:
            IntegrityError: there is none, or its bytes are not those that were written.
        """
        key = 2 * row + mirrored
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            raise IntegrityError(f"{self.folder}: no answer for row {row}{', mirrored' * mirrored}; {_AGAIN}.")
        shard, offset, xxh3 = (int(values[place]) for values in self._places)
        path = self.folder / self.manifest.shards[shard].name
        try:
            data = self._files.read(shard, offset, self._layout.crop_bytes)
        except FileNotFoundError:
            raise IntegrityError(f"{path}: the tar is missing; {_AGAIN}.") from None
        if len(data) != self._layout.crop_bytes:
            raise IntegrityError(f"{path}: the tar ends at byte {offset + len(data)}, within an answer; {_AGAIN}.")
        answer, found = self._layout.answer(data)
        if found != xxh3:
            raise IntegrityError(f"{path}: the answer at byte {offset} is not what was written; {_AGAIN}.")
        return answer

    def stack(self, answers: Sequence[Answer]) -> Answer:
        """Answers of any number of crops, none included, along a new first axis."""
        shapes = (self.manifest.outputs_shape, self.manifest.features_shape)
        dtype, count = np.dtype(self.manifest.terms.precision), len(answers)
        return Answer(
            *(
                None if shape is None else np.array([answer[part] for answer in answers], dtype).reshape(count, *shape)
                for part, shape in enumerate(shapes)
            )
        )

    def _read_index(self) -> pa.Table:
        path = self.folder / INSTANCES_NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{path}: the index is missing; {_AGAIN}.") from None
        if hashlib.sha256(data).hexdigest() != self.manifest.index:
            raise IntegrityError(f"{path}: not the index that its manifest names; {_AGAIN}.")
        return read_parquet(data)


def read_answer_manifest(folder: str | Path) -> AnswerManifest:
    """Reads the manifest of finished answers.

    Raises:
        IntegrityError: there is none, or it was altered.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        value = json.loads(path.read_bytes())
        stated = value.pop("digest", None) if isinstance(value, dict) else None
        manifest = AnswerManifest.model_validate(value)
    except FileNotFoundError:
        raise IntegrityError(
            f"{folder}: no {MANIFEST_NAME}, so no finished answers of a teacher are here; run the job that "
            "asks it again."
        ) from None
    except ValueError as error:
        detail = " ".join(str(error).split())
        raise IntegrityError(f"{path}: not a manifest of answers ({detail}); {_AGAIN}.") from None
    if digest_json(manifest.model_dump(mode="json")) != stated:
        raise IntegrityError(f"{path}: its content does not have the digest it states; {_AGAIN}.")
    return manifest


def refuse_other_terms(folder: str | Path, found: Config, wanted: Config) -> None:
    """Refuses answers to other crops, of another teacher, or of which other parts were kept.

    Args:
        folder: of the answers.
        found: :class:`CropTerms` or :class:`LessonTerms` of the answers.
        wanted: the same of the run.

    Raises:
        ConfigError: they differ; one sentence that names the first difference.
    """
    for name in type(found).model_fields:
        theirs, ours = getattr(found, name), getattr(wanted, name)
        if theirs != ours:
            raise ConfigError(
                f"{folder}: these answers were stored with {_SAID.get(name, name)} {_short(theirs)}, and this run has "
                f"{_short(ours)}; let the job store its own, or go back to what they were stored with."
            )


_SAID = {"teacher": "the teacher of SHA-256", "dataset": "the dataset of digest", "feature_size": "features of size"}


def _short(value: Any) -> str:
    if isinstance(value, Config):
        return value.model_dump_json()
    return "none" if value is None else str(value)
