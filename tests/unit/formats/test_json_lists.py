"""A file read an entry at a time says what the same file parsed at once says, or fails with the same sentence."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from posecore.datasets.check import present_splits
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import DatasetError
from posecore.formats import json_lists
from posecore.formats.claims import Claims, Texts, recurring
from posecore.formats.coco import CocoReader
from posecore.formats.json_lists import WHOLE, StoredList, open_json
from posecore.schema import Record, record_to_json
from tests.property.test_coco_hostile import COCO, VALUES, places

BLOCKS = pytest.mark.parametrize("block", [1, 3, 64, 1 << 20])


def stream_all(monkeypatch, block):
    """From now on every file is read an entry at a time, in blocks that end anywhere."""
    monkeypatch.setattr(json_lists, "STREAMED_FROM_BYTES", 0)
    monkeypatch.setattr(json_lists, "_BLOCK_BYTES", block)


def content(source, name="a.json") -> Any:
    with open_json(source, name, ("images", "annotations")) as document:
        if not isinstance(document, dict):
            return document
        return {key: list(value) if isinstance(value, StoredList) else value for key, value in document.items()}


DOCUMENTS = [
    "{}",
    ' {"images" : [ ] , "annotations":[], "x": {"a": [1, "]"]}} \n',
    '{"images": [1, -2.5e3, "é, \\"]}", {"a": [[], {}]}, null, true], "annotations": [{"ü": "\\u00fc\\\\"}], "z": 7}',
    '{"annotations": [{"x": NaN}, Infinity, -Infinity], "images": [12345678901234567]}',
    '{"images": [1], "images": [2, 3], "licenses": [{"id": 1}], "annotations": [18446744073709551616]}',
    "[1, 2]",
    "5",
    '{"images": {"1": "a.jpg"}, "annotations": 3}',
    '\ufeff{"images": [1], "annotations": [NaN]}',
]
BROKEN = [
    "",
    "{",
    '{"images": [1, 2',
    '{"images": [1, 2}, "annotations": []}',
    '{"images": [1,], "annotations": []}',
    '{"images": [1], }',
    '{"images" [1]}',
    "{3: [1]}",
    '{"images": [1]} {}',
    '{"images": ["\\ud800"]}',
    '{"images": [NaN, 1180591620717411303424]}',
    '{"images": ["a\nb"]}',
    '{"images": [' + "[" * 100_000,
]


@BLOCKS
@pytest.mark.parametrize("text", DOCUMENTS)
def test_what_is_streamed_is_what_is_parsed_at_once(make_source, tmp_path, monkeypatch, text, block):
    (tmp_path / "a.json").write_text(text, "utf-8")
    expected = repr(content(make_source("a.json")))
    stream_all(monkeypatch, block)
    assert repr(content(make_source("a.json"))) == expected


@BLOCKS
@pytest.mark.parametrize("text", BROKEN)
def test_what_is_broken_is_the_same_sentence(make_source, tmp_path, monkeypatch, text, block):
    (tmp_path / "a.json").write_bytes(text.encode())
    with pytest.raises(DatasetError) as expected:
        content(make_source("a.json"))
    stream_all(monkeypatch, block)
    with pytest.raises(DatasetError) as found:
        content(make_source("a.json"))
    assert str(found.value) == str(expected.value)


def test_the_lists_of_a_large_file_are_streamed_and_a_remote_one_too(make_source, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('{"images": [1], "categories": [2]}')
    monkeypatch.setattr(json_lists, "STREAMED_FROM_BYTES", 34)
    for root in (tmp_path, UPath(f"local://{tmp_path}")):
        with open_json(make_source("a.json", root=root), "a.json", ("images",)) as document:
            assert isinstance(document["images"], StoredList)
            assert document["categories"] == [2]
    monkeypatch.setattr(json_lists, "STREAMED_FROM_BYTES", 35)
    with open_json(make_source("a.json"), "a.json", ("images",)) as document:
        assert document["images"] == [1]


@BLOCKS
@pytest.mark.parametrize("text", ["[]", ' [1, {"a": [NaN]}, "]"] \n', '{"": [1]}', "5", "[1] 2", "[1,]", "[1", ""])
def test_a_file_that_is_a_list_is_streamed_as_it_is_parsed(make_source, tmp_path, monkeypatch, text, block):
    (tmp_path / "a.json").write_text(text)

    def said() -> str:
        try:
            with open_json(make_source("a.json"), "a.json", (WHOLE,)) as found:
                return repr(list(found) if isinstance(found, StoredList) else found)
        except DatasetError as error:
            return str(error)

    expected = said()
    stream_all(monkeypatch, block)
    assert said() == expected
    if expected.startswith("["):
        with open_json(make_source("a.json"), "a.json", (WHOLE,)) as found:
            assert isinstance(found, StoredList)


@pytest.mark.samples
@pytest.mark.parametrize("name", ["aic", "coco_wholebody", "halpe", "crowdpose"])
def test_real_files_are_read_an_entry_at_a_time_as_at_once(samples, monkeypatch, name):
    definition = load_dataset(name)
    root = samples / definition.name
    splits = present_splits(definition, root)
    assert splits

    def read() -> list[Any]:
        items = [item for split in splits for item in read_split(definition, split, root)]
        return [record_to_json(item) if isinstance(item, Record) else item for item in items]

    expected = read()
    stream_all(monkeypatch, 1 << 12)
    parsed = []
    monkeypatch.setattr(json_lists, "parse_json", lambda *given: parsed.append(given))
    assert read() == expected
    assert not parsed


def read_all(source) -> Any:
    try:
        return [
            str(item) if not isinstance(item, Record) else (str(item), [b.keypoints.tolist() for b in item.instances])
            for item in CocoReader().read(source)
        ]
    except DatasetError as error:
        return str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_alike(data, make_source, tmp_path, monkeypatch):
    document = json.loads(json.dumps(COCO))
    for key in ("images", "annotations"):
        many = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
        field = "id" if key == "images" else "image_id"
        entry = {**document[key][0], "absent": []}
        document[key] = [{**entry, "id": number, field: chosen} for number, chosen in enumerate(many)]
    *parents, last = data.draw(st.sampled_from(places(document)))
    node = document
    for key in parents:
        node = node[key]
    node[last] = data.draw(VALUES)
    (tmp_path / "a.json").write_text(json.dumps(document))
    source = make_source("a.json", keypoints=17, area_rule="annotated")
    with monkeypatch.context() as patched:
        expected = read_all(source)
        stream_all(patched, data.draw(st.integers(1, 200)))
        assert read_all(source) == expected


def column(texts):
    made = Texts()
    for text in texts:
        made.append(text)
    return made.column()


@given(
    images=st.lists(st.sampled_from("abcde"), max_size=8),
    wanted=st.lists(st.sampled_from(["a", "b", "c", "x", "y", None]), max_size=20),
    usable=st.sets(st.integers(0, 7)),
)
def test_annotations_go_where_a_table_of_lists_says(images, wanted, usable):
    waiting: dict[str, list[int]] = {}
    for position, image_id in enumerate(wanted):
        if image_id is not None:
            waiting.setdefault(image_id, []).append(position)
    claims = Claims(column(images), column(wanted))
    claimed = set()
    for row, image_id in enumerate(images):
        assert claims.is_claimed(row) == (image_id in claimed)
        if row in usable and image_id not in claimed:
            claimed.add(image_id)
            assert claims.claim(row) == waiting.pop(image_id, [])
    assert list(claims.unclaimed()) == list(waiting.items())
    given_ids = [text or "" for text in wanted]
    assert recurring(column(given_ids)).tolist() == [given_ids.count(text) > 1 for text in given_ids]


def test_memory_does_not_grow_with_what_the_entries_hold(make_source, tmp_path, monkeypatch):
    body = {**COCO["annotations"][0], "absent": [], "extra": "x" * 4000}
    document = {
        **COCO,
        "images": [{**COCO["images"][0], "id": number} for number in range(100)],
        "annotations": [{**body, "id": number, "image_id": number * 7 % 100} for number in range(800)],
    }
    path: Path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    monkeypatch.setattr(json_lists, "_BLOCK_BYTES", 1 << 16)

    def peak() -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in CocoReader().read(make_source("a.json", keypoints=17, area_rule="box"))) == 100
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    at_once = peak()
    monkeypatch.setattr(json_lists, "STREAMED_FROM_BYTES", 0)
    assert peak() < at_once / 5
