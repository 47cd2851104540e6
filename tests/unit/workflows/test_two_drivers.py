"""Drivers that ingest one split into one place at the same time."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from posecore.ingest.job import IngestSettings
from posecore.shards.store import open_store
from posecore.sole_driver import sole_driver
from posecore.workflows.ingestion import ingest_split
from posecore.workflows.without_ray import ThisProcess
from tests.support.small_split import definition, records, tree


def test_one_works_while_the_others_wait(tmp_path: Path) -> None:
    """Each would remove the other's scratch folder; the second and third find whole shards."""
    records(tmp_path / "raw", 9)

    def ingested(out: str) -> str:
        settings = IngestSettings(images_per_shard=2)
        return ingest_split(ThisProcess(), definition(), "train", tmp_path / "raw", tmp_path / out, settings).digest

    alone = ingested("alone")
    (tmp_path / "shared" / "tiny").mkdir(parents=True)
    told: list[str] = []
    # Not pytest's capture: reading that empties it, and loses what another thread prints at this moment.
    with ThreadPoolExecutor(3) as drivers, redirect_stdout(StringIO()) as said:
        with sole_driver(tmp_path / "shared" / "tiny" / ".train.lock", tmp_path, told.append):
            together = [drivers.submit(ingested, "shared") for _ in range(3)]
            while said.getvalue().count("tiny train: waiting for another driver (on this machine)") < 3:
                assert not any(driver.done() for driver in together)
                time.sleep(0.01)
            assert told == []
            assert not (tmp_path / "shared" / "tiny" / "train").exists()
        assert [driver.result() for driver in together] == [alone] * 3
    open_store(tmp_path / "shared" / "tiny" / "train").verify()
    assert tree(tmp_path / "shared" / "tiny" / "train") == tree(tmp_path / "alone" / "tiny" / "train")
