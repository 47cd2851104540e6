"""A training depends on what is in the copy of its initial weights, and the copy on everything that decides it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from posecore.config import digest_json
from posecore.errors import CheckpointError
from posecore.models.sources import StartFolder
from posecore.models.weights.initial import WeightsConfig, pin
from posecore.models.weights.vitpose import VITPOSE
from posecore.models.weights.write import write_weights
from posecore.skeletons.library import load_skeleton
from posecore.workflows.fetched_model import fetch_start
from tests.support.tiny_weights import add_tiny_presets, tiny_model


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_presets(monkeypatch)


def fingerprint(start: StartFolder) -> str:
    return digest_json(start.model_dump(mode="json"))


def test_the_same_model_is_the_same_start_wherever_it_came_from(tmp_path: Path) -> None:
    model = tiny_model(heads=("mpii",))
    write_weights(model, "vitpose", tmp_path / "a.pth")
    save_file({name: t.contiguous() for name, t in VITPOSE.write(model).tensors.items()}, tmp_path / "b.safetensors")
    a, b = (
        fetch_start(pin(WeightsConfig(source=str(tmp_path / name), heads={"mpii": "mpii16"})), tmp_path / "weights")
        for name in ("a.pth", "b.safetensors")
    )
    assert a.source != b.source
    assert fingerprint(a) == fingerprint(b)
    assert a.record is not None
    assert str(a.record["source"]).endswith("a.pth")


def test_what_is_said_of_a_file_decides_its_copy(tmp_path: Path) -> None:
    write_weights(tiny_model(), "huggingface-vitpose", tmp_path / "hf")
    wanted = pin(WeightsConfig(source=str(tmp_path / "hf")))
    body = fetch_start(wanted, tmp_path / "weights")
    stated = fetch_start(wanted.model_copy(update={"heads": {"ap10k": "ap10k17"}}), tmp_path / "weights")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["id2label"] = dict(enumerate(load_skeleton("ap10k17").names))
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    listed = fetch_start(wanted, tmp_path / "weights")
    assert [list(start.outline().heads) for start in (body, stated, listed)] == [["coco"], ["ap10k"], ["ap10k"]]
    assert fingerprint(body) != fingerprint(stated) == fingerprint(listed)
    (tmp_path / "hf" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="candidates are coco, ap10k, apt36k"):
        fetch_start(wanted, tmp_path / "weights")
