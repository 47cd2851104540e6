"""Shards that are not what was written are made again by the next submission, and no others."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posecore.errors import IntegrityError
from posecore.lineage.jobs.steps import Reuse
from posecore.lineage.store.tracking import Tracking
from posecore.shards.store import open_store
from posecore.workflows.data_steps import ingest_step
from posecore.workflows.datasets_job import DatasetsJob
from posecore.workflows.job import JobWorkflow
from posecore.workflows.without_ray import ThisProcess
from tests.support.small_split import HEIGHT, WIDTH, definition, picture, tree

NUM_IMAGES, PER_SHARD = 7, 2


@pytest.fixture
def submit(tracking: Tracking, tmp_path: Path) -> Callable[..., tuple[Path, bool]]:
    """Submits a job whose only step ingests, in this process; tells the folder, and whether the step was reused."""
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(NUM_IMAGES):
        (raw / "images" / f"{number}.jpg").write_bytes(picture(number))
        images.append({"id": number, "file_name": f"images/{number}.jpg", "width": WIDTH, "height": HEIGHT})
        body = {"bbox": [4, 5, 20, 30], "keypoints": [5, 6, 2, 7, 8, 1, 0, 0, 0]}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **body})
    (raw / "train.json").write_text(json.dumps({"images": images, "annotations": annotations}))

    values: dict[str, Any] = {
        "name": "job",
        "run_folder": str(tmp_path / "run"),
        "datasets": [{"name": "tiny", "root": str(raw), "train": "train"}],
        "ingest": {"images_per_shard": PER_SHARD},
    }
    job = DatasetsJob.model_validate(values)

    def once(**reuse: bool) -> tuple[Path, bool]:
        with JobWorkflow(ThisProcess(), tracking, job, Reuse(**reuse), report=lines.append) as workflow:
            split = ingest_step(workflow, job, job.datasets[0], of, "training")
        return Path(split.location), " reused " in lines[-1]

    of = definition(reader="posecore.formats.coco:CocoReader")
    lines: list[str] = []
    return once


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file of which write each name stands for."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("shard-*.tar")}


def flip(path: Path, keep_time: bool) -> None:
    data, status = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("shard-000001.tar", "delete"),
        ("shard-000001.tar", "flip"),
        ("shard-000003.tar", "cut"),
        ("index.parquet", "delete"),
        ("images.parquet", "flip"),
        ("quarantine.parquet", "delete"),
        ("manifest.json", "delete"),
    ],
)
def test_a_damaged_file_is_made_again_and_nothing_else(
    submit: Callable[..., tuple[Path, bool]], name: str, damage: str
) -> None:
    folder, reused = submit()
    assert not reused
    assert submit() == (folder, True)
    whole = tree(folder)
    before = stamps(folder)
    path = folder / name
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        flip(path, keep_time=False)
    assert submit() == (folder, False)
    assert tree(folder) == whole
    changed = {shard for shard, stamp in stamps(folder).items() if before[shard] != stamp}
    assert changed == ({name} & before.keys())
    assert submit() == (folder, True)


def test_what_size_and_time_do_not_show_is_found_by_verify_and_repaired_as_the_message_says(
    submit: Callable[..., tuple[Path, bool]],
) -> None:
    folder, _ = submit()
    path = folder / "shard-000002.tar"
    whole = path.read_bytes()
    flip(path, keep_time=True)
    assert submit() == (folder, True)
    with pytest.raises(IntegrityError, match=r"shard-000002.tar: .*writes anew what is damaged .*--verify"):
        open_store(folder).verify()
    assert submit(verify=True) == (folder, False)
    assert path.read_bytes() == whole
    assert submit(verify=True) == (folder, True)
    open_store(folder).verify()
