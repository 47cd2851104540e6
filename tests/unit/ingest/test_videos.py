"""Frames of videos on their way into shards."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from posecore.datasets.check import check_split
from posecore.datasets.discovery import read_split
from posecore.errors import DatasetError, IngestError
from posecore.ingest.run import ingest
from posecore.ingest.stage_check import check_stages, made_of, staged_sample
from posecore.schema import Record, Reject
from posecore.shards.digests import file_digest
from posecore.shards.store import open_store
from posecore.stages.load import load_stages
from posecore.videos.address import frame_address
from tests.support.films import HEIGHT, WIDTH, number_shown, write_film
from tests.support.small_split import definition, instance, job, records, tree, write_annotations

TIMES = [0, 40, 80, 200, 210, 500, 900, 901, 1000]
STAGES = [{"stage": "video_frames", "options": {"format": "png"}}]


def shown(data: bytes) -> int:
    return number_shown(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def labelled(root):
    """Two films with labels of some frames, and a photograph."""
    (photo,) = records(root, 1)
    made = [photo]
    for film, wanted in (
        ("films/a.mp4", {"frame": 7}),
        ("films/a.mp4", {"frame": 2}),
        ("films/b.mkv", {"time_s": 0.3}),
    ):
        if not (root / film).exists():
            write_film(root / film, TIMES)
        image = frame_address(film, **wanted)
        body = instance(image, subject_id="s1")
        made.append(replace(photo, source_id=image, image=image, width=0, height=0, instances=[body], video_id=film))
    write_annotations(root, made)
    return made


def test_labelled_frames_become_pictures_with_number_time_and_rate(tmp_path):
    made = labelled(tmp_path / "raw")
    of = job(tmp_path / "raw", tmp_path / "out", stages=STAGES)
    ingest(of)
    store = open_store(of.folder)
    assert store.images["source_id"].to_pylist() == [
        "0",
        *sorted((item.source_id for item in made[1:]), key=lambda name: (len(name), name)),
    ]
    found = {item.record.source_id: item for item in map(store.read_sample, range(store.num_images))}
    rate = (len(TIMES) - 1) / 1.0
    for record, number in zip(made[1:], (7, 2, 4), strict=True):
        sample = found[record.source_id]
        assert shown(sample.image_bytes) == number
        told = sample.record.extras["video"]
        assert told == {"frame": number, "time_s": TIMES[number] / 1000, "fps": pytest.approx(rate)}
        assert (sample.record.width, sample.record.height, sample.record.frame_index) == (WIDTH, HEIGHT, number)
        assert sample.record.source_digest == file_digest(tmp_path / "raw" / record.video_id)
        assert np.array_equal(sample.record.instances[0].keypoints, record.instances[0].keypoints)
    assert found["0"].image_bytes == (tmp_path / "raw" / "images" / "0.jpg").read_bytes()
    assert found["0"].record.source_digest is None


def test_shards_of_videos_are_the_same_again_and_kept_until_a_video_changes(tmp_path):
    labelled(tmp_path / "raw")
    stages = [*STAGES, {"stage": "resize", "options": {"longer_side_px": 32}}]
    of, again = (job(tmp_path / "raw", tmp_path / name, stages=stages) for name in ("out", "again"))
    ingest(of)
    ingest(again)
    first = tree(of.folder)
    assert tree(again.folder) == first
    inode = (of.folder / "shard-000000.tar").stat().st_ino
    ingest(of)
    assert (of.folder / "shard-000000.tar").stat().st_ino == inode, "that stages changed pictures is no reason"
    write_film(tmp_path / "raw" / "films" / "b.mkv", [0, 100, 200, 300])
    ingest(of)
    assert (of.folder / "shard-000000.tar").stat().st_ino != inode
    assert tree(of.folder).keys() >= first.keys() - {"manifest.json"}
    assert tree(of.folder)["images.parquet"] != first["images.parquet"]


def test_what_cannot_be_had_of_a_video_is_counted(tmp_path):
    root = tmp_path / "raw"
    made = labelled(root)
    for image in ("films/a.mp4#frame=99", "films/absent.mp4#frame=0", "films/text.mp4#t=1"):
        made.append(replace(made[1], source_id=image, image=image, instances=[]))
    made.append(replace(made[1], source_id="wide", image="films/a.mp4#frame=1", width=640, height=64, instances=[]))
    (root / "films" / "text.mp4").write_bytes(b"no film")
    write_annotations(root, made)
    of = job(root, tmp_path / "out", stages=STAGES, max_loss=1.0)
    manifest = ingest(of)
    assert manifest.rejects == {"no-such-frame": 1, "missing-video": 1, "not-a-video": 1, "size-mismatch": 1}
    assert manifest.num_images == 4
    counts = {count.stage: count for count in manifest.stages}
    assert (counts["video_frames"].images_in, counts["image"].images_in) == (7, 4)


def test_a_frame_without_the_stage_is_rejected_with_the_word_to_list_it(tmp_path):
    labelled(tmp_path / "raw")
    of = job(tmp_path / "raw", tmp_path / "out", stages=[], max_loss=1.0)
    assert ingest(of).rejects == {"frame-of-a-video": 3}
    stages = ["reencode", "video_frames"]
    with pytest.raises(IngestError, match=r"stage video_frames reads pictures, but reencode before it .*; swap them"):
        load_stages(definition(stages=stages))


def test_check_and_show_see_frames(tmp_path):
    made = labelled(tmp_path / "raw")
    made.append(replace(made[1], source_id="gone", image="films/gone.mp4#frame=0", instances=[]))
    write_annotations(tmp_path / "raw", made)
    of = definition(stages=[*STAGES, "reencode"])
    report = check_split(of, "train", tmp_path / "raw", made_of(of))
    assert ("missing-image", 1) in [(finding.code, finding.count) for finding in report.findings]
    tried = check_stages(of, "train", tmp_path / "raw", report.sample)
    assert tried.problem == ""
    assert [(count.stage, count.images_in, count.images_rejected) for count in tried.counts] == [
        ("video_frames", 4, 1),
        ("reencode", 4, 0),
    ]
    left, reasons = staged_sample(of, "train", tmp_path / "raw", report.sample)
    assert left["films/a.mp4#frame=7"].record.width == WIDTH
    assert reasons == {"gone": ["missing-video"]}


def of_folder(**options):
    return definition(
        reader="posecore.formats.video_folder:VideoFolderReader",
        reader_options=options,
        splits={"all": {"annotations": "films", "images": "films"}},
        stages=STAGES,
        expected_flags=(),
    )


def test_a_folder_of_videos_is_read_at_stated_times(tmp_path):
    write_film(tmp_path / "films" / "long" / "a.mp4", TIMES)
    write_film(tmp_path / "films" / "short.mkv", TIMES[:4])
    (tmp_path / "films" / "text.mp4").write_bytes(b"no film")

    def found(**options):
        items = list(read_split(of_folder(**options), "all", tmp_path))
        assert [item.reason for item in items if isinstance(item, Reject)] == ["not-a-video"]
        return [item.image for item in items if isinstance(item, Record)]

    of_long = [f"films/long/a.mp4#t={time}" for time in ("0", "0.4", "0.8")]
    assert found(every_s=0.4) == [*of_long, "films/short.mkv#t=0"]
    assert found(times_s=[0.1, 0.85]) == ["films/long/a.mp4#t=0.1", "films/long/a.mp4#t=0.85", "films/short.mkv#t=0.1"]
    for options in ({}, {"every_s": 0}, {"every_s": 1, "times_s": [1]}, {"times_s": []}, {"times_s": ["1"]}):
        with pytest.raises(DatasetError, match="either every_s, a number of seconds above 0, or times_s"):
            list(read_split(of_folder(**options), "all", tmp_path))


def test_no_video_is_said_with_where_they_were_looked_for(tmp_path):
    (tmp_path / "films").mkdir()
    with pytest.raises(DatasetError, match=r"no file below .*films ends in \.mp4"):
        list(read_split(of_folder(every_s=1), "all", tmp_path))
