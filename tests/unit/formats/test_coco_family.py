"""One proof per known deviation of the COCO family, on real samples where there are any."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from posecore.datasets.discovery import load_dataset, load_reader, read_split, source_for
from posecore.errors import DatasetError
from posecore.schema import Instance, Record, Reject
from posecore.shards.npy import npy_header
from posecore.skeletons.library import load_skeleton

pytestmark = pytest.mark.usefixtures("both_ways")


def annotation(count: int, flag: float = 2, **changes: Any) -> dict[str, Any]:
    """A person whose point i lies at (i, 2 i)."""
    points = [value for i in range(count) for value in (i, 2 * i, flag)]
    base = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0, "keypoints": points}
    return base | {"area": 600, "num_keypoints": count} | changes


def document(*annotations: dict[str, Any], image: dict[str, Any] | None = None, **category: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 100} | (image or {})],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "person"} | category],
    }


@pytest.fixture
def read_as(tmp_path: Path) -> Callable[..., tuple[list[Record], list[Reject]]]:
    """Writes a document where the dataset's split expects it and reads that split."""

    def run(name: str, split: str, content: Any) -> tuple[list[Record], list[Reject]]:
        definition = load_dataset(name)
        path = tmp_path / definition.splits[split].annotations
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        items = list(read_split(definition, split, tmp_path))
        return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Reject)]

    return run


def sample_instances(samples: Path, name: str, split: str) -> list[Instance]:
    items = list(read_split(load_dataset(name), split, samples / name))
    assert all(isinstance(item, Record) for item in items)
    for record in items:
        assert (samples / name / record.image).is_file()
    return [instance for record in items for instance in record.instances]


# --- COCO-WholeBody -----------------------------------------------------------------------------------------------


def wholebody(**changes: Any) -> dict[str, Any]:
    parts = {
        f"{field}_kpts": annotation(count)["keypoints"]
        for field, count in (("foot", 6), ("face", 68), ("lefthand", 21), ("righthand", 21))
    }
    return annotation(17, **parts) | changes


def test_wholebody_scores_are_never_truncated(read_as):
    hand = [value for i in range(21) for value in (i, i, 0.041 if i else 0.9)]
    (record,), _ = read_as("coco_wholebody", "val", document(wholebody(righthand_kpts=hand), keypoints=["nose"]))
    flags = record.instances[0].keypoints[:, 2]
    assert (flags[112:] == 2).all()


def test_wholebody_parts_follow_the_body_in_the_official_order(read_as):
    none = [0.0] * 63
    (record,), _ = read_as("coco_wholebody", "val", document(wholebody(lefthand_kpts=none)))
    flags = record.instances[0].keypoints[:, 2]
    assert np.flatnonzero(flags == 0).tolist() == list(range(91, 112))


@pytest.mark.parametrize("flag", [-0.1, float("nan")])
def test_wholebody_impossible_scores_are_rejected(read_as, flag):
    hand = [1, 1, flag] * 21
    (record,), (reject,) = read_as("coco_wholebody", "val", document(wholebody(righthand_kpts=hand)))
    assert (reject.reason, record.instances) == ("flag-out-of-range", [])


@pytest.mark.samples
def test_real_wholebody(samples: Path):
    instances = sample_instances(samples, "coco_wholebody", "val")
    assert len(instances) == 14
    assert sum(bool(i.keypoints.any()) for i in instances) == 12
    source = json.loads((samples / "coco_wholebody/annotations/coco_wholebody_val_v1.0.json").read_text())
    by_id = {str(a["id"]): a for a in source["annotations"]}
    floats = 0
    for instance in instances:
        raw = by_id[instance.id]
        scores = np.array(raw["righthand_kpts"][2::3])
        floats += int(((scores > 0) & (scores < 1)).sum())
        assert ((instance.keypoints[112:, 2] == 2) == (scores > 0)).all()
        assert instance.num_keypoints == (instance.keypoints[:17, 2] > 0).sum()
    assert floats > 30


