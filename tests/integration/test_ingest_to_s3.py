"""Ingestion to a real S3 server: the same shards as on disk, through a line that breaks off, and one that ends."""

import re
import threading

import numpy as np
import pytest

from posecore.errors import StorageError
from posecore.ingest.executor import InProcess
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.precut import PrecutSettings, write_precut
from posecore.shards import remote
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import open_store
from posecore.storage import AnyPath
from tests.support.s3_server import REFUSALS, Line, bucket, s3_server
from tests.support.small_split import definition, job, records, tree

IMAGES, IMAGES_PER_SHARD = 7, 2


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def source(tmp_path):
    records(tmp_path / "src", IMAGES)
    return tmp_path / "src"


class Flaky(Line):
    """Loses the connection when shards are put.

    Attributes:
        losses: how many of the next puts are lost.
        puts: of shards so far.
        until: the put from which on nobody answers any more.
        refuses: answers with this from then on, instead.
    """

    def __init__(self, server, losses=0, until=None, refuses=None) -> None:
        self.losses, self.until, self.refuses, self.puts = losses, until, refuses, 0
        super().__init__(server)

    def _asked(self, data: bytes) -> bool:
        if b"PUT" in data and b".tar" in data:
            self.puts += 1
            if self.puts == self.until and self.refuses is not None:
                self.refusal = self.refuses
                return False
            if self.until is not None and self.refuses is None and self.puts >= self.until:
                if self.puts == self.until:
                    threading.Thread(target=self.cut).start()
                return False  # those who ask before the line is cut are not answered either
            if self.losses:
                self.losses -= 1
                return False
        return super()._asked(data)


class Counting(Line):
    """Remembers how each picture was asked for."""

    def __init__(self, server) -> None:
        self.asked: dict[str, tuple[str, ...]] = {}
        super().__init__(server)

    def _asked(self, data: bytes) -> bool:
        for method, name in re.findall(rb"(GET|HEAD) /\S*?(images/\d+\.jpg)\S* HTTP", data):
            self.asked[name.decode()] = (*self.asked.get(name.decode(), ()), method.decode())
        return super()._asked(data)


def to(folder: AnyPath, source):
    return job(source, folder, images_per_shard=IMAGES_PER_SHARD)


def on_disk(source, tmp_path) -> dict[str, bytes]:
    ingest(to(tmp_path / "disk", source))
    return tree(tmp_path / "disk" / "tiny" / "train")


def stored(folder: AnyPath) -> dict[str, bytes]:
    below = folder / "tiny" / "train"
    below.fs.invalidate_cache()
    found = below.fs.find(below.path)
    return {name.removeprefix(f"{below.path}/"): below.fs.cat_file(name) for name in found}


def test_shards_in_a_store_are_those_on_disk_through_a_line_that_breaks_off(server, source, tmp_path):
    line = Flaky(server, losses=2)
    folder = bucket(line.url) / "flaky"
    ingest(to(folder, source))
    assert line.losses == 0
    assert stored(bucket("http://{}:{}".format(*server)) / "flaky") == on_disk(source, tmp_path)
    open_store(folder / "tiny" / "train").verify()


def test_a_line_that_ends_stops_the_ingestion_whole_and_another_one_continues_it(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))
    line = Flaky(server, until=3)
    with pytest.raises(StorageError, match=r"^s3://shards/ended/tiny/train\S*: .*run the command again") as stopped:
        ingest(to(bucket(line.url) / "ended", source))
    assert "\n" not in str(stopped.value)
    direct = bucket("http://{}:{}".format(*server)) / "ended"
    left = stored(direct)
    assert MANIFEST_NAME not in left
    assert {"shard-000000.tar", "shard-000000.json", "shard-000001.tar", "shard-000001.json"} <= left.keys()
    assert not {name for name in left if name.startswith(("shard-000002", "shard-000003"))}
    counted = Flaky(server)
    ingest(to(bucket(counted.url) / "ended", source))
    assert counted.puts == 2, "what was whole is kept"
    assert stored(direct) == on_disk(source, tmp_path)


