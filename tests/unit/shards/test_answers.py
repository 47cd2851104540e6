"""A teacher's stored answers: what is read is what was written, byte for byte, or nothing."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from posecore.conventions import Conventions
from posecore.errors import ConfigError, IntegrityError
from posecore.shards.answers import (
    Answer,
    AnswerStore,
    AnswerTerms,
    CropAnswer,
    CropTerms,
    LessonTerms,
    finished_shard,
    publish_answers,
    refuse_other_terms,
    write_answers,
)

TERMS = AnswerTerms(
    lesson=LessonTerms(teacher="a" * 64, head="people", points=(0, 2), feature_size=(2, 1)),
    crops=CropTerms(dataset="d" * 64, bodies="labelled", input_size=(64, 32), conventions=Conventions(), mirrored=True),
    precision="float16",
)
ROWS = [(row, mirrored) for row in (3, 4, 9, 20, 21) for mirrored in (False, True)]


def _answer(row: int, mirrored: bool) -> Answer:
    generator = np.random.default_rng([row, mirrored])
    return Answer(generator.normal(size=(2, 7)).astype(np.float16), generator.normal(size=(3, 2, 1)).astype(np.float16))


def _crops(rows: list[tuple[int, bool]]) -> list[CropAnswer]:
    return [CropAnswer(row, mirrored, _answer(row, mirrored)) for row, mirrored in rows]


def _write(folder: Path, order: tuple[int, ...] = (0, 1)) -> Path:
    commits = {
        n: write_answers(folder, n, TERMS, "code", _crops(ROWS[4 * n : 4 * n + 4] if n == 0 else ROWS[4:]))
        for n in order
    }
    publish_answers(folder, TERMS, "code", [commits[0], commits[1]])
    return folder


def test_every_answer_comes_back_by_its_instance(tmp_path: Path) -> None:
    store = AnswerStore(_write(tmp_path))
    for row, mirrored in reversed(ROWS):
        for found, written in zip(store.read(row, mirrored), _answer(row, mirrored), strict=True):
            np.testing.assert_array_equal(found, written)
    assert store.manifest.num_crops == 10
    stacked = store.stack([store.read(9, True), store.read(3, False)])
    np.testing.assert_array_equal(stacked.outputs[0], _answer(9, True).outputs)
    assert [part.shape for part in store.stack([])] == [(0, 2, 7), (0, 3, 2, 1)]


def test_what_was_not_kept_is_none(tmp_path: Path) -> None:
    commit = write_answers(
        tmp_path, 0, TERMS, "code", [CropAnswer(1, False, Answer(None, np.ones((1, 2), np.float16)))]
    )
    publish_answers(tmp_path, TERMS, "code", [commit])
    store = AnswerStore(tmp_path)
    assert store.read(1, False).outputs is None
    assert store.stack([]).outputs is None
    np.testing.assert_array_equal(store.read(1, False).features, np.ones((1, 2)))


def test_any_tool_reads_the_tars_and_any_order_of_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [_write(tmp_path / "a"), _write(tmp_path / "b", order=(1, 0))]
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
        for folder in folders
    ]
    assert digests[0] == digests[1]
    assert set(digests[0]) == {
        *(f"answers-00000{n}.{suffix}" for n in (0, 1) for suffix in ("json", "tar")),
        "index.parquet",
        "manifest.json",
    }
    with tarfile.open(folders[0] / "answers-000000.tar") as tar:
        names = tar.getnames()
        member = tar.extractfile("3-mirrored.features.npy")
        assert member is not None
        np.testing.assert_array_equal(np.load(io.BytesIO(member.read())), _answer(3, True).features)
    assert names[:3] == ["3.outputs.npy", "3.features.npy", "3-mirrored.outputs.npy"]


@pytest.mark.parametrize("file", ["answers-000001.tar", "index.parquet", "manifest.json"])
def test_damage_is_named(tmp_path: Path, file: str) -> None:
    path = _write(tmp_path) / file
    data = bytearray(path.read_bytes())
    data[560 if file.endswith("tar") else len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{file}: .*run the job again"):
        AnswerStore(tmp_path).read(*ROWS[4])


def test_a_short_or_missing_tar_and_an_unknown_instance_are_refused(tmp_path: Path) -> None:
    store = AnswerStore(_write(tmp_path))
    with pytest.raises(IntegrityError, match="no answer for row 5, mirrored;"):
        store.read(5, True)
    path = tmp_path / "answers-000000.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"answers-000000\.tar: the tar ends at byte 1000, within an answer"):
        store.read(3, False)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"answers-000000\.tar: the tar is missing"):
        AnswerStore(tmp_path).read(3, False)


def test_unfinished_answers_are_no_answers(tmp_path: Path) -> None:
    write_answers(tmp_path, 0, TERMS, "code", _crops(ROWS[:4]))
    with pytest.raises(IntegrityError, match="no finished answers of a teacher are here"):
        AnswerStore(tmp_path)


def test_only_a_whole_tar_of_the_same_is_kept(tmp_path: Path) -> None:
    written = write_answers(tmp_path, 0, TERMS, "code", _crops(ROWS[:4]))
    rows = [row for row, _ in ROWS[:4]]
    assert finished_shard(tmp_path, 0, TERMS, "code", rows) == written
    other = TERMS.model_copy(update={"precision": "float32"})
    assert finished_shard(tmp_path, 0, AnswerTerms.model_validate(other.model_dump()), "code", rows) is None
    assert finished_shard(tmp_path, 0, TERMS, "newer code", rows) is None
    assert finished_shard(tmp_path, 0, TERMS, "code", rows[1:]) is None
    assert finished_shard(tmp_path, 1, TERMS, "code", rows) is None
    path = tmp_path / "answers-000000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert finished_shard(tmp_path, 0, TERMS, "code", rows) is None
    path.unlink()
    assert finished_shard(tmp_path, 0, TERMS, "code", rows) is None


def test_strangers_are_removed(tmp_path: Path) -> None:
    """What a killed writer left, and tars of smaller size from before."""
    for name in (".0123.part.tar", "answers-000002.tar", "answers-000002.json"):
        (tmp_path / name).write_bytes(b"old")
    _write(tmp_path)
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {
        "answers-000000",
        "answers-000001",
        "index",
        "manifest",
    }


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def dies() -> object:
        yield from _crops(ROWS[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers(tmp_path, 0, TERMS, "code", dies())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("lesson", {"teacher": "b" * 64}, "with the teacher of SHA-256 aaaa.*, and this run has bbbb"),
        ("lesson", {"head": "dogs"}, "with head people, and this run has dogs"),
        ("lesson", {"feature_size": None}, r"with features of size \(2, 1\), and this run has none"),
        ("crops", {"dataset": "e" * 64}, "with the dataset of digest dddd.*, and this run has eeee"),
        ("crops", {"input_size": (128, 64)}, r"with input_size \(64, 32\), and this run has \(128, 64\)"),
        ("crops", {"mirrored": False}, "with mirrored True, and this run has False"),
        ("crops", {"conventions": Conventions(padding=1.5)}, "with conventions .*1.25.*, and this run has .*1.5"),
    ],
)
def test_other_terms_are_refused_in_one_sentence(
    tmp_path: Path, part: str, changes: dict[str, object], sentence: str
) -> None:
    found = getattr(TERMS, part)
    refuse_other_terms(tmp_path, found, found)
    with pytest.raises(ConfigError, match=sentence):
        refuse_other_terms(tmp_path, found, found.model_copy(update=changes))
