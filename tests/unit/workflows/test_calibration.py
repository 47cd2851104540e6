"""From a split to a model's card, and from there to tables, pictures and frames."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch

import posecore as pc
from posecore.cli import main
from posecore.codecs.grouping import GroupingConfig
from posecore.codecs.scene import SceneReading, SelectionConfig
from posecore.errors import ConfigError, EvaluationError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, PredictionTask, predict_store
from posecore.evaluation.results import DetectedBoxes
from posecore.evaluation.uncertainty import UncertaintyResult
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, read_card, save_model
from posecore.models.uncertainty import HeadUncertainty
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.shards.store import ShardStore
from posecore.workflows.calibration import calibrate
from posecore.workflows.evaluation import _trusted, evaluate_stores
from posecore.workflows.without_ray import ThisProcess
from tests.support.dot_worlds import HANDS, hands_definition, hands_store
from tests.support.scene_worlds import SceneBlobModel, SceneSetModel, scene_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return hands_store(tmp_path_factory.mktemp("hands"), hands_definition(), num_images=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    save_model(build_model(config, {"hands": HANDS}), tmp_path / "model")
    return tmp_path / "model"


def test_a_calibrated_model_says_how_sure_it_is(
    store: ShardStore, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), cv2.imdecode(np.frombuffer(store.read_image_bytes(0), np.uint8), cv2.IMREAD_COLOR))
    command = ["predict", str(picture), "--model", str(folder), "--min-score", "0", "--out", str(tmp_path / "before")]
    assert main(command) == 0
    before = pl.read_parquet(tmp_path / "before" / "predictions.parquet")
    assert before["keypoint_radius"].is_null().all()
    assert "uncertainty" not in json.loads((tmp_path / "before" / "images.json").read_text())

    weights = (folder / "model.safetensors").read_bytes()
    assert main(["calibrate", str(folder), str(store.location)]) == 0
    said = capsys.readouterr().out
    assert "hands, without flip test: 90 % within" in said
    assert "for a point of a new image, by 40 points of 10" in said
    assert "nothing is said of which points are visible" in said
    assert (folder / "model.safetensors").read_bytes() == weights
    found = read_card(folder).uncertainty
    assert [(each.head, each.flip_test) for each in found] == [("hands", False), ("hands", True)]
    assert load_model(folder).card.uncertainty == found
    assert main(["models", "show", str(folder)]) == 0
    assert "hands, with flip test, on hands val, 0.9 of the points of a new image" in capsys.readouterr().out
    assert main(["calibrate", str(folder), str(store.location), "--level", "0.8"]) == 0
    assert [each.level for each in read_card(folder).uncertainty] == [0.8, 0.8], "the newest counts"

    command[-1] = str(tmp_path / "after")
    assert main(command) == 0
    after = pl.read_parquet(tmp_path / "after" / "predictions.parquet")
    assert after["keypoint_x"].equals(before["keypoint_x"])
    told = json.loads((tmp_path / "after" / "images.json").read_text())["uncertainty"]
    assert told == {"hands": {"radius_probability": 0.8, "of_a_new": "image", "calibrated_on": "hands val"}}
    (radius,), (sigma,) = after["keypoint_radius"].to_list(), after["keypoint_sigma_x"].to_list()
    assert all(value > 0 for value in (*radius, *sigma))
    assert after["keypoint_visible"].to_list() == [[None, None]]
    drawn = [cv2.imread(str(tmp_path / when / "drawn" / "photo.png")) for when in ("before", "after")]
    assert (drawn[0] != drawn[1]).any()

    model = pc.load_model(folder, flip_test=True)
    (people,) = model.predict([picture])
    frame = people.to_frame()
    assert frame.columns[-5:] == ["sigma_x", "sigma_y", "rho", "visible", "radius"]
    assert frame["radius"].to_list() == people.uncertainty.radius[0].tolist()
    assert frame["visible"].is_null().all()


def test_an_evaluation_says_whether_promises_were_kept(store: ShardStore, folder: Path, tmp_path: Path) -> None:
    stores = {"hands": store.location}
    settings = InferenceSettings(batch_size=4)
    before = evaluate_stores(ThisProcess(), folder, stores, settings, out=tmp_path / "before", worst_cases=0)
    assert not before.uncertainty
    assert "How far off it says it is" not in before.report.read_text()
    assert main(["calibrate", str(folder), str(store.location)]) == 0
    after = evaluate_stores(ThisProcess(), folder, stores, settings, out=tmp_path / "after", worst_cases=0)
    figures = after.metrics["hands"]
    assert {"coverage90", "ellipse90"} <= set(figures) - set(before.metrics["hands"])
    assert figures["coverage90"] >= 0.9, "judged on what was fitted to"
    written = after.uncertainty_files["hands"].read_bytes()
    assert UncertaintyResult.from_json(written, "x").headline() == after.uncertainty["hands"].headline()
    page = after.report.read_text()
    assert "90 % of the points of a new image were promised to lie" in page
    assert "left_hand" in page
    assert predict_store(load_model(folder), store, settings).covariances is None, "nobody asked"


def test_what_was_found_of_other_weights_is_not_kept(store: ShardStore, folder: Path, tmp_path: Path) -> None:
    assert main(["calibrate", str(folder), str(store.location), "--out", str(tmp_path / "copy")]) == 0
    assert not read_card(folder).uncertainty
    model = load_model(tmp_path / "copy")
    assert len(model.card.uncertainty) == 2
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    save_model(model, tmp_path / "trained")
    assert not read_card(tmp_path / "trained").uncertainty


def test_bodies_of_whole_pictures_are_calibrated_by_the_answers_meant_for_them(tmp_path: Path) -> None:
    store = scene_store(tmp_path / "scenes", hands_definition())
    model = SceneSetModel()
    folder = save_model(model, tmp_path / "model")
    found = calibrate(folder, model, store, level=0.5)
    assert [(each.flip_test, each.whole.points, each.whole.units) for each in found] == [(False, 12, 3), (True, 12, 3)]
    assert read_card(folder).uncertainty == tuple(found)

    settings = InferenceSettings(uncertainty=True)
    predictions, truth = predict_store(model, store, settings), GroundTruth.from_store(store)
    assert predictions.covariances is not None
    offs, sizes = [], []
    for row, points in zip(truth.image_row, truth.keypoints, strict=True):
        answers = np.flatnonzero(predictions.image_row == row)
        nearest = answers[np.abs(predictions.keypoints[answers] - points).sum(axis=(1, 2)).argmin()]
        for error, covariance in zip(
            predictions.keypoints[nearest] - points, predictions.covariances[nearest], strict=True
        ):
            offs.append(np.hypot(*error) / np.sqrt(np.trace(covariance) / 2))
            sizes.append(error @ np.linalg.solve(covariance, error) / 2)
    assert found[1].whole.scale == pytest.approx(np.mean(sizes), rel=1e-6)
    assert found[1].whole.radius in [pytest.approx(off) for off in offs]

    (served,) = Predictor(model, PredictorSettings(uncertainty=True, flip_test=True)).predict(
        [store.read_image_bytes(3)]
    )
    own = predictions.take(predictions.image_row == 3)
    assert served.uncertainty is not None
    assert served.uncertainty.level == 0.5
    expected = found[1].apply(own.covariances, own.keypoint_scores)  # type: ignore[arg-type]
    np.testing.assert_allclose(served.uncertainty.radius, expected.radius, rtol=1e-3)

    task = PredictionTask(store=store, head="hands", settings=settings, whole_scenes=True)
    judged = _trusted(task, truth, predictions, model.card)
    assert judged is not None
    assert judged.whole.points == 12
    assert judged.headline()["coverage50"] >= 0.5
    others = predictions.take(np.arange(len(predictions)) != np.flatnonzero(predictions.image_row == 2)[0])
    boxes = DetectedBoxes(
        image_ids=others.image_ids[:1],
        bbox_xywh=np.array([[0.0, 0, 9, 9]]),
        scores=np.ones(1),
        category_id=np.ones(1, np.int64),
    )
    for each in (task, replace(task, whole_scenes=False, boxes=boxes)):
        judged = _trusted(each, truth, others, model.card)
        assert judged is not None
        assert judged.whole.points == 10, "of a body that was missed nothing was promised"
    nobody = predictions.take(np.zeros(len(predictions), bool))
    assert _trusted(task, truth, nobody, model.card) is None

    alone = scene_store(tmp_path / "alone", hands_definition(), (3,))
    with pytest.raises(EvaluationError, match="all labelled points are of one image, 0, which says nothing of others"):
        calibrate(folder, model, alone)


def test_bodies_that_were_put_together_are_calibrated_too(tmp_path: Path) -> None:
    store = scene_store(tmp_path / "scenes", hands_definition())
    model = SceneBlobModel()
    folder = save_model(model, tmp_path / "model")
    found = calibrate(folder, model, store, level=0.5)
    assert [(each.flip_test, each.whole.points, each.whole.units) for each in found] == [(False, 12, 3), (True, 12, 3)]
    settings = InferenceSettings(uncertainty=True, flip_test=False)
    predictions, truth = predict_store(model, store, settings), GroundTruth.from_store(store)
    task = PredictionTask(store=store, head="hands", settings=settings, whole_scenes=True)
    judged = _trusted(task, truth, predictions, model.card)
    assert judged is not None
    assert judged.whole.points == 12
    assert judged.headline()["coverage50"] >= 0.5
    (served,) = Predictor(model).predict([store.read_image_bytes(3)])
    own = predictions.take(predictions.image_row == 3)
    assert served.uncertainty is not None
    expected = found[0].apply(own.covariances, own.keypoint_scores)  # type: ignore[arg-type]
    np.testing.assert_allclose(served.uncertainty.radius, expected.radius, rtol=1e-3)

    # Of a point that was not found nothing was promised.
    assert predictions.covariances is not None
    spread = predictions.covariances.copy()
    spread[np.flatnonzero(predictions.image_row == 2)[0], 1] = np.nan
    judged = _trusted(task, truth, replace(predictions, covariances=spread), model.card)
    assert judged is not None
    assert judged.whole.points == 11
    nowhere = replace(predictions, covariances=np.full_like(spread, np.nan))
    assert _trusted(task, truth, nowhere, model.card) is None, "and of none nothing is to be judged"


def test_what_was_fitted_to_bodies_that_were_read_in_one_way_is_promised_of_no_others(tmp_path: Path) -> None:
    store = scene_store(tmp_path / "scenes", hands_definition())
    model = SceneBlobModel()
    folder = save_model(model, tmp_path / "model")
    higher, of_others = GroupingConfig(peak_threshold=0.3), SelectionConfig(least_score=0.5)
    found = calibrate(folder, model, store, level=0.5, reading=SceneReading(grouping=higher, selection=of_others))
    assert [each.how for each in found] == [f"{flip} flip test, peak_threshold 0.3" for flip in ("without", "with")]
    assert read_card(folder).uncertainty == tuple(found)
    assert Predictor(model).promised("hands") is None
    (silent,) = Predictor(model).predict([store.read_image_bytes(3)])
    assert silent.uncertainty is None
    with pytest.raises(ConfigError, match="not calibrated for answers without flip test, by regression; calibrate it"):
        Predictor(model, PredictorSettings(uncertainty=True))
    assert Predictor(model, PredictorSettings(grouping=higher)).promised("hands") == found[0], "no matter of selections"
    settings = InferenceSettings(uncertainty=True, flip_test=False)
    predictions, truth = predict_store(model, store, settings), GroundTruth.from_store(store)
    for each, kept in ((settings, False), (settings.model_copy(update={"grouping": higher}), True)):
        task = PredictionTask(store=store, head="hands", settings=each, whole_scenes=True)
        assert (_trusted(task, truth, predictions, model.card) is not None) == kept

    usual = calibrate(folder, model, store, level=0.5)
    assert read_card(folder).uncertainty == (*found, *usual), "each way has its own"
    assert Predictor(model).promised("hands") == usual[0]
    with pytest.raises(ConfigError, match=r"for answers without flip test, by regression, peak_threshold 0.2; calibr"):
        Predictor(model, PredictorSettings(uncertainty=True, grouping=GroupingConfig(peak_threshold=0.2)))
    old = usual[0].model_dump(exclude={"reading"})
    assert HeadUncertainty.model_validate(old) == usual[0], "cards that do not say it were made with the defaults"


def test_what_cannot_be_said_is_refused(
    store: ShardStore, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="not calibrated for answers with flip test, by regression; calibrate it"):
        Predictor(load_model(folder), PredictorSettings(uncertainty=True, flip_test=True))
    assert main(["calibrate", "vitpose-s", str(store.location)]) == 2
    assert "say with --out where the copy goes" in capsys.readouterr().err
    assert main(["calibrate", str(folder), str(store.location), "--level", "90"]) == 2
    assert "--level 90: a probability lies between 0 and 1" in capsys.readouterr().err
    few = hands_store(tmp_path / "few", hands_definition(), num_images=5)
    assert main(["calibrate", str(folder), str(few.location)]) == 1
    assert "5 images are too few to promise 90 % for a new one, which takes 9" in capsys.readouterr().err
    assert main(["calibrate", str(folder), str(store.location)]) == 0
    with pytest.raises(ConfigError, match=r"view=side: .* hands val, which has no groups"):
        pc.load_model(folder, groups={"view": "side"})
    of_scenes = PredictorSettings(uncertainty=True, grouping=GroupingConfig(peak_threshold=0.3))
    assert Predictor(load_model(folder), of_scenes).promised("hands") is not None, "crops have no peaks to group"
    off = pc.load_model(folder, uncertainty=False)
    assert off.predict([np.zeros((64, 48, 3), np.uint8)])[0].uncertainty is None
