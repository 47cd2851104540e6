"""What each command imports of the packages that take long: what nobody asked for is not waited for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.models.saving import save_model
from tests.support.tiny_training import tiny_model

ROOT = Path(__file__).resolve().parents[2]
LARGE = {
    *(
        "av",
        "cv2",
        "deepspeed",
        "fsspec",
        "h5py",
        "huggingface_hub",
        "jinja2",
        "mlflow",
        "numpy",
        "onnx",
        "onnxruntime",
    ),
    *("openvino", "pandas", "peft", "PIL", "polars", "pyarrow", "pydantic", "ray", "rich", "scipy", "sympy", "torch"),
    *("torch._dynamo", "transformers"),
}
SETTINGS = {"fsspec", "numpy", "pydantic"}
"""What nothing that reads a configuration does without."""
CODE = """
import json, sys
import posecore
if arguments := sys.argv[1:]:
    from posecore.cli import main
    try:
        main(arguments)
    except SystemExit:  # of --help
        pass
print(json.dumps(sorted(sys.modules)))
"""


def imported(arguments: list[str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return LARGE & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], set()), (["--help"], set()), (["predict", "--help"], set()), (["models", "list"], {*SETTINGS, "rich"})],
    ids=["nothing", "help", "help of a command", "list of models"],  # processes that share the tests must agree on them
)
def test_what_says_something_imports_no_more_than_that_takes(arguments: list[str], expected: set[str]) -> None:
    assert imported(arguments) == expected


def test_a_picture_takes_torch_and_neither_its_compiler_nor_clients_of_servers(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model")
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((64, 48, 3), 99, np.uint8))
    arguments = ["predict", str(tmp_path / "photo.jpg"), "--model", str(tmp_path / "model"), "--format", "drawn"]
    found = imported([*arguments, "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out" / "drawn").iterdir())
    assert found == {*SETTINGS, "cv2", "pyarrow", "torch"}
