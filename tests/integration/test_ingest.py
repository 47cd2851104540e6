"""Ingestion on Ray: the same bytes for any number of workers, and as without Ray; errors arrive as one sentence."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from ray.data._internal.stats import get_or_create_stats_actor

from pipelines.ingest import main
from posecore.cluster.machines import RayMachines
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError, IngestError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.read import portions
from posecore.ingest.run import ingest
from posecore.loading.precut import PrecutSettings, write_precut
from posecore.shards.store import open_store
from posecore.workflows.ingestion import ingest_split, verify_split
from tests.support.films import write_film
from tests.support.small_split import definition, picture, records, tree

pytestmark = pytest.mark.ray


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tiny(tmp_path):
    """Root of a download of 23 pictures."""
    records(tmp_path / "raw", 23)
    return tmp_path / "raw"


SETTINGS = IngestSettings(images_per_shard=5)


def test_one_two_and_four_workers_and_no_ray_write_the_same_bytes(local_ray, tiny, tmp_path):
    expected = ingest(ingest_job(definition(), "train", tiny, tmp_path / "0", SETTINGS))
    crops = PrecutSettings(input_size=(32, 24))
    write_precut(tmp_path / "0" / "tiny" / "train", crops.terms(open_store(tmp_path / "0" / "tiny" / "train")))
    for workers in (1, 2, 4):
        out = tmp_path / str(workers)
        manifest = ingest_split(RayMachines(), definition(), "train", tiny, out, SETTINGS, workers, crops)
        assert manifest.digest == expected.digest
        assert tree(out / "tiny" / "train") == tree(tmp_path / "0" / "tiny" / "train")


def test_a_second_run_repairs_one_flipped_byte_and_keeps_the_rest(local_ray, tiny, tmp_path):
    first = ingest_split(RayMachines(), definition(), "train", tiny, tmp_path, SETTINGS)
    folder = tmp_path / "tiny" / "train"
    content = tree(folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    damaged = bytearray(content["shard-000003.tar"])
    damaged[2000] ^= 8
    (folder / "shard-000003.tar").write_bytes(damaged)
    assert ingest_split(RayMachines(), definition(), "train", tiny, tmp_path, SETTINGS).digest == first.digest
    assert tree(folder) == content
    changed = {path.name for path in folder.glob("*.tar") if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"shard-000003.tar"}


def test_folders_are_read_by_several_tasks_and_the_bytes_are_the_same(local_ray, tmp_path):
    for folder in ("a", "b/c", "b-d", "."):
        records(tmp_path / "raw" / folder, 4)
    values = {
        "name": "ward",
        "title": "Photographs in folders",
        "reader": "posecore.formats.image_folder:ImageFolderReader",
        "skeleton": {"name": "none", "keypoints": []},
        "license": {"id": "internal"},
        "splits": {"train": {"annotations": "", "images": ""}},
    }
    made = DatasetDefinition.model_validate(values)
    expected = ingest(ingest_job(made, "train", tmp_path / "raw", tmp_path / "0", SETTINGS))
    assert len(portions(ingest_job(made, "train", tmp_path / "raw", tmp_path, SETTINGS))) == 5
    manifest = ingest_split(RayMachines(), made, "train", tmp_path / "raw", tmp_path / "ray", SETTINGS)
    assert (manifest.num_images, manifest.digest) == (16, expected.digest)
    assert tree(tmp_path / "ray" / "ward" / "train") == tree(tmp_path / "0" / "ward" / "train")


KINDS = "tests.unit.ingest.test_stage_kinds"


def test_stages_that_see_pictures_are_operators_and_write_the_same_bytes(local_ray, tiny, tmp_path):
    shrink = {"stage": f"{KINDS}:Shrink", "options": {"keep": ["4"]}}
    (tmp_path / "withdrawn.txt").write_text("s99\n")
    stages = [
        "check_instances",
        {"stage": "drop_subjects", "files": {"subjects": "withdrawn.txt"}},
        shrink,
        "drop_images_without_instances",
        {"stage": "resize", "options": {"longer_side_px": 24}},
        {"stage": "set_fields", "options": {"view_id": "front"}},
        {"stage": f"{KINDS}:Count"},
    ]
    made = definition(max_loss=0.7, stages=stages, folder=tmp_path)
    expected = ingest(ingest_job(made, "train", tiny, tmp_path / "0", SETTINGS))
    assert expected.rejects == {"second": 1, "crowd": 11}
    manifest = ingest_split(RayMachines(), made, "train", tiny, tmp_path / "ray", SETTINGS)
    assert manifest.digest == expected.digest
    assert tree(tmp_path / "ray" / "tiny" / "train") == tree(tmp_path / "0" / "tiny" / "train")
    shown = ray.get(get_or_create_stats_actor().get_datasets.remote())  # to the dashboard
    operators = [name for dataset in shown.values() for name in dataset["operators"]]
    assert any(f"({KINDS}:Count)" in name for name in operators), operators
    again = ingest_split(RayMachines(), made, "train", tiny, tmp_path / "ray", SETTINGS)
    assert again.digest == expected.digest
    fails = definition(stages=[{"stage": f"{KINDS}:Fails", "options": {"at": "7"}}])
    with pytest.raises(IngestError, match=r"Fails .* failed at images/7\.jpg in .*test_stage_kinds\.py"):
        ingest_split(RayMachines(), fails, "train", tiny, tmp_path / "failing", SETTINGS)


def test_videos_and_duplicates_are_the_same_on_a_cluster_and_proved_there(local_ray, tmp_path):
    root = tmp_path / "raw"
    for name in ("a", "b"):
        write_film(root / "films" / name / "film.mp4", [0, 40, 80, 200, 210, 500])
    made = definition(
        reader="posecore.formats.video_folder:VideoFolderReader",
        reader_options={"every_s": 0.04},
        splits={"train": {"annotations": "films", "images": "films"}},
        stages=["deduplicate", "video_frames", {"stage": "resize", "options": {"longer_side_px": 48}}],
    )
    expected = ingest(ingest_job(made, "train", root, tmp_path / "0", SETTINGS))
    assert (expected.num_images, expected.rejects) == (6, {"duplicate-picture": 26})
    assert ingest_split(RayMachines(), made, "train", root, tmp_path / "ray", SETTINGS).digest == expected.digest
    assert tree(tmp_path / "ray" / "tiny" / "train") == tree(tmp_path / "0" / "tiny" / "train")
    assert not verify_split(RayMachines(), made, "train", root, tmp_path / "ray").num_different


def test_rejects_and_errors_of_workers_arrive(local_ray, tiny, tmp_path):
    (tiny / "images" / "7.jpg").write_bytes(b"")
    manifest = ingest_split(RayMachines(), definition(max_loss=0.1), "train", tiny, tmp_path, SETTINGS)
    assert manifest.rejects == {"empty-image": 1}
    with pytest.raises(IngestError, match="stage image lost"):
        ingest_split(RayMachines(), definition(), "train", tiny, tmp_path / "strict", SETTINGS)


def test_images_are_read_over_http_and_shards_written_to_a_url(local_ray, tiny, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(tiny)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        manifest = ingest_split(RayMachines(), definition(), "train", root, f"file://{tmp_path}/out", SETTINGS)
    finally:
        server.shutdown()
    assert manifest.num_images == 23
    assert open_store(f"file://{tmp_path}/out/tiny/train").read_sample(22).image_bytes == picture(22)


def test_memory_urls_are_refused_because_workers_cannot_see_them(tmp_path):
    with pytest.raises(ConfigError, match="one process only"):
        ingest_split(RayMachines(), definition(), "train", "memory://x", tmp_path)


def test_the_command_ingests_a_real_split(local_ray, samples, tmp_path, capsys):
    arguments = ["--dataset", "coco", "--split", "train", "--root", str(samples / "coco"), "--out", str(tmp_path)]
    assert main([*arguments, "--images-per-shard", "30"]) == 0
    assert "coco train: 80 images, 172 instances in 3 shards; rejected: none" in capsys.readouterr().out
    open_store(tmp_path / "coco" / "train").verify()
    assert main([*arguments, "--verify-source"]) == 0
    assert "coco train: 80 pictures, 0 changed by stages; every one is what reader" in capsys.readouterr().out
    assert main([*arguments, "--images-per-shard", "0"]) == 2
    assert "images_per_shard" in capsys.readouterr().err
    assert main(["--dataset", "nothing", *arguments[2:]]) == 1
