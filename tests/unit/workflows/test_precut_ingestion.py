"""Pictures of bodies are cut where a split is ingested for it, kept while whole, and cut anew for other crops."""

from pathlib import Path

from posecore.ingest.job import IngestSettings
from posecore.loading.precut import PrecutSettings
from posecore.shards.store import open_store
from posecore.workflows.ingestion import ingest_split
from posecore.workflows.without_ray import ThisProcess
from tests.support.small_split import definition, records, tree


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "crops").iterdir()}


def test_an_ingestion_cuts_what_it_is_asked_for(tmp_path):
    records(tmp_path / "raw", 9)

    def ingested(size: tuple[int, int] | None, number: int = 9) -> Path:
        precut = None if size is None else PrecutSettings(input_size=size)
        settings = IngestSettings(images_per_shard=4)
        ingest_split(ThisProcess(), definition(), "train", tmp_path / "raw", tmp_path, settings, precut=precut)
        return tmp_path / "tiny" / "train"

    folder = ingested(None)
    without = tree(folder)
    assert not (folder / "crops").exists()
    ingested((64, 48))
    store = open_store(folder)
    store.precut.verify()
    assert store.precut.manifest.terms.input_size == (64, 48)
    assert (store.precut.sizes[~store.instances["is_crowd"].to_numpy()] > 0).all()
    assert without.items() <= tree(folder).items()  # the shards are what they were

    kept = stamps(folder)
    ingested((64, 48))
    assert stamps(folder) == kept
    damaged = folder / "crops" / "crops-000001.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-600] + bytes([whole[-600] ^ 1]) + whole[-599:])
    ingested((64, 48))
    assert damaged.read_bytes() == whole
    ingested((32, 24))
    assert open_store(folder).precut.manifest.terms.input_size == (32, 24)

    records(tmp_path / "raw", 5)  # another edition of the split, with fewer shards
    ingested((32, 24))
    store = open_store(folder)
    store.verify()
    assert store.precut.manifest.dataset == store.manifest.digest
    assert len(list((folder / "crops").glob("*.tar"))) == 2
