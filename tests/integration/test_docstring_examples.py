"""The examples in the docstrings of ``import posecore``'s functions, in the order in which one would try them."""

import doctest
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import posecore.api
from posecore.synth.writers import write_dataset

ORDER = ("train", "open_split", "load_model", "save_answers", "adapt", "distill", "pretrain", "score", "plan")
SMALL = {"backbone": "vit-nano", "head": {"kind": "classic", "channels": 8}, "input_size": [64, 48]}
PEOPLE = {"name": "coco", "root": "coco", "train": "train", "evaluate": "val"}
COMMON: dict[str, Any] = {
    "run_folder": "run",
    "data_folder": ".",
    "datasets": [PEOPLE],
    "training": {"steps": 100, "global_batch": 4, "engine": {"kind": "torch"}},
}
RUN_FILES: dict[str, dict[str, Any]] = {
    "train.yaml": {"name": "people", "model": SMALL},
    "adapt.yaml": {
        "name": "infants",
        "parent": "models:/people/1",
        "target": "infants",
        "datasets": [{"name": "infants", "definition": "syrip", "root": "syrip", "train": "train", "evaluate": "val"}],
        "method": {"strategy": "full"},
    },
    "distill.yaml": {
        "name": "small",
        "teacher": "models:/people/1",
        "student": SMALL,
        "second_stage": 0,
        "method": {"feature_weight": 0},
    },
    "pretrain.yaml": {
        "name": "pictures",
        "model": {"backbone": "vit-nano", "input_size": [64, 48]},
        "method": {"decoder": {"depth": 1, "width": 16, "num_heads": 2}},
        "training": COMMON["training"] | {"optimizer": {"layer_decay": 1.0}},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for seed, name in enumerate(("coco", "syrip")):
        write_dataset(name, tmp_path / name, num_train=8, num_val=4, image_size=(96, 96), seed=seed)  # type: ignore[arg-type]
    for name, values in RUN_FILES.items():
        Path(name).write_text(yaml.safe_dump(COMMON | values))
    (truth,) = (tmp_path / "coco").rglob("person_keypoints_val2017.json")
    bodies = [body for body in json.loads(truth.read_text())["annotations"] if body["num_keypoints"]]
    kept = ("image_id", "category_id", "keypoints")
    Path("results.json").write_text(
        json.dumps([{name: body[name] for name in kept} | {"score": 1.0} for body in bodies])
    )
    Path("truth.json").write_bytes(truth.read_bytes())
    Path("photo.jpg").write_bytes(next((tmp_path / "coco").rglob("*.jpg")).read_bytes())
    return tmp_path


@pytest.mark.slow
def test_every_public_function_has_an_example_that_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(ORDER) == sorted(posecore.api.__all__)
    names: dict[str, Any] = {name: getattr(posecore.api, name) for name in ORDER}
    parser, checker = doctest.DocTestParser(), doctest.OutputChecker()
    for name in ORDER:
        examples = parser.get_examples(names[name].__doc__)
        assert examples, f"posecore.{name} has no example"
        for example in examples:
            value, source = None, example.source.strip()
            if example.want:
                value = eval(source, names)
            else:
                exec(source, names)
            got = "" if value is None else f"{value!r}\n"
            flags = doctest.ELLIPSIS
            assert checker.check_output(example.want, got, flags), f"posecore.{name}: {source} gave {got}"
