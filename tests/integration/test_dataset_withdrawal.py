"""A whole dataset is withdrawn: its shards go, it is not ingested again, and others are left as they are."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.cli import main as posecore_command
from posecore.errors import IngestError
from posecore.ingest.withdrawn import read_withdrawn, without
from posecore.lineage.registry.promotion import promote
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import RegisteredVersion, get_version
from posecore.lineage.withdrawal.record import withdrawn_from
from posecore.shards.store import ShardStore
from tests.support.measured_versions import registered
from tests.support.tiny_store import write_store


def store(folder: Path, name: str, seed: int) -> ShardStore:
    """A split of two pictures of its own."""
    pixels = np.random.default_rng(seed)
    for row in range(2):
        path = folder / name / "raw" / name / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels.integers(0, 255, (120, 160, 3), np.uint8))[1].tobytes())
    return write_store(folder / name, name, [1, 1])


def trained_on(tracking: Tracking, folder: Path, split: ShardStore) -> RegisteredVersion:
    manifest = split.manifest
    use = DatasetUse(
        name=manifest.dataset,
        split=manifest.split,
        digest=manifest.digest,
        role="training",
        location=str(split.location),
        license="X",
    )
    return registered(tracking, folder, hashlib.sha256(manifest.digest.encode()).hexdigest(), use)


def test_all_of_a_dataset_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracking = connect(TrackingConfig(experiment="ward"), tmp_path)
    gone, kept = store(tmp_path, "gone", 1), store(tmp_path, "kept", 2)
    affected, clean = (trained_on(tracking, tmp_path / "models", split) for split in (gone, kept))
    promote(tracking, clean, "champion")
    promote(tracking, affected, "champion")
    shards = list(gone.location.glob("*.tar"))
    before = sorted(path for path in kept.location.rglob("*") if path.is_file())

    def command(name: str, *words: str) -> int:
        return posecore_command([name, "--folder", str(tmp_path), *words])

    assert command("withdraw", "--dataset", "gne") == 2
    assert "there is gone, kept" in capsys.readouterr().err
    assert command("withdraw", "--dataset", "gone") == 0
    told = capsys.readouterr().out
    assert all(str(shard) in told for shard in shards)
    assert "is made anew" not in told
    assert shards[0].exists()
    reason = "the owner, letter of 2026-11-29"
    assert command("withdraw", "--dataset", "gone", "--apply", "--reason", reason) == 0
    assert f"deleted  {gone.location}" in capsys.readouterr().out
    left = [path for path in gone.location.rglob("*") if path.suffix in (".tar", ".parquet")]
    assert all("editions" in path.parts for path in left)
    picture = (tmp_path / "gone" / "raw" / "gone" / "0.png").read_bytes()
    assert not any(picture in path.read_bytes() for path in gone.location.rglob("*") if path.is_file())
    assert sorted(path for path in kept.location.rglob("*") if path.is_file()) == before
    assert "withdrawn" in get_version(tracking, affected.name, affected.version).tags
    assert get_version(tracking, clean.name, clean.version).aliases == ["champion"]

    definition = gone.manifest.definition
    for withdrawn in (withdrawn_from(tracking, "gone"), read_withdrawn(gone.location)):
        with pytest.raises(IngestError, match="gone was withdrawn as a whole and is not ingested: the owner, letter"):
            without(definition, withdrawn)
    assert without(kept.manifest.definition, withdrawn_from(tracking, "kept")) == kept.manifest.definition
    capsys.readouterr()
    assert command("certify", affected.uri, "--never-saw-dataset", "gone") == 1
    assert f"{affected.uri} has seen gone" in capsys.readouterr().out
    assert command("certify", clean.uri, "--never-saw-dataset", "gone") == 0
    assert f"{clean.uri} has never seen gone" in capsys.readouterr().out
