"""What a detector sees in pictures, written down, and blurred where it is faces."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from posecore.errors import IngestError
from posecore.ingest.purity import assert_stage_is_pure
from posecore.prediction.detectors import TransformersDetector
from posecore.stages.load import load_stages
from posecore.stages.protocol import Picture
from tests.support.small_split import HEIGHT, WIDTH, definition, picture, records
from tests.support.tiny_detector import save_tiny_detector

BLUR = {"stage": "blur_faces", "options": {"points": ["hand"], "detected": "face"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a dataset with a detector in ``eyes``."""
    found = tmp_path_factory.mktemp("dataset")
    save_tiny_detector(found / "eyes", {0: "face", 1: "dog"})
    return found


def stages(folder, label="face", least_score=0.2):
    entry = {
        "stage": "detect",
        "files": {"detector": "eyes"},
        "options": {"label": label, "least_score": least_score},
    }
    detect, blur = load_stages(definition(stages=[entry, BLUR], folder=folder))
    return detect, blur


def rgb(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_boxes_of_a_class_are_written_down_and_faces_among_them_blurred(tmp_path, folder):
    source = records(tmp_path, 4)
    given = [Picture(data=picture(number), record=record) for number, record in enumerate(source)]
    detect, blur = stages(folder)
    assert_stage_is_pure(detect, source, definition().skeleton, [item.data for item in given])
    answers = detect.work(given)
    detector = TransformersDetector(str(folder / "eyes"), "face", 0.2)
    num_found = 0
    for answer, item in zip(answers, given, strict=True):
        assert answer.record.instances == item.record.instances
        (wanted,) = detector([rgb(item.data)])
        found = np.reshape(answer.record.extras["detected"]["face"], (-1, 5))
        np.testing.assert_allclose(found[:, :4], wanted.bbox_xywh, atol=1 / 16)
        np.testing.assert_allclose(found[:, 4], wanted.scores, atol=1 / 256)
        num_found += len(found)
        left = blur.work(answer)
        if not len(found):
            assert left is answer, "and nobody is taken out: the detector saw all of the picture"
            continue
        ys, xs = np.mgrid[:HEIGHT, :WIDTH]
        x, y, w, h = found[:, :4].T[..., None, None]
        inside = (np.hypot(xs - x - w / 2, ys - y - h / 2) <= np.hypot(w, h) / 2).any(axis=0)
        changed = np.abs(rgb(left.data).astype(int) - rgb(item.data)).max(axis=2) > 12
        assert changed[inside].mean() > 0.3
        assert not changed[~inside].any() or changed[~inside].mean() < 0.1
    assert num_found


def test_a_picture_that_nobody_looked_at_and_one_that_cannot_be_read_are_said(tmp_path, folder):
    (record,) = records(tmp_path, 1)
    detect, blur = stages(folder, label="dog")
    detect.work.set_up()
    given = Picture(data=picture(0), record=record)
    with pytest.raises(IngestError, match="nobody looked for 'face'; list the stage detect before"):
        blur.work(given)
    (dogs,) = detect.work([given])
    with pytest.raises(IngestError, match="nobody looked for 'face'"):
        blur.work(dogs)
    (cut,) = detect.work([replace(given, data=given.data[:300])])
    assert cut.reason == "undecodable-image"
