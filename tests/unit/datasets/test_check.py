import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from posecore import cli
from posecore.datasets.check import CheckReport, check_split, present_splits
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset
from posecore.ingest.stage_check import may_scale

DEFINITION = """
name: tiny
title: Tiny
reader: posecore.formats.coco:CocoReader
skeleton:
  name: tiny2
  keypoints:
    - {name: nose, union: nose}
    - {name: tail, union: tail}
license: {id: CC0-1.0}
area_rule: box
splits:
  train: {annotations: annotations/train.json, images: images, num_images: 2, num_instances: 2}
  val: {annotations: annotations/val.json, images: images}
expected_flags: [0, 2]
"""


class Download:
    """A healthy download of two images with one instance each, which tests then damage."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "download"
        self.yaml = folder / "dataset.yaml"
        self.yaml.write_text(DEFINITION)
        (self.root / "images").mkdir(parents=True)
        (self.root / "annotations").mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
        for name in ("a.jpg", "b.png"):
            cv2.imwrite(str(self.root / "images" / name), pixels)
        self.document: dict[str, Any] = {
            "images": [
                {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
                {"id": 2, "file_name": "b.png", "width": 40, "height": 30},
            ],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "keypoints": [5, 5, 2, 0, 0, 0]},
                {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 1, 20, 20], "keypoints": [5, 5, 2, 9, 9, 2]},
            ],
            "categories": [{"id": 1, "name": "dog"}],
        }

    @property
    def definition(self) -> DatasetDefinition:
        return load_dataset(self.yaml)

    def check(self, split: str = "train") -> CheckReport:
        (self.root / "annotations" / "train.json").write_text(json.dumps(self.document))
        return check_split(self.definition, split, self.root)


@pytest.fixture
def download(tmp_path: Path) -> Download:
    return Download(tmp_path)


def only_finding(report: CheckReport) -> tuple[str, str, int]:
    (finding,) = report.findings
    return finding.severity, finding.code, finding.count


def test_a_healthy_download_has_no_problems(download: Download) -> None:
    report = download.check()
    assert str(report) == "tiny train: 2 images, 2 instances\n  no problems found"
    assert not report.has_errors


def test_subjects_are_counted_where_annotations_name_them(download: Download) -> None:
    for annotation in download.document["annotations"]:
        annotation["subject_id"] = "rex"
    assert str(download.check()).startswith("tiny train: 2 images, 2 instances, 1 subject\n")


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"bbox": [100, 1, 20, 20]}, ("error", "box-outside-image", 1)),
        ({"keypoints": [45, 5, 2, 9, 9, 2]}, ("warning", "point-outside-image", 1)),
        ({"keypoints": [5, -3, 2, 0, 0, 0]}, ("warning", "point-outside-image", 1)),
        ({"keypoints": [5, 5, 3, 9, 9, 2]}, ("error", "flag-out-of-range", 1)),
        ({"bbox": [1, 1, -5, 5]}, ("error", "bad-box", 1)),
        ({"id": 1}, ("error", "duplicate-id", 1)),
    ],
)
def test_damage_of_one_instance_is_named(
    download: Download, changes: dict[str, Any], finding: tuple[str, str, int]
) -> None:
    download.document["annotations"][1].update(changes)
    found = [(f.severity, f.code, f.count) for f in download.check().findings]
    assert finding in found
    assert {code for _, code, _ in found} <= {finding[1], "instance-count"}


def test_missing_images_are_counted_with_three_examples_at_most(download: Download) -> None:
    images = download.document["images"]
    images[:] = [{**images[0], "id": i, "file_name": f"{i}.jpg"} for i in range(1, 6)]
    finding = next(f for f in download.check().findings if f.code == "missing-image")
    assert (finding.severity, finding.count) == ("error", 5)
    assert finding.examples == ("images/1.jpg", "images/2.jpg", "images/3.jpg")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jpg", b"", "unreadable-image"),
        ("a.jpg", b"<html>not found</html>", "unreadable-image"),
        ("a.jpg", None, "truncated-image"),
        ("b.png", None, "truncated-image"),
    ],
)
def test_broken_image_files(download: Download, name: str, content: bytes | None, code: str) -> None:
    path = download.root / "images" / name
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    assert only_finding(download.check()) == ("error", code, 1)


def test_an_image_with_large_metadata_is_read_further(download: Download) -> None:
    path = download.root / "images" / "a.jpg"
    data = path.read_bytes()
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    path.write_bytes(data[:2] + comment * 2 + data[2:])
    assert not download.check().findings


def test_size_that_contradicts_the_annotation(download: Download) -> None:
    download.document["images"][0]["width"] = 41
    report = download.check()
    assert only_finding(report) == ("error", "size-mismatch", 1)
    assert "images/a.jpg is 40x30, annotated as 41x30" in str(report)


def test_one_file_under_two_ids_is_a_warning(download: Download) -> None:
    download.document["images"][1]["file_name"] = "a.jpg"
    assert only_finding(download.check()) == ("warning", "duplicate-image-file", 1)


def test_counts_and_flags_are_compared_with_the_definition(download: Download) -> None:
    del download.document["images"][0], download.document["annotations"][0]
    report = download.check()
    assert [f.code for f in report.findings] == ["image-count", "instance-count", "flag-never-seen"]
    assert "1 image where the definition states 2" in str(report)
    assert "flag 0 (not labelled) was never seen" in str(report)
    assert not report.has_errors


def test_one_area_for_all_is_no_area(download: Download) -> None:
    download.yaml.write_text(DEFINITION.replace("area_rule: box", "area_rule: annotated"))
    body = download.document["annotations"][0]
    download.document["annotations"] = [
        body | {"id": number, "area": 14232.77, "bbox": [1, 1, 10 + number, 20]} for number in range(10)
    ]
    findings = {finding.code: finding for finding in download.check().findings}
    assert findings["impossible-areas"].severity == "error"
    assert "for all 10 bodies" in str(findings["impossible-areas"])
    assert "set area_rule: box in dataset.yaml" in str(findings["impossible-areas"])


def test_empty_splits(download: Download) -> None:
    download.document["annotations"] = []
    assert "no-instances" in {f.code for f in download.check().findings}
    download.document["images"] = []
    assert only_finding(download.check()) == ("error", "empty-split", 1)


def test_missing_files_say_what_is_there_instead(download: Download) -> None:
    (download.root / "annotations" / "extra.json").write_text("{}")
    report = download.check("val")
    assert only_finding(report)[1] == "missing-annotations"
    assert "annotations/val.json does not exist" in str(report)
    assert "annotations holds extra.json, train.json" in str(report)


def test_a_root_one_folder_too_high_is_recognised(download: Download) -> None:
    download.check()
    report = check_split(download.definition, "train", download.root.parent)
    assert f"a train.json lies in {download.root / 'annotations'}" in str(report)
    nowhere = check_split(download.definition, "train", download.root / "nowhere")
    assert "nor does" in str(nowhere)


def test_broken_annotations_are_one_sentence(download: Download) -> None:
    download.check()
    (download.root / "annotations" / "train.json").write_text('{"images": [')
    report = check_split(download.definition, "train", download.root)
    assert only_finding(report)[1] == "unreadable-annotations"
    assert "annotations/train.json is not valid JSON" in str(report)


def test_command_prints_findings_and_tells_by_its_status(
    download: Download, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download.check().findings == ()
    assert present_splits(download.definition, download.root) == ("train",)
    arguments = ["datasets", "check", str(download.yaml), "--root", str(download.root)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny train: 2 images, 2 instances",
        "  no problems found",
        "  stages, tried on 2 images:",
        "    check_instances: 2 images, 2 instances; took out nothing",
        "not in this download: val",
    ]
    (download.root / "images" / "a.jpg").unlink()
    assert cli.main(arguments) == 1
    assert "error: missing-image: 1 × image files do not exist (for example images/a.jpg)" in capsys.readouterr().out
    assert cli.main([*arguments, "--split", "tset"]) == 1
    assert "no split 'tset'" in capsys.readouterr().err


@pytest.mark.samples
def test_real_projects_are_clean(samples: Path) -> None:
    project = samples / "dlc_reaching" / "Reaching-Mackenzie-2018-08-30"
    assert not check_split(load_dataset("deeplabcut"), "all", project).findings
    codes = {f.code for f in check_split(load_dataset("coco"), "val", samples / "coco").findings}
    assert codes == {"missing-detections", "image-count", "instance-count"}


def test_numbers_that_cannot_be_pixels_of_their_image_are_errors(download: Download) -> None:
    one, two = download.document["annotations"]
    one["bbox"] = [1, 1, 4e11, 20]
    two["keypoints"] = [5, 5, 2, -9, 12_000, 2]
    findings = {finding.code: finding for finding in download.check().findings}
    assert findings.keys() == {"far-box", "far-keypoints"}
    assert all(finding.severity == "error" for finding in findings.values())
    assert "(-9, 12000) in 40x30" in str(findings["far-keypoints"])


def test_an_image_that_is_a_pipe_is_not_waited_for(download: Download) -> None:
    path = download.root / "images" / "a.jpg"
    path.unlink()
    os.mkfifo(path)
    assert only_finding(download.check()) == ("error", "unreadable-image", 1)


def test_labels_at_the_origin_are_counted_by_name(download: Download) -> None:
    for annotation in download.document["annotations"]:
        annotation["keypoints"][:3] = [0, 0, 2]
    found = {item.code: item for item in download.check().findings}["labelled-at-origin"]
    assert "2 labelled points at exactly (0, 0) (nose 2)" in found.message


def test_pictures_of_16_bits_are_met_with_their_range(download: Download) -> None:
    pixels = np.zeros((30, 40), np.uint16)
    pixels[3, 4], pixels[5, 5] = 4000, 16
    cv2.imwrite(str(download.root / "images" / "b.png"), pixels)
    found = {item.code: item for item in download.check().findings}["16-bit"]
    assert (found.severity, found.count, found.examples) == ("error", 1, ("images/b.png",))
    assert "{stage: scale_range, options: {low: 0, high: 4000}}" in found.message
    stages = "stages: [check_instances, {stage: scale_range, options: {low: 0, high: 4000}}]\n"
    download.yaml.write_text(DEFINITION + stages)
    assert may_scale(download.definition)
    scaled = check_split(download.definition, "train", download.root, may_scale=True)
    assert "16-bit" not in {item.code for item in scaled.findings}, "what was advised is done"


@pytest.mark.parametrize(
    ("stated", "reach", "severity", "reading"),
    [((40, 30), 28, "warning", "either 1"), ((30, 40), 28, "error", "upright 1"), (None, 38, "error", "upright 1")],
)
def test_turned_pictures_are_counted_by_the_reading_their_labels_fit(
    download: Download, stated: tuple[int, int] | None, reach: int, severity: str, reading: str
) -> None:
    """Stored 40 wide and 30 high, shown 30 wide and 40 high."""
    data = (download.root / "images" / "a.jpg").read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (2 + 6 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff
    (download.root / "images" / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    image = download.document["images"][0]
    del image["width"], image["height"]
    if stated is not None:
        image["width"], image["height"] = stated
    download.document["annotations"][0] |= {"bbox": [1, 1, 25, reach - 1], "keypoints": [5, 5, 2, 9, reach, 2]}
    found = {item.code: item for item in download.check().findings}["stored-turned"]
    assert (found.severity, found.count) == (severity, 1)
    assert f"their labels fit: {reading};" in found.message
    stages = "stages: [check_instances, {stage: orient, options: {annotated: shown}}]\n"
    download.yaml.write_text(DEFINITION + stages)
    assert "stored-turned" not in {item.code for item in download.check().findings}, "what was advised is done"


def test_a_protocol_that_cannot_be_computed_is_an_error(download: Download, capsys: pytest.CaptureFixture[str]) -> None:
    text = DEFINITION.replace(
        "val: {annotations: annotations/val.json, images: images}",
        "val: {annotations: annotations/val.json, images: images, use: eval}",
    )
    download.yaml.write_text(text)
    download.check()
    arguments = ["datasets", "check", str(download.yaml), "--root", str(download.root)]
    assert cli.main(arguments) == 1
    assert (
        "error: evaluation: protocol oks divides by an OKS constant per point; skeleton tiny2 has none for nose, tail"
        in (capsys.readouterr().out)
    )
    download.yaml.write_text(text + "evaluation: {protocol: pck}\n")
    assert cli.main(arguments) == 0


def test_an_evaluation_split_that_its_protocol_cannot_judge_is_an_error(download: Download) -> None:
    judged = DEFINITION.replace("images: images, num_images: 2,", "images: images, use: eval, num_images: 2,")
    for protocol, message in (("pckh", "no labelled body has a head box"), ("crowdpose", "2 of 2 images have no")):
        download.yaml.write_text(f"{judged}evaluation: {{protocol: {protocol}}}\n")
        (finding,) = download.check().findings
        assert (finding.severity, finding.code) == ("error", "cannot-be-judged")
        assert message in finding.message
    download.yaml.write_text(judged)
    assert not download.check().findings
    for annotation in download.document["annotations"]:
        annotation["keypoints"] = [0] * 6
    assert "cannot-be-judged" in {finding.code for finding in download.check().findings}


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        ([f"{video}_{frame:04d}.jpg" for video in ("cat", "dog") for frame in range(12)], True),
        ([f"{video}/{frame}.jpg" for video in range(3) for frame in range(8)], True),
        ([f"{name}1.jpg" for name in "abcdefghijklmnopqrstuvwx"], False),
        ([f"{1000 * number + 7:012d}.jpg" for number in range(24)], False),
    ],
)
def test_frames_of_few_videos_divided_by_frame_are_warned_of(
    download: Download, names: list[str], warned: bool
) -> None:
    image = (download.root / "images" / "a.jpg").read_bytes()
    for name in names:
        (download.root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (download.root / "images" / name).write_bytes(image)
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names, start=1)]
    body = download.document["annotations"][0]
    annotations = [{**body, "id": i, "image_id": i} for i in range(1, len(names) + 1)]
    download.document |= {"images": images, "annotations": annotations}
    by_frame = "images: images, partition: {part: train, by: frame, share: 0.1}"
    download.yaml.write_text(DEFINITION.replace("images: images, num_images: 2, num_instances: 2", by_frame))
    assert ("divided-by-frame" in {finding.code for finding in download.check().findings}) == warned