# --- Halpe --------------------------------------------------------------------------------------------------------


def test_halpe_training_scores_are_thresholded_and_its_count_is_not_believed(read_as):
    person = annotation(136, 0.34, num_keypoints=3)
    person["keypoints"][2::3] = [0.34, 0.35, 1.0, 2.0, 0.99] + [0] * 131
    (record,), _ = read_as("halpe", "train", document(person, keypoints=[]))
    (instance,) = record.instances
    assert instance.keypoints[:5, 2].tolist() == [0, 2, 1, 2, 2]
    assert instance.num_keypoints is None


def test_halpe_annotation_without_a_list_of_points_is_rejected(read_as):
    _, (reject,) = read_as("halpe", "train", document(annotation(136, keypoints=None)))
    assert reject.reason == "no-keypoints"


@pytest.mark.samples
def test_real_halpe_agrees_with_wholebody_through_the_union(samples: Path):
    halpe = {i.id: i for i in sample_instances(samples, "halpe", "val")}
    wholebody = {i.id: i for i in sample_instances(samples, "coco_wholebody", "val")}
    assert halpe.keys() == wholebody.keys()
    own, other = load_skeleton("halpe136"), load_skeleton("coco_wholebody133")
    shared = [(own.union_names.index(u), k) for k, u in enumerate(other.union_names) if k < 23]
    compared = 0
    for key, instance in halpe.items():
        assert not instance.keypoints[[18, 19]].any()
        for here, there in shared:
            a, b = instance.keypoints[here], wholebody[key].keypoints[there]
            if a[2] and b[2]:
                compared += 1
                assert np.abs(a[:2] - b[:2]).max() <= (0 if there < 17 else 40)
    assert compared > 150
    feet = [(halpe[k].keypoints[20:26], wholebody[k].keypoints[17:23]) for k in halpe]
    both = [(a, b) for a, b in feet if a[:, 2].all() and b[:, 2].all()]
    assert both
    for a, b in both:
        by_union = np.linalg.norm(a[:, :2] - b[[0, 3, 1, 4, 2, 5], :2], axis=1)
        unordered = np.linalg.norm(a[:, :2] - b[:, :2], axis=1)
        assert by_union.mean() < unordered.mean() / 2


# --- CrowdPose ----------------------------------------------------------------------------------------------------

CROWD_NAMES = ["head" if name == "top_head" else name for name in load_skeleton("crowdpose14").names]


def test_crowdpose_keeps_its_own_count_and_reads_flags_as_labelled(read_as):
    person = annotation(14, num_keypoints=0)
    person["keypoints"][2::3] = [0] * 12 + [1, 1]
    del person["area"]
    links = [[16, 14], [17, 15]]
    content = document(person, image={"crowdIndex": 3.02}, keypoints=CROWD_NAMES, skeleton=links)
    (record,), rejects = read_as("crowdpose", "val", content)
    (instance,) = record.instances
    assert rejects == []
    assert instance.num_keypoints == 0
    assert instance.keypoints[:, 2].tolist() == [0] * 12 + [2, 2]
    assert instance.area == pytest.approx(0.53 * 30 * 40)
    assert record.extras == {"crowdIndex": 3.02}


@pytest.mark.parametrize("wrong", ["0.5", None, [0.5], True, float("inf"), 1e300])
def test_a_crowd_index_that_is_no_number_refuses_its_image(read_as, wrong):
    content = document(annotation(14, num_keypoints=0), image={"crowdIndex": wrong}, keypoints=CROWD_NAMES)
    records, rejects = read_as("crowdpose", "val", content)
    assert records == []
    assert rejects[0].reason == "not-a-number"
    assert "crowdIndex must be a finite number" in rejects[0].detail


