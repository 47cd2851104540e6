import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from posecore.conventions import Conventions
from posecore.errors import ConfigError, PredictionError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.evaluation.results import DetectedBoxes
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig, SimpleHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.prediction.instances import Boxes
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.shards.store import ShardStore
from posecore.skeletons.library import load_skeleton
from tests.support.dot_worlds import HANDS, BlobModel, hands_definition, hands_store

UDP = Conventions(codec="udp", flip_shift=False)
MSRA = Conventions(codec="msra", flip_shift=True, padding=1.1)


def random_model(**conventions: Conventions) -> PoseModel:
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    skeletons = {"hands": HANDS, "coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")}
    return build_model(config, skeletons, conventions).eval()


@pytest.fixture(scope="module", params=[UDP, MSRA], ids=["udp", "msra"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardStore, PoseModel]:
    definition = hands_definition()
    return hands_store(tmp_path_factory.mktemp("hands"), definition), random_model(hands=request.param)


@pytest.mark.parametrize("flip_test", [False, True])
def test_answers_are_those_that_were_judged(world: tuple[ShardStore, PoseModel], flip_test: bool) -> None:
    """Evaluation on detected boxes, and the predictor on the same files and boxes: rescored, duplicates dropped."""
    store, model = world
    rng = np.random.default_rng(1)
    table = store.instances
    chosen = np.repeat(np.arange(len(table)), 3)
    image_rows = table["image_row"].to_numpy()[chosen]
    bbox_xywh = GroundTruth.from_store(store).bbox_xywh[chosen]
    bbox_xywh += rng.normal(0, 2, bbox_xywh.shape)
    scores = rng.uniform(0.1, 1, len(chosen))
    ids = store.images["source_id"].to_pylist()
    judged = predict_store(
        model,
        store,
        InferenceSettings(flip_test=flip_test, keypoint_threshold=0.0, batch_size=7),
        boxes=DetectedBoxes(
            image_ids=tuple(ids[row] for row in image_rows),
            bbox_xywh=bbox_xywh,
            scores=scores,
            category_id=np.ones(len(chosen), np.int64),
        ),
    )
    assert len(judged) < len(chosen), "the boxes must hold duplicates, or their suppression is not compared"

    predictor = Predictor(model, PredictorSettings(flip_test=flip_test, keypoint_threshold=0.0, batch_size=5))
    images = [store.read_image_bytes(row) for row in range(len(ids))]
    given = [Boxes(bbox_xywh[image_rows == row], scores[image_rows == row]) for row in range(len(ids))]
    found = predictor.predict(images, given, "hands")
    for row, prediction in enumerate(found):
        expected = judged.take(judged.image_row == row)
        np.testing.assert_allclose(prediction.keypoints, expected.keypoints, rtol=0, atol=1e-3)
        np.testing.assert_allclose(prediction.keypoint_scores, expected.keypoint_scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(prediction.scores, expected.scores, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(prediction.bbox_xywh, given[row].bbox_xywh[prediction.box_rows])


@pytest.mark.parametrize(("conventions", "limit"), [(UDP, 1.0), (MSRA.model_copy(update={"flip_shift": False}), 2.5)])
def test_blobs_are_found_in_every_kind_of_picture(conventions: Conventions, limit: float, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:200, :300]
    left, right = (200.0, 80.0), (120.0, 110.0)
    image = sum(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2)) for x, y in (left, right))
    pixels = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    (tmp_path / "photo.png").write_bytes(data)
    predictor = Predictor(BlobModel(conventions))
    boxes = [[(80, 40, 160, 110)]] * 4
    for prediction in predictor.predict([pixels, data, tmp_path / "photo.png", str(tmp_path / "photo.png")], boxes):
        np.testing.assert_allclose(prediction.keypoints, [[left, right]], atol=limit)
        assert prediction.scores[0] == pytest.approx(prediction.keypoint_scores.mean())
        assert prediction.box_scores.tolist() == [1.0]


def test_without_boxes_the_whole_image_is_one_body_and_without_a_body_there_is_none() -> None:
    predictor = Predictor(random_model())
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    whole, stated, nothing = predictor.predict([image] * 3, [None, [(0, 0, 70, 50)], []], "coco")
    np.testing.assert_array_equal(whole.keypoints, stated.keypoints)
    assert whole.keypoints.shape == (1, 17, 2)
    assert nothing.keypoints.shape == (0, 17, 2)
    assert len(nothing) == 0


def test_batches_are_filled_across_images_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (60, 60, 3), np.uint8) for _ in range(6)]
    boxes = [[(5 * n, 3, 30, 40) for n in range(count)] for count in (1, 0, 4, 2, 0, 5)]
    model = BlobModel(UDP)
    one_by_one = Predictor(model, PredictorSettings(batch_size=1)).predict(images, boxes)
    assert model.calls == 12
    model.calls = 0
    together = Predictor(model, PredictorSettings(batch_size=5)).predict(images, boxes)
    assert model.calls == 3
    for a, b in zip(one_by_one, together, strict=True):
        assert a.keypoints.shape == b.keypoints.shape
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-6)
        np.testing.assert_array_equal(a.box_rows, np.arange(len(a)))

    monkeypatch.setattr("posecore.prediction.predictor._PIXELS_IN_FLIGHT", 60 * 60)
    taken: list[int] = []

    def source():
        for number in range(6):
            taken.append(number)
            yield number, images[number], None

    for number, _ in Predictor(model, PredictorSettings(batch_size=100)).stream(source()):
        assert taken[-1] <= number + 2, "images wait for a batch beyond the limit"