def test_a_picture_in_a_store_is_one_request_and_what_is_wrong_with_one_is_said(server, source, tmp_path):
    line = Counting(server)
    root = bucket(line.url) / "few"
    direct = bucket("http://{}:{}".format(*server)) / "few"
    for name, data in tree(source).items():
        if name != "images/3.jpg":
            (direct / name).write_bytes(b"" if name == "images/2.jpg" else data)
    settings = IngestSettings(images_per_shard=4, max_image_bytes=len((source / "images" / "1.jpg").read_bytes()))
    of = ingest_job(definition(max_loss=1.0), "train", root, tmp_path / "out", settings)
    manifest = ingest(of)
    larger = [path.name for path in (source / "images").iterdir() if path.stat().st_size > settings.max_image_bytes]
    wrong = {"2.jpg", "3.jpg"}
    assert manifest.rejects == {"empty-image": 1, "missing-image": 1, "too-large": len(set(larger) - wrong)}
    asked = {name: methods for name, methods in line.asked.items() if name.removeprefix("images/") not in wrong}
    assert set(asked.values()) == {("GET",)}
    assert len(asked) == IMAGES - len(wrong)


def test_pictures_of_bodies_are_cut_in_a_store_as_on_disk_or_not_at_all(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))
    monkeypatch.setenv("POSECORE_CACHE", str(tmp_path / "cache"))
    settings = PrecutSettings(input_size=(32, 24))

    def cut(folder: AnyPath) -> None:
        split = folder / "tiny" / "train"
        write_precut(split, settings.terms(open_store(split)))

    ingest(to(tmp_path / "disk", source))
    cut(tmp_path / "disk")
    wanted = tree(tmp_path / "disk" / "tiny" / "train")
    direct = bucket("http://{}:{}".format(*server)) / "cut"
    ingest(to(direct, source))
    line = Flaky(server, until=3)
    with pytest.raises(StorageError, match=r"crops/crops-000002\.tar: cannot be written, tried 3 times"):
        cut(bucket(line.url) / "cut")
    left = stored(direct)
    assert {"crops/crops-000000.tar", "crops/crops-000001.tar"} == {name for name in left if name.startswith("crops/")}
    line = Flaky(server, losses=2)
    cut(bucket(line.url) / "cut")
    assert line.losses == 0
    assert stored(direct) == wanted
    ours, theirs = open_store(direct / "tiny" / "train"), open_store(tmp_path / "disk" / "tiny" / "train")
    ours.verify()
    for row in range(len(ours)):
        if ours.precut.sizes[row].all():
            np.testing.assert_array_equal(ours.precut.read(row), theirs.precut.read(row))
    counted = Flaky(server)
    cut(bucket(counted.url) / "cut")
    assert counted.puts == 0, "what is whole stays"


@pytest.mark.parametrize("what", REFUSALS)
def test_a_store_that_refuses_in_the_middle_is_one_sentence_and_gone_on_with(
    server, source, tmp_path, monkeypatch, what
):
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))
    line = Flaky(server, until=2, refuses=REFUSALS[what])
    with pytest.raises(StorageError, match=r"^s3://.*\(.*\.?\); see whether .* run the command again") as stopped:
        ingest(to(bucket(line.url) / what, source))
    assert "\n" not in str(stopped.value)
    line.refusal, line.until = None, None
    ingest(to(bucket(line.url) / what, source))
    assert stored(bucket("http://{}:{}".format(*server)) / what) == on_disk(source, tmp_path)


def test_pictures_in_a_store_that_is_gone_are_no_rejects(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))
    line = Line(server)
    root = bucket(line.url) / "pictures"
    for name, data in tree(source).items():
        (root / name).write_bytes(data)
    plans = []

    class Ending(InProcess):
        def write(self, plan):
            plans.append(plan)
            line.cut()
            yield from super().write(plan)

    with pytest.raises(StorageError, match=r"s3://shards/pictures/images/\S+: cannot be read, tried 3 times"):
        ingest(to(tmp_path / "out", root), executor=Ending())
    assert len(plans) == 1
    assert not list((tmp_path / "out").rglob("*.tar")), "nothing half-written"
    assert not list((tmp_path / "out").rglob("quarantine.parquet"))
