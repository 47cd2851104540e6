"""The examples of docs/extending.md, each in a file of its own, through the main job."""

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import posecore as pc
from posecore import doors
from posecore.cli import main
from posecore.config import load_config
from posecore.errors import ConfigError
from posecore.lineage.ancestry.measurements import MeasuredOn, Measurement
from posecore.lineage.registry.gates import Held, check_figures
from posecore.lineage.registry.policies import Policies
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.models.architecture import ModelConfig
from posecore.models.saving import read_card, save_model
from posecore.synth.writers import write_dataset
from posecore.training.context import LocalContext
from posecore.training.engine import DeepSpeedEngineConfig, TorchEngineConfig
from posecore.training.loop import TrainingConfig
from tests.support.checkpoints import load_checkpoint, newest
from tests.support.tiny_training import Stopped, stop_at, tiny_model, tiny_training

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL))
SETTINGS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
MOST_LINES = 40


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's modules, from which they can be imported, although nobody has."""
    folder = tmp_path_factory.mktemp("extensions")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    before = os.environ.pop(doors.EXTENSIONS, None)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))
    for name in MODULES:
        sys.modules.pop(name, None)
    os.environ.pop(doors.EXTENSIONS, None)
    if before is not None:
        os.environ[doors.EXTENSIONS] = before


def _run_file(folder: Path) -> dict[str, Any]:
    write_dataset("mpii", folder / "mpii", num_train=8, num_val=4, image_size=(96, 96), seed=0)
    entry: dict[str, Any] = {"name": "mpii", "root": "mpii", "train": "train", "evaluate": "val"}
    values: dict[str, Any] = {
        "name": "extended",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder),
        "datasets": [entry],
        "model": {"head": {"kind": "classic", "channels": 8}, "input_size": [64, 48]},
        "training": {"steps": 2, "global_batch": 4, "engine": {"kind": "torch"}},
        "worst_cases": 0,
    }
    for text in SETTINGS:
        settings = yaml.safe_load(text)
        if "policies" in settings:
            continue
        if "evaluation" in settings:
            entry["changes"] = settings
            settings = {}
        for name, value in settings.items():
            values[name] = {**values[name], **value} if name in values else value
    return values


def test_no_example_is_longer_than_forty_lines() -> None:
    assert len(MODULES) >= 3
    assert {name: len(text.splitlines()) for name, text in MODULES.items() if len(text.splitlines()) > MOST_LINES} == {}


def test_the_examples_train_judge_and_register_a_model(
    extensions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(_run_file(tmp_path)))
    first = _steps_of(run_file, capsys)
    assert set(first.values()) == {"ran"}
    (folder,) = (tmp_path / "run" / "training").glob("*/*/model")
    card = read_card(folder)
    assert card.architecture.backbone.kind == "my_backbone:Dinov2"
    assert card.lineage["extensions"].keys() == {
        "my_augmentation:Salt",
        "my_backbone:Dinov2",
        "my_head:Shuffle",
        "my_loss:Wing",
        "my_optimizer:Muon",
        "my_schedule:InverseRoot",
    }
    (report,) = folder.parent.glob("further/*/report.txt")
    assert report.read_text().startswith("mpii 0.")

    assert set(_steps_of(run_file, capsys).values()) == {"reused"}
    with (extensions / "my_metric.py").open("a") as file:
        file.write("\nUSED = True\n")
    ran = {name for name, how in _steps_of(run_file, capsys).items() if how == "ran"}
    assert "evaluate:mpii" in ran
    assert "train" not in ran, "a step runs again if the code of an extension of it has changed, and no other does"
    with (extensions / "my_loss.py").open("a") as file:
        file.write("\nUSED = True\n")
    assert _steps_of(run_file, capsys)["train"] == "ran"


def test_a_run_goes_on_with_what_an_optimizer_of_ones_own_keeps(extensions: Path, tmp_path: Path) -> None:
    kind = importlib.import_module("my_optimizer").Muon
    training = {"optimizer": kind(lr=1e-3)}
    tiny_training(LocalContext(tmp_path / "a"), TorchEngineConfig(), training=training)
    with pytest.raises(Stopped):
        tiny_training(LocalContext(tmp_path / "b"), TorchEngineConfig(), training=training, before_step=stop_at(5))
    tiny_training(LocalContext(tmp_path / "b"), TorchEngineConfig(), training=training)
    whole, resumed = (load_checkpoint(newest(tmp_path / run))[0] for run in "ab")
    assert whole.weights.keys() == resumed.weights.keys()
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in whole.weights.items())
    with pytest.raises(ValueError, match="DeepSpeed keeps the state of AdamW alone, and this is my_optimizer:Muon"):
        TrainingConfig(steps=1, global_batch=1, engine=DeepSpeedEngineConfig(), **training)