def test_heads_with_equal_crops_share_one_backbone_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(hands=UDP, coco=UDP, mpii=MSRA)
    passes: list[int] = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    images = [np.random.default_rng(seed).integers(0, 255, (50, 70, 3), np.uint8) for seed in range(3)]
    predictor = Predictor(model, PredictorSettings(flip_test=True))
    found = predictor.predict_heads(images)
    assert len(passes) == 4, "two kinds of crops, twice each for the flip test"
    for head in ("hands", "coco", "mpii"):
        for several, alone in zip(found, predictor.predict(images, dataset=head), strict=True):
            assert several[head].head == head
            np.testing.assert_allclose(several[head].keypoints, alone.keypoints, atol=1e-6)


def test_a_head_is_named_by_its_dataset_or_its_skeleton() -> None:
    predictor = Predictor(random_model())
    assert predictor.head(None) == "hands"
    assert predictor.head("mpii") == predictor.head("mpii16") == "mpii"
    with pytest.raises(PredictionError, match=r"no head 'cats'; it has hands \(hands2, 2 points\), coco \(coco17, 17"):
        predictor.predict([np.zeros((9, 9, 3), np.uint8)], dataset="cats")


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((float("nan"), 0, 5, 5), "is not finite"),
        ((0, 0, float("inf"), 5), "is not finite"),
        ((0, 0, -5, 5), "has no width or no height"),
        ((0, 0, 5, 0), "has no width or no height"),
        ((70, 0, 5, 5), "lies outside the image of 70x50 pixels"),
        ((-5, 10, 5, 5), "lies outside the image"),
    ],
)
def test_a_box_that_cannot_be_cropped_is_named(box: tuple[float, ...], problem: str) -> None:
    image = np.zeros((50, 70, 3), np.uint8)
    with pytest.raises(PredictionError, match=rf"^image 1: box 1 \(.*\) {problem}"):
        Predictor(random_model()).predict([image, image], [None, [(0, 0, 9, 9), box]])


def test_a_box_may_reach_beyond_the_image() -> None:
    (found,) = Predictor(random_model()).predict([np.zeros((50, 70, 3), np.uint8)], [[(-20, -30, 60, 500)]])
    assert np.isfinite(found.keypoints).all()