def test_crowdpose_refuses_a_file_in_cocos_order(read_as):
    with pytest.raises(DatasetError, match="not those of skeleton crowdpose14 in its order"):
        read_as("crowdpose", "val", document(annotation(14), keypoints=list(load_skeleton("coco17").names)))


@pytest.mark.samples
def test_real_crowdpose_count_leaves_out_head_and_neck(samples: Path):
    instances = sample_instances(samples, "crowdpose", "mmpose_test")
    assert len(instances) == 5
    for instance in instances:
        assert instance.num_keypoints == (instance.keypoints[:12, 2] > 0).sum()
    assert any((i.keypoints[:, 2] > 0).sum() > (i.num_keypoints or 0) for i in instances)


# --- AP-10K -------------------------------------------------------------------------------------------------------


@pytest.mark.samples
def test_real_ap10k_keeps_species_and_background(samples: Path):
    records = list(read_split(load_dataset("ap10k"), "val", samples / "ap10k"))
    species = [(i.category_id, i.category) for record in records for i in record.instances]
    assert species[0] == (26, "jaguar")
    assert len(set(species)) == 2
    assert records[0].extras == {"background": 5}
    for record in records:
        for instance in record.instances:
            assert instance.area == instance.bbox_xywh[2] * instance.bbox_xywh[3]
            assert set(np.unique(instance.keypoints[:, 2])) <= {0, 2}


# --- SyRIP --------------------------------------------------------------------------------------------------------


def test_syrip_area_is_recomputed_because_the_file_holds_one_constant(read_as):
    first, second = annotation(17, area=2443298.4756), annotation(17, id=2, area=2443298.4756, bbox=[-3, -2, 10, 20])
    content = document(first, second, image={"posture": "Supine", "is_synthetic": False})
    (record,), rejects = read_as("syrip", "val", content)
    assert rejects == []
    assert [instance.area for instance in record.instances] == [1200, 200]
    assert record.instances[1].bbox_xywh == (-3, -2, 10, 20)
    assert record.extras["posture"] == "Supine"


def test_syrip_names_its_films_and_can_leave_out_those_of_training(read_as):
    def images(*origins: str) -> dict[str, Any]:
        content = document(*[annotation(17, id=n, image_id=n) for n in range(len(origins))])
        (image,) = content["images"]
        content["images"] = [
            image | {"id": n, "image_source": origin, "is_synthetic": origin == "posecore synth"}
            for n, origin in enumerate(origins)
        ]
        return content

    film, still = "https://www.youtube.com/watch?v=a", "http://example.org/b.jpg"
    (first, second), _ = read_as("syrip", "train", images(film, "posecore synth"))
    assert (first.video_id, second.video_id) == ("youtube.com/watch?v=a", None)
    content = images(still, "youtube.com/watch?v=a", "")
    everything, _ = read_as("syrip", "val", content)
    assert [record.video_id for record in everything] == ["example.org/b.jpg", "youtube.com/watch?v=a", None]
    (other,), rejects = read_as("syrip", "val_other_films", content)
    assert (other.source_id, rejects) == ("0", [])


# --- Human-Art ----------------------------------------------------------------------------------------------------


def humanart() -> dict[str, Any]:
    points = annotation(21)["keypoints"]
    person = annotation(17, id=2000000001648, keypoints_21=points, num_keypoints_21=21, self_contact=[[1, 2]])
    names = list(load_skeleton("humanart21").names)
    return document(person, image={"file_name": "HumanArt/images/real_human/dance/1.jpg"}, keypoints=names)


@pytest.mark.parametrize(("name", "count"), [("humanart", 17), ("humanart21", 21)])
def test_humanart_reads_the_field_that_fits_the_skeleton(read_as, name, count):
    (record,), rejects = read_as(name, "val", humanart())
    (instance,) = record.instances
    assert rejects == []
    assert (len(instance.keypoints), instance.num_keypoints, instance.id) == (count, count, "2000000001648")
    assert record.image == "HumanArt/images/real_human/dance/1.jpg"
    assert instance.extras == {"self_contact": [[1, 2]]}


