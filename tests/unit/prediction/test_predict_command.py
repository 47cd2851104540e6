"""The command with real files: every kind of input and output, and nothing lost when some cannot be used."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import polars as pl
import pynwb
import pytest
import torch

import posecore as pc
from posecore.cli import main
from posecore.formats.nwb_pose import NwbPoseReader
from posecore.formats.reader import Source
from posecore.labels.plausibility import BodyScorer, learn_from_labels
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.prediction.outputs import TABLE
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.schema import Record
from posecore.skeletons.library import load_skeleton
from tests.support.clips import write_clip
from tests.support.onnx_files import binned
from tests.support.synthetic_bodies import synthetic_bodies


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=SimpleHeadConfig(), input_size=(64, 48))
    skeletons = {"coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")}
    return str(save_model(build_model(config, skeletons), tmp_path_factory.mktemp("model")))


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (60, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))
    return path


def walk(path: Path, num_frames: int = 12) -> Path:
    """A white block that moves to the right."""
    frames = np.full((num_frames, 120, 160, 3), 60, np.uint8)
    for index, frame in enumerate(frames):
        cv2.rectangle(frame, (10 + 5 * index, 20), (50 + 5 * index, 100), (255, 255, 255), -1)
    return write_clip(path, list(frames), frames_per_second=12.5)


def test_photos_of_16_bits_are_refused_unless_their_range_is_stated(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (60, 80), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    photo(tmp_path / "photo.png")
    command = ["predict", str(tmp_path / "*.png"), "--model", model, "--out", str(tmp_path / "out"), "--format", "coco"]
    assert main(command) == 1
    assert "deep.png: it has 16 bits per value" in capsys.readouterr().err
    assert main([*command, "--scale-range", "0:4095"]) == 0
    assert main([*command, "--scale-range", "4095:0"]) != 0
    assert "scale_range: two numbers from 0 to 65535, the lower first" in capsys.readouterr().err


def test_an_onnx_file_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "photo.png", size=(96, 64))
    file = binned(tmp_path / "pose.onnx")
    command = ["predict", str(tmp_path / "photo.png"), "--model", str(file), "--out", str(tmp_path / "out")]
    assert main([*command, "--format", "coco"]) == 0
    said = capsys.readouterr()
    assert "that the 16 points are those of mpii is guessed from their number; confirm it with --heads mpii" in said.err
    (guessed,) = json.loads((tmp_path / "out" / "coco_mpii.json").read_text())
    with pytest.warns(UserWarning, match="16 points are those of mpii is guessed .* heads={'mpii': 'mpii16'}"):
        model = pc.load_model(file)
    (direct,) = model.predict([cv2.imread(str(tmp_path / "photo.png"))[..., ::-1]])
    assert np.allclose(np.reshape(guessed["keypoints"], (16, 3))[:, :2], direct.keypoints[0], atol=0.01)
    assert main([*command, "--format", "coco", "--heads", "mine=mpii16"]) == 0
    assert "guessed" not in capsys.readouterr().err
    assert main([*command, "--heads", "mine=coco17"]) == 1
    assert "finds 16 points, but skeleton coco17 of 'mine' has 17" in capsys.readouterr().err
    assert main([*command, "--compile"]) == 1
    assert "compile: an ONNX file is run by onnxruntime as it is" in capsys.readouterr().err


def test_photos_that_viewers_show_turned_are_told_of(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "a.jpg")
    data = photo(tmp_path / "b.jpg").read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (2 + 6 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff
    (tmp_path / "b.jpg").write_bytes(data[:2] + segment + data[2:])
    command = ["predict", str(tmp_path / "*.jpg"), "--model", model, "--out", str(tmp_path / "out"), "--format", "coco"]
    assert main(command) == 0
    assert "note: stored turned or mirrored (EXIF): 1 photo, such as b.jpg; " in capsys.readouterr().err
    assert main([*command[:1], str(tmp_path / "a.jpg"), *command[2:]]) == 0
    assert "turned" not in capsys.readouterr().err


def test_one_photo_gets_its_skeleton_and_its_numbers(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = photo(tmp_path / "photo.png"), tmp_path / "out"
    assert main(["predict", str(path), "--model", model, "--out", str(out), "--min-score", "-10"]) == 0
    assert capsys.readouterr().out == f"1 body in 1 image by coco (17 points): see {out}\n"
    (expected,) = Predictor(load_model(model)).predict([path])
    (body,) = json.loads((out / "coco_coco.json").read_bytes())
    triplets = np.reshape(body["keypoints"], (17, 3))
    np.testing.assert_allclose(triplets[:, :2], expected.keypoints[0])
    np.testing.assert_allclose(triplets[:, 2], expected.keypoint_scores[0])
    assert (body["image_id"], body["file_name"], body["bbox"]) == (1, "photo.png", [0, 0, 80, 60])
    document = json.loads((out / "images.json").read_bytes())
    assert document["images"] == [{"id": 1, "file_name": "photo.png", "width": 80, "height": 60}]
    assert document["categories"]["coco"][0]["keypoints"] == list(load_skeleton("coco17").names)
    drawn, plain = cv2.imread(str(out / "drawn" / "photo.png")), cv2.imread(str(path))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


def test_a_folder_goes_on_past_what_cannot_be_used(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("x.jpg", "a/x.jpg", "b/x.png", "b/new\nline.jpg"):
        photo(root / name)
    (root / "text.jpg").write_text("no photo")
    (root / "cut.jpg").write_bytes(photo(root / "x.jpg").read_bytes()[:-500])
    (root / "none.mp4").touch()
    command = ["predict", str(root), "--model", model, "--out", str(out), "--dataset", "all"]
    for _ in range(2):  # a second time the results of the first lie in the folder
        assert main(command) == 1
        told = capsys.readouterr()
        assert "4 bodies in 4 images by coco (17 points), mpii (16 points); 3 could not be used" in told.out
        errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
        assert [name for name in ("cut.jpg", "text.jpg", "none.mp4") for line in errors if name in line] == [
            "cut.jpg", "text.jpg", "none.mp4",
        ]  # fmt: skip
    document = json.loads((out / "images.json").read_bytes())
    assert sorted(entry["file_name"] for entry in document["failed"]) == ["cut.jpg", "none.mp4", "text.jpg"]
    files = sorted(path.relative_to(out / "drawn").as_posix() for path in (out / "drawn").rglob("*") if path.is_file())
    assert files == ["a/x.jpg", "b/new\\nline.jpg", "b/x.png", "x.jpg"]
    assert sorted(path.name for path in out.iterdir()) == [
        "coco_coco.json", "coco_mpii.json", "drawn", "images.json", "predictions.parquet",
    ]  # fmt: skip
    table = pl.read_parquet(out / "predictions.parquet")
    assert table.columns == TABLE.names
    assert sorted(table["file_name"].unique()) == files
    assert table.filter(pl.col("head") == "mpii")["keypoint_x"].list.len().unique().to_list() == [16]


def test_boxes_of_a_file_are_answered_under_its_ids(model: str, tmp_path: Path) -> None:
    for number in (139, 285):
        photo(tmp_path / "val" / f"{number:012d}.png", number)
    detections = [
        {"image_id": 285, "category_id": 1, "bbox": [5, 5, 30, 40], "score": score} for score in (0.5, 0.9)
    ]  # the same box twice: one body
    (tmp_path / "boxes.json").write_text(json.dumps(detections))
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "val"), "--model", model, "--out", str(out), "--boxes"]
    assert main([*command, str(tmp_path / "boxes.json"), "--format", "coco"]) == 0
    (body,) = json.loads((out / "coco_coco.json").read_bytes())
    assert (body["image_id"], body["bbox"]) == (285, [5, 5, 30, 40])
    assert sorted(path.name for path in out.iterdir()) == ["coco_coco.json", "images.json"]


@pytest.mark.parametrize("box", ["100,5,10,10", "0,0,99999,10", "5,5,-3,10"])
def test_a_box_that_cannot_be_cropped_costs_its_image_only(
    box: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "in" / "a.png"), photo(tmp_path / "in" / "b.png")
    (tmp_path / "boxes.csv").write_text(f"image,x,y,w,h\na.png,{box}\nb.png,5,5,30,40\n")
    command = ["predict", str(tmp_path / "in"), "--model", model, "--out", str(tmp_path / "out")]
    assert main([*command, "--boxes", str(tmp_path / "boxes.csv")]) == 1
    told = capsys.readouterr()
    assert "1 body in 1 image" in told.out
    (line,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a.png: box 0 (")


def test_a_video_is_tracked_smoothed_and_drawn(model: str, tmp_path: Path) -> None:
    walk(tmp_path / "walk.avi")
    rows = [f"walk.avi,{frame},{10 + 5 * frame},20,40,80" for frame in range(12) if frame != 5]
    rows += [f"walk.avi,{frame},5,5,20,20" for frame in range(6, 12)]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,frame,x,y,w,h", *rows]))
    found = {}
    for how in ("--track", "--smooth"):
        out = tmp_path / how
        command = ["predict", str(tmp_path / "walk.avi"), "--model", model, "--out", str(out), how]
        command += ["--boxes", str(tmp_path / "boxes.csv"), "--format", "parquet", "drawn", "tracks", "nwb"]
        assert main(command) == 0
        found[how] = pl.read_parquet(out / "predictions.parquet")
    table = found["--track"]
    assert table.filter(pl.col("track_id") == 0)["frame_index"].to_list() == [*range(5), *range(6, 12)]
    assert table.filter(pl.col("track_id") == 1)["frame_index"].to_list() == list(range(6, 12))
    np.testing.assert_allclose(table["time_s"], table["frame_index"] / 12.5, atol=1e-3)
    plain, smooth = (
        np.array(found[how].filter(pl.col("track_id") == 0)["keypoint_x"].to_list()) for how in ("--track", "--smooth")
    )
    np.testing.assert_array_equal(plain[0], smooth[0])
    assert np.abs(np.diff(smooth, axis=0)).mean() < np.abs(np.diff(plain, axis=0)).mean()

    last = table.filter((pl.col("track_id") == 1) & (pl.col("frame_index") == 11)).row(0, named=True)
    folder = tmp_path / "--track" / "tracks"
    # As deeplabcut reads its own files.
    several = pd.read_csv(folder / "walk.avi.coco.deeplabcut.csv", header=[0, 1, 2, 3], index_col=0)
    assert several.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert several.index.tolist() == list(range(12))
    assert several[("posecore", "track_0", "nose", "x")].isna().tolist() == [frame == 5 for frame in range(12)]
    assert several.loc[11, ("posecore", "track_1", "right_ankle", "likelihood")] == last["keypoint_score"][16]
    flat = pl.read_csv(folder / "walk.avi.coco.sleap.csv")
    assert flat.columns[:6] == ["track", "frame_idx", "instance.score", "nose.x", "nose.y", "nose.score"]
    (row,) = flat.filter((pl.col("track") == "track_1") & (pl.col("frame_idx") == 11)).rows(named=True)
    assert [row["instance.score"], row["right_ankle.y"]] == [last["score"], last["keypoint_y"][16]]

    _is_the_same_in_nwb(folder / "walk.avi.coco.nwb", table)

    drawn = cv2.VideoCapture(str(out / "drawn" / "walk.avi.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 12.5
    shapes = []
    while (frame := drawn.read())[0]:
        shapes.append(frame[1].shape)
    assert shapes == [(120, 160, 3)] * 12
    assert int(drawn.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in (b"vp09", b"VP90", b"avc1", b"h264")


def _is_the_same_in_nwb(path: Path, table: pl.DataFrame) -> None:
    skeleton = load_skeleton("coco17")
    source = Source(
        dataset="walk", split="all", root=path.parent, annotations=path.name, images="", skeleton=skeleton,
        area_rule="box", license="none", options={"predictions": True},
    )  # fmt: skip
    records = [item for item in NwbPoseReader().read(source) if isinstance(item, Record)]
    assert [record.frame_index for record in records] == table["frame_index"].unique().sort().to_list()
    bodies = {(record.frame_index, body.track_id): body for record in records for body in record.instances}
    assert len(bodies) == len(table)
    for row in table.rows(named=True):
        body = bodies[row["frame_index"], f"track_{row['track_id']}"]
        np.testing.assert_allclose(body.keypoints[:, 0], row["keypoint_x"], rtol=1e-6)
        np.testing.assert_allclose(body.keypoints[:, 1], row["keypoint_y"], rtol=1e-6)

    with pynwb.NWBHDF5IO(str(path), "r") as file:
        behavior = file.read().processing["behavior"]
        assert behavior["Skeletons"]["coco17"].nodes[:].tolist() == list(skeleton.names)
        assert behavior["Skeletons"]["coco17"].edges[:].tolist() == [list(link) for link in skeleton.link_indices]
        track = behavior["track_1"]
        assert (track.source_video.external_file[:].tolist(), track.scorer) == (["walk.avi"], "posecore")
        wrist = track["left_wrist"]
        assert wrist.data.shape == (12, 2)
        assert np.isnan(wrist.data[:6]).all()
        np.testing.assert_allclose(wrist.timestamps[:], np.arange(12) / 12.5, atol=1e-3)
        point = skeleton.names.index("left_wrist")
        mine = table.filter(pl.col("track_id") == 1)["keypoint_score"].to_list()
        np.testing.assert_array_equal(wrist.confidence[6:], [scores[point] for scores in mine])
    assert pynwb.validate(path=str(path)) in ([], ([], 0))


def test_a_run_that_ends_early_leaves_no_half_written_file(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk(tmp_path / "walk.avi")
    out = tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("posecore.prediction.outputs.PredictionTable._flush", full)
    assert main(["predict", str(tmp_path / "walk.avi"), "--model", model, "--out", str(out)]) == 1
    assert [path for path in out.rglob("*") if path.is_file() and path.name != "walk.avi.mp4"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "vitpose-base-of-nobody"], "vitpose-base-of-nobody"),
        (["--model", "vit-nano"], "vit-nano is an architecture, and one without weights would guess"),
        (["--model", "rtmpose-t"], "of it (rtmpose-t-coco-256x192, dwpose-t-wholebody-256x192)."),
        (["--dataset", "cats"], "no head 'cats'; it has coco (coco17, 17 points), mpii"),
        (["--boxes", "absent.csv"], "absent.csv cannot be read"),
        (["--boxes", "other.csv"], "names 1 image (such as other.png), but none of those given"),
        (["--boxes", "other.csv", "--detector", "x"], "give one"),
        (["--model", "models:/pose@champion"], "nothing has been recorded at"),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    options: list[str], message: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photo(tmp_path / "photo.png")
    Path("other.csv").write_text("image,x,y,w,h\nother.png,1,1,5,5\n")
    assert main(["predict", "photo.png", "--model", model, *options]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not Path("predictions").exists()


@pytest.mark.samples
def test_a_real_photo_is_drawn(model: str, samples: Path, tmp_path: Path) -> None:
    path = sorted((samples / "coco").rglob("*.jpg"))[0]
    command = ["predict", str(path), "--model", model, "--out", str(tmp_path), "--min-score", "-10"]
    assert main(command) == 0
    drawn, plain = (
        cv2.imread(str(tmp_path / "drawn" / path.name)),
        cv2.imread(str(path), cv2.IMREAD_IGNORE_ORIENTATION | 1),
    )
    assert drawn.shape == plain.shape
    assert np.abs(drawn.astype(int) - plain).max() > 100


def test_a_batch_of_nothing_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "x.jpg", "--model", "m", "--batch-size", "0"])
    assert stopped.value.code == 2
    assert "--batch-size: 0 is not at least 1" in capsys.readouterr().err


def test_prototypes_answer_when_asked_and_only_where_there_are_any(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photo(tmp_path / "photo.png")
    torch.manual_seed(0)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, input_size=(64, 48), embedding=EmbeddingConfig(dim=8, channels=8))
    folder = str(save_model(build_model(config, {"coco": load_skeleton("coco17")}), tmp_path / "model"))
    command = ["predict", str(path), "--format", "coco", "--path", "prototypes", "--out"]
    assert main([*command, str(tmp_path / "out"), "--model", folder]) == 0
    (body,) = json.loads((tmp_path / "out" / "coco_coco.json").read_bytes())
    (expected,) = Predictor(load_model(folder), PredictorSettings(path="prototypes")).predict([path])
    np.testing.assert_allclose(np.reshape(body["keypoints"], (17, 3))[:, 2], expected.keypoint_scores[0])
    assert main([*command, str(tmp_path / "none"), "--model", model]) == 1
    assert "error: the model has no prototypes, which path prototypes needs" in capsys.readouterr().err


def test_the_table_says_how_plausible_bodies_are_for_a_population(model: str, tmp_path: Path) -> None:
    skeleton = load_skeleton("coco17")
    statistics = learn_from_labels(*(array[:60] for array in synthetic_bodies("infant", 100)), skeleton)
    source = statistics.save(tmp_path / "infants.json")
    path, out = photo(tmp_path / "photo.png"), tmp_path / "out"
    command = ["predict", str(path), "--model", model, "--out", str(out), "--format", "parquet", "--dataset", "all"]
    assert main([*command, "--plausibility", str(source), "--min-score", "-10"]) == 0
    table = pl.read_parquet(out / "predictions.parquet")
    scorer = BodyScorer(statistics, skeleton)
    points = np.stack([table["keypoint_x"][0].to_numpy(), table["keypoint_y"][0].to_numpy()], axis=-1)
    expected = scorer.plausibility(points[None], np.ones((1, 17), bool))[0]
    assert table["plausibility"][0] == pytest.approx(expected)
    assert 0 <= table["plausibility"][1] <= 1, "MPII's limbs are known by the same names"
    assert main([*command, "--plausibility", str(source), "--min-score", "1e9"]) == 0
    assert pl.read_parquet(out / "predictions.parquet")["plausibility"].to_list() == [None, None]
    assert main([*command, "--plausibility", str(tmp_path / "none.json")]) == 1
