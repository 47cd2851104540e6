"""What a model finds goes beside the labels: the predictor's own answers, in extras, and never counted as labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import ConfigError, IngestError, PredictionError
from posecore.ingest.purity import assert_stage_is_pure
from posecore.ingest.run import ingest
from posecore.ingest.stage_code import codes_of
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.prediction.instances import Boxes
from posecore.prediction.predictor import Predictor
from posecore.schema import Record
from posecore.shards.store import open_store
from posecore.skeletons.library import load_skeleton
from posecore.stages.load import load_stages
from posecore.stages.protocol import Picture
from posecore.workflows.calibration import calibrate
from tests.support.dot_worlds import HANDS, hands_definition, hands_store
from tests.support.small_split import definition, job, picture, records


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folder with a dataset's folder beside a random model in ``teacher``."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    skeletons = {"coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")}
    folder = tmp_path_factory.mktemp("dataset")
    save_model(build_model(config, skeletons, {}).eval(), folder / "teacher")
    return folder


def stage(folder, **options):
    entry = {"stage": "pseudo_label", "files": {"model": "teacher"}, "options": options}
    (loaded,) = load_stages(definition(stages=[entry], folder=folder))
    loaded.work.set_up()
    return loaded


def assert_found(said, predictor, data, boxes, head, skeleton):
    """The answers are the predictor's for those boxes, to the steps they are stored in."""
    (found,) = predictor.predict([data], None if boxes is None else [boxes], head)
    assert len(found) == len(said) > 0
    for row, answer in enumerate(said):
        assert (answer["model"], answer["skeleton"]) == ("teacher", skeleton.name)
        assert list(answer["points"]) == list(skeleton.names)
        points = np.array(list(answer["points"].values()))
        np.testing.assert_allclose(points[:, :2], found.keypoints[row], atol=1 / 16)
        np.testing.assert_allclose(points[:, 2], found.keypoint_scores[row], atol=1 / 256)


def test_a_calibrated_model_says_how_far_off_its_labels_are(tmp_path: Path) -> None:
    store = hands_store(tmp_path / "hands", hands_definition(), num_images=10)
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    teacher = save_model(build_model(config, {"hands": HANDS}), tmp_path / "teacher")
    with pytest.raises(ConfigError, match="not calibrated"):
        stage(tmp_path, uncertainty=True)
    calibrate(teacher, load_model(teacher), store)
    data = store.read_image_bytes(0)
    record = replace(store.read_record(0), instances=list(store.read_record(0).instances))
    (told,), (plain,) = (
        stage(tmp_path, uncertainty=on).work([Picture(record=record, data=data)]) for on in (True, False)
    )
    said, before = (found.record.instances[0].extras["pseudo_label"] for found in (told, plain))
    assert set(said) - set(before) == {"radii"}
    assert said["points"] == before["points"]
    boxes = [Boxes(np.array([body.bbox_xywh for body in record.instances]))]
    (found,) = Predictor.load(teacher).predict([data], boxes)
    np.testing.assert_allclose(list(said["radii"].values()), found.uncertainty.radius[0], atol=1 / 16)


def test_what_is_found_stands_beside_the_labels(tmp_path, teacher):
    source = records(tmp_path / "raw", 4)
    source[2].instances[0].bbox_xywh = (0.0, 0.0, 0.0, 0.0)
    source[0].instances.clear()
    entry = {"stage": "pseudo_label", "files": {"model": "teacher"}, "options": {"head": "mpii", "whole_images": True}}
    item = job(tmp_path / "raw", tmp_path / "out", stages=[entry], folder=teacher)
    manifest = ingest(item, source)
    plain = ingest(job(tmp_path / "raw", tmp_path / "plain", stages=[]), source)
    assert manifest.rejects == plain.rejects == {}
    left, without = open_store(item.folder), open_store(tmp_path / "plain" / "tiny" / "train")
    columns = [name for name in left.instances.column_names if not name.endswith(("_offset", "_size"))]
    assert {"num_labelled", "bbox_x", "area"} < set(columns)
    assert left.instances.select(columns).equals(without.instances.select(columns))
    predictor = Predictor.load(teacher / "teacher")
    skeleton = load_skeleton("mpii16")
    for row in range(4):
        sample = left.read_sample(row)
        for body, before in zip(sample.record.instances, source[row].instances, strict=True):
            np.testing.assert_array_equal(body.keypoints, before.keypoints)
            if body.is_crowd or row == 2:
                assert body.extras == {}
            else:
                said = [body.extras["pseudo_label"]]
                assert_found(said, predictor, sample.image_bytes, [body.bbox_xywh], "mpii", skeleton)
        assert ("pseudo_label" in sample.record.extras) == (row == 0)
    said = [left.read_sample(0).record.extras["pseudo_label"]]
    assert_found(said, predictor, picture(0), None, "mpii", skeleton)


def test_the_stage_is_pure_and_says_which_picture_it_cannot_read(tmp_path, teacher):
    source = records(tmp_path, 5)
    loaded = stage(teacher, crops_at_once=2)
    assert_stage_is_pure(loaded, source, definition().skeleton, [picture(number) for number in range(5)])
    cut = Picture(data=picture(0)[:300], record=source[0])
    answers = loaded.work([cut, replace(cut, data=picture(0))])
    assert answers[0].reason == "undecodable-image"
    assert "pseudo_label" in answers[1].record.instances[0].extras


def test_another_model_makes_new_shards_and_one_that_is_not_pinned_is_refused(teacher, tmp_path):
    def digest():
        entry = {"stage": "pseudo_label", "files": {"model": "teacher"}}
        return codes_of(definition(stages=[entry], folder=tmp_path), "train")["pseudo_label"].digest

    (tmp_path / "teacher").mkdir()
    for path in (teacher / "teacher").iterdir():
        (tmp_path / "teacher" / path.name).write_bytes(path.read_bytes())
    first = digest()
    assert first == digest()
    some = max((tmp_path / "teacher").iterdir(), key=lambda path: path.stat().st_size)
    some.write_bytes(some.read_bytes()[:-1] + b"\1")
    assert digest() != first
    with pytest.raises(IngestError, match=r"pseudo_label: options: .*teacher is no published model"):
        load_stages(definition(stages=[{"stage": "pseudo_label", "options": {"model": "teacher"}}]))
    with pytest.raises(PredictionError, match="no head 'hands'"):
        stage(teacher, head="hands")


@pytest.mark.samples
def test_pseudo_labels_of_real_pictures(samples, teacher):
    coco = load_dataset("coco")
    real = [item for item in read_split(coco, "val", samples / "coco") if isinstance(item, Record) and item.instances]
    real = [record for record in real if len(record.instances) == 2][:2]
    pictures = [(samples / "coco" / record.image).read_bytes() for record in real]
    loaded = stage(teacher)
    assert_stage_is_pure(loaded, real, coco.skeleton, pictures)
    predictor = Predictor.load(teacher / "teacher")
    answers = loaded.work([Picture(data=data, record=record) for data, record in zip(pictures, real, strict=True)])
    for answer, data in zip(answers, pictures, strict=True):
        bodies = [body for body in answer.record.instances if not body.is_crowd]
        said = [body.extras["pseudo_label"] for body in bodies]
        assert_found(said, predictor, data, [body.bbox_xywh for body in bodies], "coco", coco.skeleton)