# --- OCHuman ------------------------------------------------------------------------------------------------------

OCHUMAN_NAMES = list(load_skeleton("ochuman19").names)


def ochuman(**changes: Any) -> dict[str, Any]:
    points = [value for i in range(19) for value in (i, 2 * i, i % 4)]
    square, hole = [10, 10, 30, 10, 30, 30, 10, 30], [15, 15, 20, 15, 20, 20, 15, 20]
    segms = {"outer": [square], "inner": [hole], "height": 100, "width": 100}
    person = {"bbox": [1, 2, 31, 42], "keypoints": points, "segms": segms, "max_iou": 0.8} | changes
    image = {"image_id": "000001", "file_name": "000001.jpg", "width": 100, "height": 100, "annotations": [person]}
    return {"keypoint_names": OCHUMAN_NAMES, "images": [image]}


def test_ochuman_flags_corners_and_holes(read_as):
    (record,), rejects = read_as("ochuman19", "all", ochuman())
    (instance,) = record.instances
    assert rejects == []
    assert instance.bbox_xywh == (1, 2, 30, 40)
    assert instance.keypoints[:8, 2].tolist() == [0, 2, 2, 1, 0, 2, 2, 1]
    assert instance.keypoints[3].tolist() == [3, 6, 1]
    assert isinstance(instance.segmentation, dict)
    assert coco_mask.area(instance.segmentation) == 20 * 20 - 5 * 5
    assert instance.extras == {"max_iou": 0.8}


def test_ochuman_in_cocos_order_takes_points_by_name(tmp_path: Path):
    (tmp_path / "ochuman.json").write_text(json.dumps(ochuman()))
    definition = load_dataset("ochuman19").model_copy(update={"skeleton": load_skeleton("coco17")})
    (record,) = load_reader(definition).read(source_for(definition, "all", tmp_path))
    points = record.instances[0].keypoints
    for index, name in enumerate(load_skeleton("coco17").names):
        native = OCHUMAN_NAMES.index(name)
        assert points[index].tolist() == (
            [native, 2 * native, {1: 2, 2: 2, 3: 1}[native % 4]] if native % 4 else [0, 0, 0]
        )


def test_ochuman_body_without_points_or_mask(read_as):
    (record,), rejects = read_as("ochuman19", "all", ochuman(keypoints=None, segms=None))
    assert rejects == []
    assert not record.instances[0].keypoints.any()
    assert record.instances[0].segmentation is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keypoints": [1, 1, 4] * 19}, "flag-out-of-range"),
        ({"keypoints": [1, 1, 1]}, "wrong-length"),
        ({"bbox": [5, 5, 5, 9]}, "bad-box"),
        ({"segms": {"outer": [[1, 2]], "inner": [], "height": 100, "width": 100}}, "bad-segmentation"),
        ({"segms": {"outer": [], "inner": [], "height": 9, "width": 9}}, "bad-segmentation"),
        ({"segms": "x"}, "not-an-object"),
    ],
)
def test_ochuman_bad_person_is_rejected(read_as, changes, reason):
    (record,), (reject,) = read_as("ochuman19", "all", ochuman(**changes))
    assert (reject.reason, record.instances) == (reason, [])
    assert reject.source == "ochuman.json images[0].annotations[0]"


def test_ochuman_coco_form_has_box_areas(read_as):
    (record,), _ = read_as("ochuman", "test", document(annotation(17, area=1)))
    assert record.instances[0].area == 1200


# --- UBody --------------------------------------------------------------------------------------------------------


def ubody(video: str, frame: int = 10, **changes: Any) -> dict[str, Any]:
    person = wholebody(area=0, num_keypoints=9, segmentation=[[]], valid_label=2, full_body=False) | changes
    return document(person, image={"file_name": f"/{video}/{frame:06d}.png"})


