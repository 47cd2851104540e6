"""Stages met before ingestion: what they leave of a sample, and how a faulty or impure one is named."""

import base64
import re
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore import cli
from posecore.config import read_yaml
from posecore.datasets.check import check_split
from posecore.datasets.sample import Sample
from posecore.ingest.run import ingest
from posecore.ingest.stage_check import check_stages, made_of, may_scale, staged_sample
from posecore.ingest.verify_source import verify_source
from posecore.schema import Record
from posecore.stages import ImageStage, Picture
from tests.support.small_split import HEIGHT, WIDTH, definition, job, records

HERE = __name__
CALLS = count()


class Numbers(ImageStage):
    """Not pure: numbers its calls."""

    def __call__(self, given: Picture) -> Picture:
        return replace(given, record=replace(given.record, extras={"call": next(CALLS)}))


def fails(record: Record) -> Record:
    raise KeyError(record.image)


def checked(root: Path, *stages: object) -> str:
    made = definition(stages=list(stages))
    return str(check_stages(made, "train", root, check_split(made, "train", root).sample))


def test_every_stage_says_what_it_was_given_and_took_out(tmp_path):
    source = records(tmp_path, 6)
    (tmp_path / "images" / "5.jpg").write_bytes(b"")
    stages = ["drop_crowds", {"stage": "resize", "options": {"longer_side_px": 32}}, "drop_unlabelled"]
    assert checked(tmp_path, *stages).splitlines() == [
        "  stages, tried on 6 images:",
        "    drop_crowds: 6 images, 9 instances; took out 0 and 3 of them (crowd: 3)",
        "    resize: 5 images, 5 instances; took out nothing",
        "    drop_unlabelled: 5 images, 5 instances; took out nothing",
        "    image: 6 images, 6 instances; took out 1 and 1 of them (empty-image: 1)",
        "  warning: image loses more than max_loss allows, so ingestion would stop",
    ]
    left, reasons = staged_sample(definition(stages=stages), "train", tmp_path, source)
    assert {name: picture.record.width for name, picture in left.items()} == dict.fromkeys("01234", 32)
    assert reasons == {"1": ["crowd"], "3": ["crowd"], "5": ["crowd", "empty-image"]}


def test_a_sample_of_which_no_file_is_there_leaves_nothing_to_stages(tmp_path):
    for path in [tmp_path / record.image for record in records(tmp_path, 4)]:
        path.unlink()
    said = checked(tmp_path, {"stage": "resize", "options": {"longer_side_px": 32}}, "drop_unlabelled")
    assert "image: 4 images, 6 instances; took out 4 and 6 of them (missing-image: 4)" in said
    assert "error" not in said


def test_a_stage_that_would_stop_the_ingestion_is_met(tmp_path):
    records(tmp_path, 4)
    said = "  warning: blur_faces loses more than max_loss allows, so ingestion would stop"
    points = {"points": ["hand"]}
    assert said in checked(tmp_path, {"stage": "blur_faces", "options": points}).splitlines()
    assert said not in checked(tmp_path, {"stage": "blur_faces", "options": {**points, "unplaced": "keep"}})


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            [f"{HERE}:fails"],
            r"error: stage .*fails \(options none\) failed at images/0\.jpg in .*test_stage_check\.py, line",
        ),
        (
            ["orient", f"{HERE}:Numbers"],
            r"error: stage .*Numbers says something else of images/0\.jpg when .* asked again",
        ),
        (["nowhere"], r"error: stage 'nowhere' is neither one of .*keep_subjects"),
        (
            [{"stage": "resize", "options": {"side": 3}}],
            r"error: dataset tiny: stage resize: options: longer_side_px: Field",
        ),
    ],
)
def test_a_stage_that_is_faulty_or_not_pure_is_named(tmp_path, stages, said):
    records(tmp_path, 3)
    text = checked(tmp_path, *stages)
    assert re.search(said, text), text


class Shifts(ImageStage):
    """Keeps the high byte."""

    def __call__(self, given: Picture) -> Picture:
        pixels = cv2.imdecode(np.frombuffer(given.data, np.uint8), cv2.IMREAD_UNCHANGED)
        return replace(given, data=cv2.imencode(".png", (pixels >> 8).astype(np.uint8))[1].tobytes())


SCALED = {"stage": "scale_range", "options": {"low": 0, "high": 4095}}
LEFT_DEEP = "after all stages 16 bits per value are left in 1 image, such as images/0.jpg; add the stage scale_range."


def test_pictures_of_16_bits_are_refused_by_check_and_ingestion_unless_a_stage_scales_them(tmp_path):
    root = tmp_path / "raw"
    records(root, 3)
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    (root / "images" / "0.jpg").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    for stages, refused, said in (
        ([], True, ""),
        ([{"stage": "resize", "options": {"longer_side_px": 32}}], True, LEFT_DEEP),
        ([f"{HERE}:Numbers"], True, "asked again"),
        ([SCALED], False, ""),
        ([f"{HERE}:Shifts"], False, ""),
    ):
        of = definition(stages=stages, max_loss=1.0)
        report = check_split(of, "train", root, made_of(of), may_scale(of))
        tried = check_stages(of, "train", root, report.sample)
        found = {finding.code: finding.severity for finding in report.findings}
        assert ("16-bit" in found or bool(tried.problem)) == refused, (stages, tried.problem)
        assert said in tried.problem
        manifest = ingest(job(root, tmp_path / f"out-{len(str(stages))}", stages=stages, max_loss=1.0))
        assert manifest.rejects == ({"not-8-bit": 1} if refused else {})
        verified = verify_source(job(root, tmp_path / f"out-{len(str(stages))}", stages=stages, max_loss=1.0))
        assert refused or not verified.num_different
        left, reasons = staged_sample(of, "train", root, report.sample)
        assert (reasons == {"0": ["not-8-bit"]}) == refused
        assert ("0" in left) == (not refused)


def test_the_commands_run_the_stages(tmp_path, capsys):
    root = tmp_path / "raw"
    records(root, 2)
    values = definition(stages=[{"stage": "resize", "options": {"longer_side_px": 32}}, "drop_crowds"])
    made = tmp_path / "dataset.yaml"
    made.write_text(values.model_dump_json())
    assert read_yaml(made)["name"] == "tiny"
    assert cli.main(["datasets", "check", str(made), "--root", str(root)]) == 0
    assert "    drop_crowds: 2 images, 3 instances; took out 0 and 1 of them (crowd: 1)" in capsys.readouterr().out
    assert cli.main(["datasets", "show", str(made), "--root", str(root), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "some taken out: crowd" in page
    (first, *_) = re.findall(r'data:image/\w+;base64,([^"]+)', page)
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(first), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape[:2] == (HEIGHT // 2, WIDTH // 2)
    made.write_text(definition(stages=[f"{HERE}:fails"]).model_dump_json())
    assert cli.main(["datasets", "check", str(made), "--root", str(root)]) == 1
    assert "line" in capsys.readouterr().out


def test_a_sample_is_drawn_evenly():
    def drawn(size: int) -> list[int]:
        sample = Sample(size)
        for number in range(1000):
            sample.offer(Record(dataset="d", split="s", source_id=str(number), image="", width=0, height=0))
        return [int(record.source_id) for record in sample.records]

    assert drawn(100) == drawn(100) == sorted(drawn(100))
    assert len(set(drawn(100))) == 100
    assert 400 < sum(drawn(100)) / 100 < 600
    assert drawn(2000) == list(range(1000))
