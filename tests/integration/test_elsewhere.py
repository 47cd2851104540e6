"""The programs of docs/elsewhere.md, as they stand there, beside the predictor."""

import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from selenium.webdriver.support.ui import WebDriverWait

from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.export.onnx_file import export_onnx
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import build_model
from posecore.prediction.instances import ImagePrediction
from posecore.prediction.predictor import Predictor
from posecore.skeletons.library import load_skeleton
from tests.support.browser import opened

PAGE = Path(__file__).parents[2] / "docs" / "elsewhere.md"


def _program(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImagePrediction]:
    """A folder with ``pose.onnx`` and ``photo.png``, and what the predictor says of it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    torch.manual_seed(0)
    config = ModelConfig(backbone=CspnextConfig(deepen=0.1, widen=0.0625), head=RtmccHeadConfig(), input_size=(128, 96))
    model = build_model(config, {"coco": load_skeleton("coco17")}).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    export_onnx(model, "coco", folder / "pose.onnx", "picture")
    coarse = np.random.default_rng(3).integers(0, 256, (15, 20, 3)).astype(np.uint8)
    picture = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "photo.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return folder, Predictor(model).predict([picture])[0]


def test_twenty_lines_of_python(exported: tuple[Path, ImagePrediction]) -> None:
    folder, expected = exported
    command = [sys.executable, "-c", _program("python"), "pose.onnx", "photo.png"]
    printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in printed.splitlines()]
    assert [row[1] for row in rows] == list(expected.points)
    _compare(np.array([[float(value) for value in row[2:]] for row in rows]), expected)


@pytest.mark.browser
def test_a_page_in_a_browser(exported: tuple[Path, ImagePrediction], tmp_path: Path) -> None:
    folder, expected = exported
    runtime = os.environ.get("POSECORE_ONNXRUNTIME_WEB")
    if not runtime:
        pytest.skip("POSECORE_ONNXRUNTIME_WEB names no unpacked npm package onnxruntime-web")
    (folder / "index.html").write_text(_program("html"))
    (folder / "ort").symlink_to(Path(runtime) / "dist")
    handler = partial(_Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with opened(folder / "photo.png", tmp_path) as driver:
            driver.get(f"http://127.0.0.1:{server.server_port}/index.html")
            try:
                WebDriverWait(driver, 60).until(lambda page: page.find_element("id", "answer").text)
            except Exception:
                pytest.fail(f"the page gave no answer: {driver.get_log('browser')}")
            answer = json.loads(driver.find_element("id", "answer").text)
        server.shutdown()
    points = np.array(answer["keypoints"]).reshape(-1, 2)
    _compare(np.concatenate([points, np.array(answer["scores"])[:, None]], axis=1), expected)


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *arguments: object) -> None:
        return


def _compare(found: np.ndarray, expected: ImagePrediction) -> None:
    """(K, 3) x, y, score beside the only body's."""
    np.testing.assert_allclose(found[:, 2], expected.keypoint_scores[0], atol=0.02)
    assert np.quantile(np.abs(found[:, :2] - expected.keypoints[0]), 0.9) < 0.01