def write_scenes(root: Path, **scenes: dict[str, Any]) -> None:
    for scene, content in scenes.items():
        path = root / "annotations" / scene / "keypoint_annotation.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    (root / "splits").mkdir()
    for name in ("intra", "inter"):
        np.save(root / "splits" / f"{name}_scene_test_list.npy", np.array(["Magic_S1"]))


def test_ubody_ids_of_scenes_do_not_collide_and_videos_are_split(tmp_path: Path):
    write_scenes(tmp_path, Magic=ubody("Magic_S1_Trim2"), Speech=ubody("Speech_S3"))
    definition = load_dataset("ubody")
    (train,) = read_split(definition, "intra_train", tmp_path)
    (test,) = read_split(definition, "intra_test", tmp_path)
    assert isinstance(train, Record)
    assert isinstance(test, Record)
    assert (train.source_id, train.instances[0].id) == ("Speech/1", "Speech/1")
    assert (test.source_id, test.image) == ("Magic/1", "images/Magic/Magic_S1_Trim2/000010.png")
    assert (test.video_id, test.frame_index) == ("images/Magic/Magic_S1_Trim2", 10)
    assert test.instances[0].area == pytest.approx(0.53 * 1200), "the file's area is 0"
    assert test.instances[0].segmentation is None


def test_ubody_keeps_every_nth_frame_on_request(tmp_path: Path):
    write_scenes(tmp_path, Magic=ubody("a", frame=10), Speech=ubody("b", frame=11))
    definition = load_dataset("ubody").model_copy(update={"reader_options": {"frame_stride": 10}})
    assert [r.source_id for r in read_split(definition, "intra_train", tmp_path)] == ["Magic/1"]


SCENES = (
    *("ConductMusic", "Entertainment", "Fitness", "Interview", "LiveVlog", "Magic_show", "Movie", "Olympic"),
    *("Online_class", "SignLanguage", "Singing", "Speech", "TVShow", "TalkShow", "VideoConference"),
)


def scene_of_two_videos(scene: str) -> dict[str, Any]:
    """Image ids 1 to 30 over two videos of 15 frames, the second of them on the test list, and no categories."""
    videos = [f"{scene}_S1", f"{scene}_S2_Trim3"]
    images = [
        {"id": i + 1, "file_name": f"{videos[i // 15]}/{i % 15 + 1:06d}.png", "width": 100, "height": 100}
        for i in range(30)
    ]
    return {"images": images, "annotations": [wholebody(id=i + 1, image_id=i + 1) for i in range(30)]}


def test_ubody_mix_of_dwpose_goes_by_image_id_and_has_all_scenes(tmp_path: Path):
    """``id % 10 == 0`` and the intra-scene list, as in IDEA-Research/DWPose @ 3dca5db, base_coco_style_dataset.py."""
    write_scenes(tmp_path, **{scene: scene_of_two_videos(scene) for scene in SCENES})
    tested = np.array([f"{scene}_S2" for scene in SCENES])
    np.save(tmp_path / "splits/intra_scene_test_list.npy", tested)
    definition = load_dataset("ubody")
    splits = {name: list(read_split(definition, name, tmp_path)) for name in ("dwpose_train", "dwpose_test")}
    assert [r.source_id for r in splits["dwpose_train"]] == [f"{scene}/10" for scene in SCENES]
    expected = [f"{scene}/{number}" for scene in SCENES for number in (20, 30)]
    assert [r.source_id for r in splits["dwpose_test"]] == expected
    assert [r.frame_index for r in splits["dwpose_test"]][:2] == [5, 15], "which a stride of frames would not choose"
    assert all(len(r.instances) == 1 for records in splits.values() for r in records)
    by_frame = definition.model_copy(update={"reader_options": {"frame_stride": 10}})
    assert [r.source_id for r in read_split(by_frame, "intra_test", tmp_path)] == [f"{s}/25" for s in SCENES]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_id_stride": 0}, "option image_id_stride must be 1 or more, not 0"),
        ({"frame_stride": -3}, "option frame_stride must be 1 or more, not -3"),
        ({"frame_stride": 2.5}, "option frame_stride must be a whole number"),
        ({"videos": "unlist"}, "option videos must be listed or unlisted, not 'unlist'"),
    ],
)
def test_ubody_impossible_options_are_refused(tmp_path: Path, options: dict[str, Any], sentence: str):
    write_scenes(tmp_path, Magic=ubody("a"))
    split = load_dataset("ubody").splits["intra_train"]
    changed = split.model_copy(update={"options": {**split.options, **options}})
    definition = load_dataset("ubody").model_copy(update={"splits": {"mine": changed}})
    with pytest.raises(DatasetError, match=sentence):
        list(read_split(definition, "mine", tmp_path))


