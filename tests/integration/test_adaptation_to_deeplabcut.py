"""From a model that knows people to its child for a real DeepLabCut project, with which it shares no point."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines.adapt import main
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.skeletons.library import load_skeleton

RUN_FILE = Path(__file__).resolve().parents[2] / "pipelines" / "configs" / "adapt_deeplabcut.yaml"
MEAN_PLACE_PX = 105
"""Mean error of answering every point's mean place in the training frames, which no picture is needed for."""


@pytest.fixture
def run_file(tmp_path: Path, samples: Path, store_folder: Path) -> Path:
    """The published run file, for a tiny parent that has learned nothing yet."""
    torch.manual_seed(0)
    backbone = VitConfig(embed_dim=48, depth=2, num_heads=4, patch_size=8, patch_padding=0)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=16), input_size=(64, 64), heatmap_sigma=1.5)
    parent = save_model(build_model(config, {"coco": load_skeleton("coco17")}), tmp_path / "parent")
    values: dict[str, Any] = yaml.safe_load(RUN_FILE.read_text())
    values |= {
        "name": "little-mouse",
        "run_folder": str(tmp_path / "run"),
        "data_folder": str(samples / "dlc_reaching"),
        "tracking": {"uri": f"sqlite:///{store_folder}/mlflow.db", "experiment": "mouse"},
        "parent": str(parent),
    }
    values["training"] |= {"steps": 80, "checkpoint_every": 80, "progress": False}
    values["training"]["schedule"]["warmup_steps"] = 10
    values["training"]["optimizer"]["lr"] = 3e-3
    path = tmp_path / "mouse.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.samples
def test_a_head_that_begins_at_chance_must_be_asked_for(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(run_file), "--set", "allow_fresh_head=false"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "dlc_reaching_joystick2, none of which the parent knows (its heads: coco)" in line
    assert "set allow_fresh_head: true" in line


@pytest.mark.slow
@pytest.mark.samples
@pytest.mark.usefixtures("this_process")
def test_forty_frames_teach_where_the_points_are(run_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(run_file)]) == 0
    said = capfd.readouterr().out
    assert "note      deeplabcut: its head begins at chance, so the parent is not compared on it." in said

    run = run_file.parent / "run"
    (before,), (after,) = (
        [json.loads(path.read_text())["deeplabcut"] for path in run.glob(f"**/evaluation/{who}/metrics.json")]
        for who in ("parent", "child")
    )
    assert after["mean_error_px"] < MEAN_PLACE_PX < before["mean_error_px"]
    assert "holds     deeplabcut/mean_error_px is" in said
    assert "verdict   may be promoted" in said

    page = Path(re.findall(r"report    (\S+)", said)[0]).read_text()
    (row,) = re.findall(r"<tr><td>deeplabcut</td>.*?</tr>", page, re.DOTALL)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row) == [
        "deeplabcut",
        "mean_error_px",
        "–",
        f"{after['mean_error_px']:.4f}",
        "–",
    ]
    assert "Joystick2" in page

    child = load_model(re.findall(r"\(folder (\S+)\)", said)[0])
    assert child.skeletons.keys() == {"coco", "deeplabcut"}
    assert child.conventions["deeplabcut"].padding == 1.0
