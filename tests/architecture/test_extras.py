"""What is installed without an extra works without it, and says which extra the rest needs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np

from posecore.extras import EXTRAS
from posecore.models.saving import save_model
from tests.support.tiny_training import tiny_model

ROOT = Path(__file__).resolve().parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE = """
import sys
sys.modules.update(dict.fromkeys({hidden}))
from posecore.__main__ import main
from posecore.cli import main
for command in {commands}:
    print("exit status", main(command), flush=True)
for name in set({hidden}) - {{"ray"}}:
    del sys.modules[name]
from posecore.cluster.launch import launched
print("exit status", launched(lambda machines: None))
"""


def test_a_message_names_the_extra_that_has_the_package() -> None:
    extras = METADATA["optional-dependencies"]
    for package, extra in EXTRAS.items():
        name = package.replace("_", "-")
        assert any(re.match(rf"{name}\b", requirement) for requirement in extras[extra]), package
        assert not any(re.match(rf"{name}\b", requirement) for requirement in METADATA["dependencies"]), package


def test_data_and_predictions_need_no_extra(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model")
    photo, model = str(tmp_path / "photo.jpg"), str(tmp_path / "model")
    cv2.imwrite(photo, np.full((64, 48, 3), 99, np.uint8))
    commands = [
        ["datasets", "list"],
        ["predict", photo, "--model", model, "--dataset", "people", "--out", str(tmp_path / "out")],
        ["lineage", "model", "pose", "3"],
        ["export", model, "--head", "people", "--out", str(tmp_path / "a.onnx")],
        ["train", "--help"],
        ["completion", "bash"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(hidden=sorted({*EXTRAS, "psutil"}), commands=commands)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout
    said = re.split(r"(?<=^exit status \d)\n", done.stdout, flags=re.MULTILINE)[:-1]
    assert [text[-1] for text in said] == ["0", "0", "1", "1", "1", "0", "1"], said
    assert "coco_wholebody" in said[0]
    assert any((tmp_path / "out").iterdir())
    assert "needs the package mlflow, which is not installed: pip install 'posecore[lineage]'." in said[2]
    assert "pip install 'posecore[export]'." in said[3]
    assert said[4].startswith("error: the lineage of models needs the package mlflow"), "a job"
    assert "--min-score" in said[5]
    assert "needs the package ray, which is not installed: pip install 'posecore[cluster]'." in said[6], "a job"