def test_a_format_of_ones_own_is_exported_to(
    extensions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    save_model(model, tmp_path / "model")
    command = ["export", str(tmp_path / "model"), "--head", "dogs", "--folder", str(tmp_path / "nowhere")]
    assert main([*command, "--format", "my_format:Program", "--set", "batch=2", "--out", str(tmp_path / "a.pt2")]) == 0
    assert "a.pt2: head dogs, differs by 0.0e+00 at most." in capsys.readouterr().out
    crops = torch.rand(2, 3, 64, 48)
    answer = torch.export.load(tmp_path / "a.pt2").module()(crops)
    assert torch.allclose(answer, model.eval().predict(crops, "dogs"), atol=1e-5)
    assert main([*command, "--format", "onx", "--out", str(tmp_path / "b")]) == 1
    assert "no export format is called 'onx'; did you mean onnx?" in capsys.readouterr().err


def test_a_gate_of_ones_own_is_asked_like_a_bound(extensions: Path, tmp_path: Path) -> None:
    (policies,) = (text for text in SETTINGS if "policies" in yaml.safe_load(text))
    (tmp_path / "policies.yaml").write_text(policies)
    (wanted,) = load_config(tmp_path / "policies.yaml", Policies).policies
    assert wanted.compares
    on = {"digest": "e" * 64, "bodies": 9, "subjects": 1, "head": "mpii", "settings": {}, "boxes": None, "code": ""}
    run = RunLog(Tracking("sqlite:////nowhere", "x", "0"), "run")
    mpii, mice = (Measurement(run, name, MeasuredOn.model_validate(on), {"AUC": 0.5}) for name in ("mpii", "mice"))
    checks = check_figures(wanted, [mpii], Held(3, [mpii, mice]))
    assert [(check.passed, check.statement) for check in checks] == [
        (True, "mpii/AUC is 0.5, required >= 0.1."),
        (False, "mice was judged of version 3 and not of this one."),
        (True, "judged on mpii."),
    ]


def _steps_of(run_file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    pc.train(run_file)
    return dict(re.findall(r"^([a-z]+(?::\w+)*) +(ran|reused|failed) ", capsys.readouterr().out, re.MULTILINE))


def test_a_card_runs_no_code_that_nobody_has_named(
    extensions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(doors.EXTENSIONS, "")
    (extensions / "stranger.py").write_text("raise SystemExit('it ran')\n")
    fields = {"backbone": {"kind": "stranger:Backbone"}, "input_size": [64, 48]}
    with pytest.raises(ValueError, match="'stranger:Backbone' is code of its own, which is run only if you say so"):
        ModelConfig.model_validate(fields)
    fields["backbone"] = {"kind": "my_backbone.Dinov2", "stride": 16}
    (tmp_path / "model.yaml").write_text(json.dumps(fields))
    backbone = load_config(tmp_path / "model.yaml", ModelConfig).backbone
    assert ModelConfig.model_validate(fields).backbone == backbone, "what a run file has named, others may name"
    assert os.environ[doors.EXTENSIONS] == "my_backbone", "for processes that are started from here"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "vitt",
            "no backbone is called 'vitt'; did you mean vit? There are vit, ",
        ),
        ("my_backbone:Dino2", "module my_backbone has no Dino2; did you mean Dinov2?"),
        ("my_backbone:Grid", "Grid is no Backbone; derive it from posecore.models.backbone.Backbone."),
        ("my_bakbone:Dinov2", "no module is called my_bakbone; correct the name, or add its folder to PYTHONPATH."),
        ("fails:Dinov2", "its module fails in .*fails.py, line 1: ZeroDivisionError: division by zero."),
        ("wants:Dinov2", "its module wants a_package_that_is_not, which is not installed."),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(
    extensions: Path, tmp_path: Path, kind: str, said: str
) -> None:
    (extensions / "fails.py").write_text("1 / 0\n")
    (extensions / "wants.py").write_text("import a_package_that_is_not\n")
    (tmp_path / "model.yaml").write_text(f"backbone:\n  kind: '{kind}'\n")
    pattern = said.replace("?", r"\?")
    with pytest.raises(ConfigError, match=rf"backbone.kind: .*{pattern}.* \(line 2, column 3\)"):
        load_config(tmp_path / "model.yaml", ModelConfig)


def test_options_are_checked_by_the_extensions_own_fields(extensions: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("backbone:\n  kind: my_backbone:Dinov2\n  width: 0\n  depht: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "model.yaml", ModelConfig)
    assert "backbone.width: Input should be greater than 0 (line 3" in str(caught.value)
    assert "backbone.depht: Extra inputs are not permitted (line 4" in str(caught.value)
