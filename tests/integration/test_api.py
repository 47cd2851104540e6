"""``import posecore as pc``: from a download to predictions, in one process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import posecore as pc
from posecore.errors import ConfigError, PredictionError, UsageError
from posecore.evaluation.arrays import GroundTruth
from posecore.synth.writers import write_dataset


def test_from_a_download_to_a_table_of_points(store_folder: Path, tmp_path: Path) -> None:
    write_dataset("mpii", tmp_path / "mpii", num_train=8, num_val=4, image_size=(96, 96), seed=0)
    tracking = f"sqlite:///{store_folder}/mlflow.db"
    config = {
        "name": "from-python",
        "run_folder": str(tmp_path / "run"),
        "data_folder": str(tmp_path),
        "tracking": {"uri": tracking},
        "datasets": [{"name": "mpii", "root": "mpii", "train": "train", "evaluate": "val"}],
        "model": {"backbone": "vit-nano", "head": {"kind": "classic", "channels": 8}, "input_size": [64, 48]},
        "training": {
            "steps": 9,
            "global_batch": 4,
            "engine": {"kind": "torch"},
            "evaluate_every": 1,
            "best": {"metric": "mpii/PCKh", "patience": 1},
        },
        "worst_cases": 0,
    }
    uri = pc.train(config, settings=["training.steps=1"])
    assert uri == "models:/from-python/1"
    assert config["training"]["steps"] == 9, "what was given stays as it is"

    split = pc.open_split(tmp_path / "run" / "shards" / "mpii" / "mpii" / "val")
    model = pc.load_model(uri, tracking_uri=tracking, batch_size=2)
    (folder,) = (tmp_path / "run" / "training").glob("*/*/model")
    boxes = GroundTruth.from_store(split).bbox_xywh[:1]
    pixels = np.asarray(Image.open(_file(split.read_image_bytes(0), tmp_path)))
    given = [pixels, torch.from_numpy(pixels.copy()), Image.fromarray(pixels), split.read_image_bytes(0)]
    answers = model.predict(given, [boxes] * len(given))
    for answer in answers[1:3]:
        assert np.array_equal(answer.keypoints, answers[0].keypoints)
    assert np.array_equal(pc.load_model(folder).predict(given[:1], [boxes])[0].keypoints, answers[0].keypoints)

    table = answers[0].to_frame()
    assert table.columns == ["body", "track", "body_score", "point", "x", "y", "score"]
    assert table["point"].to_list() == list(split.manifest.definition.skeleton.names)
    assert np.array_equal(table.select("x", "y").to_numpy(), answers[0].keypoints[0])
    (entry,) = answers[0].to_coco("a")
    assert np.array_equal(np.reshape(entry["keypoints"], (16, 3))[:, :2], answers[0].keypoints[0])
    assert (entry["image_id"], entry["score"]) == ("a", answers[0].scores[0])


def _file(data: bytes, folder: Path) -> Path:
    (folder / "picture").write_bytes(data)
    return folder / "picture"


def test_published_files_are_scored(tmp_path: Path) -> None:
    write_dataset("coco", tmp_path, num_train=1, num_val=3, image_size=(64, 64), seed=0)
    (truth,) = tmp_path.rglob("person_keypoints_val*.json")
    people = [body for body in json.loads(truth.read_text())["annotations"] if body["num_keypoints"]]
    exact = [
        {name: body[name] for name in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for body in people
    ]
    (tmp_path / "results.json").write_text(json.dumps(exact))
    scored = pc.score(tmp_path / "results.json", truth, "coco", resamples=0)
    assert (scored.primary, scored.metrics["AP"]) == ("AP", pytest.approx(1.0))


def test_what_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"load_model.*bach_size"):
        pc.load_model(tmp_path, bach_size=3)
    with pytest.raises(UsageError, match=r"no protocol is called 'cocoo'\. Did you mean coco\?"):
        pc.score(tmp_path, tmp_path, "cocoo")
    with pytest.raises(ConfigError, match="multidataset_train"):
        pc.train({"datasets": []})
    with pytest.raises(AttributeError, match="no attribute 'lode_model'; it offers adapt, "):
        _ = pc.lode_model
    assert {"train", "load_model", "__version__"} <= set(dir(pc))


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.new("I;16", (8, 8)), "image 0: an image of mode I;16 has no 8 bits per value"),
        (torch.zeros(3, 8, 8), r"image 0: an image is an array .* not \(3, 8, 8\) float32"),
        (7, "image 0: a int is no picture"),
    ],
)
def test_pictures_that_are_none_are_named(picture: object, said: str) -> None:
    from posecore.prediction.photos import read_picture

    with pytest.raises(PredictionError, match=said):
        read_picture(picture, "image 0")
