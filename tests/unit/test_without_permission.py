"""Files and folders of somebody else: every command says which may not be read or written, in one sentence."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from posecore.cli import main
from posecore.synth.writers import write_dataset
from posecore.viz.encoded import encode_jpeg
from tests.support.without_privilege import without_privilege

REFUSED = {
    "datasets check coco --root closed": "closed/annotations/person_keypoints_train2017.json",
    "datasets check coco --root unreadable": "unreadable/annotations/person_keypoints_val2017.json",
    "datasets show coco --root unreadable --out y": "unreadable/annotations/person_keypoints_train2017.json",
    "datasets show coco --root coco --out fixed/y": "fixed/y",
    "datasets new --from closed": "closed/",
    "datasets new --from file.json": "file",
    "datasets export split --format coco --out y": "split/manifest.json",
    "datasets augmentations split --out y": "split/manifest.json",
    "ingest --dataset coco --split train --root closed --out y": "closed/annotations/person_keypoints_train2017.json",
    "ingest --dataset coco --split train --root unreadable --out y --dry-run": "person_keypoints_train2017.json",
    "train --data coco=unreadable --model vit-nano --dry-run": "person_keypoints_train2017.json",
    "train --data coco=coco --model vit-nano --set run_folder=fixed/y": "fixed/y",
    "train --data coco=coco --model vit-nano --set run_folder=fixed_run": "fixed_run",
    "train --data coco=coco --model vit-nano --weights model --name x": "model/model",
    "train --config file": "file",
    "evaluate --model model --store coco=split --out y --dry-run": "model/model.json",
    "models show model": "model/model.json",
    "models show closed": "closed/model.json",
    "export model --out x.onnx": "model/model.json",
    "calibrate model split --out y": "split/manifest.json",
    "predict photo.jpg --model model --out y": "model/model.json",
    "predict closed --model model --out y": "closed",
    "score file --truth coco/annotations/person_keypoints_val2017.json --protocol coco": "file",
    "score closed --truth coco/annotations/person_keypoints_val2017.json --protocol coco": "closed",
    "audit split split": "split/manifest.json",
    "labels learn split --out y": "split/manifest.json",
    "labels agreement file.json file.json": "file",
    "labels next closed --pictures . --out y": "closed/images.json",
    "synth --dataset coco --out fixed/y --num-train 1 --num-val 0": "fixed/y",
    "synth-sheet --out fixed/y.jpg": "fixed",
    "view split": "split/manifest.json",
    "lineage --folder closed_run model x 1": "closed_run/mlflow.db",
    "lineage --folder fixed_run send": "fixed_run",
    "promote --folder fixed_run --model x --version 1": "fixed_run",
    "compare models:/x/1 models:/x/2 --folder closed_run": "closed_run/mlflow.db",
    "certify models:/x/1 --folder closed_run --never-saw a/b": "closed_run/mlflow.db",
    "withdraw --folder fixed_run --dataset coco": "fixed_run",
    "rerun models:/x/1 --folder closed_run --out y": "closed_run/mlflow.db",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, and what may not be read (``closed``, ``unreadable`` …) or written (``fixed``)."""
    folder = tmp_path_factory.mktemp("place")
    write_dataset("coco", folder / "coco", num_train=1, num_val=1, image_size=(64, 64))
    shutil.copytree(folder / "coco", folder / "unreadable")
    (folder / "photo.jpg").write_bytes(encode_jpeg(np.zeros((32, 32, 3), np.uint8)))
    for name in (
        "model/model.json",
        "split/manifest.json",
        "closed_run/mlflow.db",
        "fixed_run/mlflow.db",
        "file",
        "file.json",
        "model/model.safetensors",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for name in ("closed", "fixed"):
        (folder / name).mkdir()
    modes = {
        "model/model.json": 0,
        "split/manifest.json": 0,
        "file": 0,
        "file.json": 0,
        "model/model.safetensors": 0,
        "closed_run/mlflow.db": 0,
        "closed": 0,
    }
    modes |= {"fixed": 0o555, "fixed_run/mlflow.db": 0o444, "fixed_run": 0o555}
    modes |= {str(path): 0 for path in (folder / "unreadable" / "annotations").iterdir()}
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    return folder


@pytest.mark.parametrize(("command", "named"), REFUSED.items())
def test_what_is_somebody_elses_is_named_in_one_sentence(
    command: str, named: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with without_privilege():
        assert main(shlex.split(command)) == 1
    said = capfd.readouterr()
    (line,) = [line for line in said.err.splitlines() if "error: " in line] or [line for line in said.out.splitlines()][
        -1:
    ]
    assert named in line
    assert any(word in line for word in ("you may not", "Permission denied")), line