def damaged(kind: str) -> bytes:
    good = cv2.imencode(".jpg" if "jpeg" in kind else ".png", np.full((40, 40, 3), 99, np.uint8))[1].tobytes()
    if kind == "huge png":
        body = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + good[33:]
    return {"text": b"GIF? no", "empty": b""}.get(kind, good[: len(good) * 2 // 3])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "neither a JPEG nor a PNG"),
        ("empty", "is empty"),
        ("cut jpeg", "ends before its JPEG end mark"),
        ("cut png", "ends before its PNG end mark"),
        ("huge png", "20000x20000 pixels are more than"),
    ],
)
def test_a_file_that_is_no_photo_is_explained(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(damaged(kind))
    predictor = Predictor(random_model())
    with pytest.raises(PredictionError, match=message) as of_bytes:
        predictor.predict([damaged(kind)])
    assert str(of_bytes.value).startswith("image 0: ")
    with pytest.raises(PredictionError, match=message) as of_file:
        predictor.predict([path])
    assert str(of_file.value).startswith(f"{path}: ")


def test_pixels_of_another_kind_and_missing_files_are_explained(tmp_path: Path) -> None:
    predictor = Predictor(random_model())
    for wrong in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(PredictionError, match=r"array \(height, width, 3\) of uint8 RGB"):
            predictor.predict([wrong])
    for one in ("absent.jpg", tmp_path / "absent.jpg", np.zeros((5, 5, 3), np.uint8), Image.new("RGB", (5, 5)), b"a"):
        with pytest.raises(PredictionError, match="put it into a list"):
            predictor.predict(one)  # type: ignore[arg-type]
    with pytest.raises(PredictionError, match="No such file"):
        predictor.predict([tmp_path / "absent.jpg"])
    with pytest.raises(PredictionError, match="1 list of boxes for 2 images"):
        predictor.predict([np.zeros((5, 5, 3), np.uint8)] * 2, [None])
    with pytest.raises(PredictionError, match=r"boxes of shape \(4,\)"):
        predictor.predict([np.zeros((5, 5, 3), np.uint8)], [[1, 2, 3, 4]])


def test_bfloat16_answers_nearly_the_same() -> None:
    images = [np.random.default_rng(seed).integers(0, 255, (64, 48, 3), np.uint8) for seed in range(2)]
    model = random_model()
    exact = Predictor(model).predict(images, dataset="coco")
    short = Predictor(model, PredictorSettings(precision="bfloat16")).predict(images, dataset="coco")
    for a, b in zip(exact, short, strict=True):
        np.testing.assert_allclose(a.keypoint_scores, b.keypoint_scores, rtol=0.05, atol=0.01)
        assert (a.keypoint_scores != b.keypoint_scores).any(), "bfloat16 was not used"


def test_a_compiled_model_answers_the_same_and_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # starting helpers takes longer than the work

    def tiny() -> PoseModel:
        torch.manual_seed(0)
        backbone = VitConfig(embed_dim=16, depth=1, num_heads=1)
        config = ModelConfig(backbone=backbone, head=SimpleHeadConfig(), input_size=(32, 32))
        return build_model(config, {"hands": HANDS})

    images = [np.random.default_rng(seed).integers(0, 255, (64, 48, 3), np.uint8) for seed in range(5)]
    plain = Predictor(tiny()).predict(images)
    counters.clear()
    found = Predictor(tiny(), PredictorSettings(compile=True, batch_size=4)).predict(images)
    assert counters["stats"]["unique_graphs"] == 2, "the backbone and one head, each for one batch size"
    for a, b in zip(plain, found, strict=True):
        np.testing.assert_allclose(a.keypoint_scores, b.keypoint_scores, atol=1e-5)
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=0.1)


def test_a_preset_means_the_one_model_published_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(source: str, *_: object) -> PoseModel:
        asked.append(source)
        return random_model()

    monkeypatch.setattr("posecore.prediction.predictor.read_weights", read)
    Predictor.load("sapiens2-0.8b")
    Predictor.load("vitpose-plus-base")
    assert asked == ["sapiens2-0.8b-308", "vitpose-plus-base"]


def test_every_path_to_heatmaps_answers_as_it_was_judged(world: tuple[ShardStore, PoseModel]) -> None:
    store, plain = world
    torch.manual_seed(0)
    config = plain.config.model_copy(update={"embedding": EmbeddingConfig(dim=8, channels=8)})
    model = build_model(config, plain.skeletons, plain.conventions).eval()
    images = [store.read_image_bytes(row) for row in range(len(store.images))]
    boxes, rows = GroundTruth.from_store(store).bbox_xywh, store.instances["image_row"].to_numpy()
    ids = tuple(store.images["source_id"].to_pylist()[row] for row in rows)
    ones = np.ones(len(rows))
    detected = DetectedBoxes(image_ids=ids, bbox_xywh=boxes, scores=ones, category_id=ones.astype(np.int64))
    answers = {}
    for path in ("regression", "prototypes", "average"):
        settings = InferenceSettings(path=path, keypoint_threshold=0.0, nms_threshold=None)
        judged = predict_store(model, store, settings, boxes=detected)
        predictor = Predictor(model, PredictorSettings(path=path, flip_test=True, keypoint_threshold=0.0))
        found = predictor.predict(images, [boxes[rows == row] for row in range(len(images))], "hands")
        answers[path] = np.concatenate([prediction.keypoint_scores for prediction in found])
        np.testing.assert_allclose(answers[path], judged.keypoint_scores, rtol=0, atol=1e-6)
    assert len({scores.tobytes() for scores in answers.values()}) == 3
    with pytest.raises(ConfigError, match="the model has no prototypes, which path average needs"):
        Predictor(plain, PredictorSettings(path="average"))