def test_ubody_parts_declared_invalid_are_not_labelled(tmp_path: Path):
    write_scenes(tmp_path, Magic=ubody("a", lefthand_valid=False, leftfoot_valid=False, rightfoot_valid=True))
    (record,) = read_split(load_dataset("ubody"), "intra_train", tmp_path)
    flags = record.instances[0].keypoints[:, 2]
    assert np.flatnonzero(flags == 0).tolist() == [17, 18, 19, *range(91, 112)]


def test_ubody_person_with_label_0_keeps_its_box_only(tmp_path: Path):
    write_scenes(tmp_path, Magic=ubody("a", valid_label=0))
    (record,) = read_split(load_dataset("ubody"), "intra_train", tmp_path)
    assert record.instances[0].bbox_xywh == (1, 2, 30, 40)
    assert not record.instances[0].keypoints.any()


@pytest.mark.parametrize("kind", ["pickle", "states more than it holds", "empty", "archive", "no archive"])
def test_ubody_video_list_that_is_no_plain_list_is_never_opened(tmp_path: Path, kind: str):
    write_scenes(tmp_path, Magic=ubody("a"))
    names = tmp_path / "splits/intra_scene_test_list.npy"
    if kind == "pickle":
        np.save(names, np.array(["a", None], dtype=object), allow_pickle=True)
    elif kind == "states more than it holds":
        names.write_bytes(npy_header("<U9", (1000,)) + bytes(36))
    elif kind == "archive":
        with names.open("wb") as file:
            np.savez(file, names=np.array(["a"]))
    else:
        names.write_bytes(b"" if kind == "empty" else b"PK\x03\x04")
    with pytest.raises(DatasetError, match=r"intra_scene_test_list\.npy is not a plain \.npy list"):
        list(read_split(load_dataset("ubody"), "intra_train", tmp_path))


@pytest.mark.samples
def test_real_ubody_3d_file_gives_parts_and_no_body(samples: Path):
    definition = load_dataset("ubody")
    split = definition.splits["intra_train"].model_copy(
        update={"annotations": "annotations/ubody3d_train.json", "options": {}}
    )
    definition = definition.model_copy(update={"splits": {"sample": split}})
    (record,) = read_split(definition, "sample", samples / "ubody")
    assert isinstance(record, Record)
    (instance,) = record.instances
    assert record.image == "images/Magic_show/Magic_show_S1_Trim1/Magic_show_S1_Trim1/000016.png"
    assert not instance.keypoints[:23].any(), "the body is in SMPL-X order and both feet are declared invalid"
    assert (instance.keypoints[91:, 2] == 2).all()
    assert instance.area == pytest.approx(0.53 * instance.bbox_xywh[2] * instance.bbox_xywh[3])


# --- Goliath ------------------------------------------------------------------------------------------------------


def test_goliath_reads_308_points_of_a_coco_file(read_as):
    (record,), rejects = read_as("goliath", "val", document(annotation(308)))
    assert rejects == []
    assert record.instances[0].keypoints.shape == (308, 3)
