import hashlib
import json
import math
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors

from posecore.errors import CheckpointError, ConfigError, IntegrityError
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.pose_model import PoseModel
from posecore.models.saving import (
    CARD_FILE,
    WEIGHTS_FILE,
    holds_model,
    load_model,
    load_weights,
    read_card,
    save_model,
    verify_model,
)
from posecore.storage import AnyPath, as_path
from tests.support import killed_saving
from tests.support.killed_saving import filled
from tests.support.small_disk import small_disk
from tests.support.tiny_training import INPUT_SIZE, tiny_model


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny_model()
    model.train()(torch.randn(2, 3, *INPUT_SIZE), [("people", 0, 1), ("dogs", 1, 2)])
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert loaded.card == model.card
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_names_are_those_of_the_published_files() -> None:
    names = set(tiny_model().state_dict())
    for name in (
        "backbone.pos_embed",
        "backbone.patch_embed.proj.weight",
        "backbone.blocks.0.norm1.weight",
        "backbone.blocks.0.attn.qkv.bias",
        "backbone.blocks.1.mlp.fc2.weight",
        "backbone.last_norm.bias",
        "heads.dogs.deconv_layers.0.weight",
        "heads.dogs.deconv_layers.4.running_var",
        "heads.dogs.final_layer.bias",
    ):
        assert name in names


def test_a_damaged_or_half_written_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match="holds no whole model"):
        load_model(folder)
    save_model(tiny_model(), folder)
    weights = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="hashes differ"):
        load_model(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="holds no whole model"):
        load_model(folder)
    (folder / CARD_FILE).write_text("{")
    (folder / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(IntegrityError, match="not readable as JSON"):
        load_model(folder)
    (folder / CARD_FILE).write_text(json.dumps({"format": 7}))
    with pytest.raises(CheckpointError, match="not a model card of format 1"):
        load_model(folder)


def _change(card: dict[str, Any], path: str, value: object) -> None:
    *parts, last = path.split(".")
    for part in parts:
        card = card[part]
    card[last] = value


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("architecture.backbone.embed_dim", 10**9, r"embed_dim: Input should be less than or equal to 16384"),
        ("architecture.backbone.embed_dim", 16_000, r"cannot hold the \d{9,} values of the model that model.json"),
        ("architecture.backbone.depth", 10**9, r"depth: Input should be less than or equal to 128"),
        ("architecture.backbone.depth", 100, r"cannot hold the \d+ values of the model that model.json"),
        ("architecture.backbone.depth", "deep", "depth: Input should be a valid integer"),
        ("architecture.backbone.mlp_ratio", 1e300, "mlp_ratio: Input should be less than or equal to 16"),
        ("architecture.backbone.mlp_ratio", math.nan, "mlp_ratio: Input should be a finite number"),
        ("architecture.backbone", [], "architecture.backbone"),
        ("architecture.head.channels", 2**40, "channels: Input should be less than or equal to 16384"),
        ("architecture.input_size", [16 * 10**9, 48], "input_size.0: Input should be less than or equal to 8192"),
        ("architecture.heatmap_sigma", math.inf, "heatmap_sigma: Input should be a finite number"),
        ("skeletons.people.keypoints", [{"name": "a", "union": "a"}] * 5000, "at most 4096 items"),
        (
            "skeletons",
            {str(number): {"name": "s", "keypoints": []} for number in range(300)},
            "skeletons: Dictionary should have at most 256 items",
        ),
        (
            "skeletons",
            {str(number): {} for number in range(300)},
            "skeletons.9.keypoints: Field required; and 580 more$",
        ),
        ("conventions", {}, "conventions has nothing for 'dogs'"),
    ],
)
def test_an_absurd_card_is_refused_before_anything_is_allocated(
    path: str, value: object, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny_model(), tmp_path)
    described = json.loads((tmp_path / CARD_FILE).read_text())
    _change(described["card"], path, value)
    (tmp_path / CARD_FILE).write_text(json.dumps(described))
    built: list[bool] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: built.append(path.suffix == ".safetensors"))
    with pytest.raises((CheckpointError, ConfigError), match=problem) as refusal:
        load_model(tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 2000
    assert not any(built), "the weights were read before they could be known to fit"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"format": 1}', "lacks the card or the hash"),
        ('{"format": 1, "card": [], "weights_sha256": ""}', "lacks the card or the hash"),
        ('{"format": 1, "card": {}, "weights_sha256": 7}', "lacks the card or the hash"),
        ("[" * 100_000 + "]" * 100_000, "not readable as JSON"),
        ("\udcff", "not readable as JSON"),
    ],
)
def test_a_card_of_another_form_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path)
    (tmp_path / CARD_FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    for read in (load_model, read_card):
        with pytest.raises((CheckpointError, IntegrityError), match=problem):
            read(tmp_path)


def test_what_is_no_file_of_a_model_is_not_read(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).unlink()
    os.mkfifo(tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="has 0 bytes, which cannot hold"):
        load_model(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    os.truncate(tmp_path / WEIGHTS_FILE, 1 << 40)  # takes no space
    with pytest.raises(CheckpointError, match="has 1099511627776 bytes, which cannot hold"):
        load_model(tmp_path)
    (tmp_path / CARD_FILE).unlink()
    os.mkfifo(tmp_path / CARD_FILE)
    with pytest.raises(CheckpointError, match=r"cannot be read .it is a pipe, not a file"):
        load_model(tmp_path)
    (tmp_path / CARD_FILE).unlink()
    (tmp_path / CARD_FILE).touch()
    os.truncate(tmp_path / CARD_FILE, 1 << 40)
    with pytest.raises(CheckpointError, match="more than the 67108864 bytes allowed"):
        load_model(tmp_path)


def test_another_architecture_is_refused_in_one_sentence() -> None:
    model = tiny_model()
    architecture = model.config.model_copy(update={"head": SimpleHeadConfig()})
    other = PoseModel(model.card.model_copy(update={"architecture": architecture}))
    with pytest.raises(CheckpointError) as refusal:
        load_weights(model, other.state_dict(), origin="other.safetensors")
    message = str(refusal.value)
    assert message.startswith(
        "other.safetensors belongs to another architecture; missing: heads.people.deconv_layers.0"
    )
    assert "and 21 more" in message
    assert "heads.people.final_layer.weight (5, 32, 3, 3) instead of (5, 8, 1, 1)" in message
    extra = {**model.state_dict(), "cls_token": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="unexpected: cls_token"):
        load_weights(model, extra, origin="x")


def _value(folder: AnyPath) -> float:
    return float(load_model(folder).backbone.pos_embed.detach().mean())


def test_a_save_killed_at_any_file_operation_leaves_one_of_the_two_models(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, killed_saving.__file__, str(tmp_path / "model")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        timeout=120,
    )
    kills = json.loads(done.stdout)
    assert len(kills) >= 5, kills
    values = [kill["value"] for kill in kills]
    assert set(values) == {1.0, 2.0}, "some kills came before the new model was whole, some after"
    assert values == sorted(values), "once the new one is read, it is never the old one again"
    for kill in kills:
        assert {name for name in kill["left"] if not name.startswith(".")} == {CARD_FILE, WEIGHTS_FILE}
        assert kill["then"] == [CARD_FILE, WEIGHTS_FILE], "the next save leaves nothing behind"


@pytest.fixture
def filled_but_for(tmp_path: Path) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
    """Makes room for so many bytes only in ``tmp_path / "disk"``: on a file system of its own, by root.

    Elsewhere no file may grow beyond that. Either way the kernel refuses to write more, in the middle of a file.
    """
    folder = tmp_path / "disk"
    with small_disk(folder, "2m") as mounted:

        @contextmanager
        def filled(room: int) -> Iterator[None]:
            if mounted:
                disk = os.statvfs(folder)
                (folder / "ballast").write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))
                yield
                (folder / "ballast").unlink()
            else:
                limit = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
                yield
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)

        yield filled


def test_a_full_disk_leaves_the_model_that_was_there(
    tmp_path: Path, filled_but_for: Callable[[int], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "disk" / "model"
    save_model(filled(1.0), folder)
    full = pytest.raises(
        CheckpointError,
        match=r"model: the model cannot be written \((No space left on device|File too large)\), and what was there is",
    )
    with filled_but_for((folder / WEIGHTS_FILE).stat().st_size // 2), full:
        save_model(filled(2.0), folder)
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, WEIGHTS_FILE]
    assert _value(folder) == 1.0
    save_model(filled(2.0), folder)
    assert _value(folder) == 2.0


@pytest.mark.parametrize("weights_done", [False, True])
def test_an_interrupted_save_is_finished_in_an_object_store_too(weights_done: bool) -> None:
    folder = as_path(f"memory://{uuid.uuid4().hex}")
    save_model(filled(1.0), folder)
    save_model(filled(2.0), folder / "new")
    for name in (CARD_FILE,) if weights_done else (WEIGHTS_FILE, CARD_FILE):
        (folder / f".next.{name}").write_bytes((folder / "new" / name).read_bytes())
    if weights_done:
        (folder / WEIGHTS_FILE).write_bytes((folder / "new" / WEIGHTS_FILE).read_bytes())
    assert _value(folder) == 2.0
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [CARD_FILE, WEIGHTS_FILE]


def test_an_interrupted_first_save_is_a_model_once_its_card_is_written(tmp_path: Path) -> None:
    save_model(filled(2.0), tmp_path)
    (tmp_path / CARD_FILE).rename(tmp_path / f".next.{CARD_FILE}")
    assert holds_model(tmp_path)
    assert _value(tmp_path) == 2.0
    (tmp_path / CARD_FILE).unlink()
    assert not holds_model(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_neither_saved_nor_loaded_nor_handed_on(tmp_path: Path, bad: float) -> None:
    """One weight and one running mean are; both are named, and the model that was there stays."""
    save_model(filled(1.0), tmp_path)
    verify_model(tmp_path)
    model = filled(2.0)
    with torch.no_grad():
        model.get_parameter("backbone.last_norm.bias")[3] = bad
        model.get_buffer("heads.dogs.deconv_layers.4.running_var")[-1] = bad
    named = r"NaN or infinity in backbone\.last_norm\.bias, heads\.dogs\.deconv_layers\.4\.running_var; "
    with pytest.raises(CheckpointError, match=named + "it is not saved"):
        save_model(model, tmp_path)
    assert _value(tmp_path) == 1.0

    weights = save_tensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    card = json.loads((tmp_path / CARD_FILE).read_text()) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    for read in (load_model, verify_model):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: " + named + "the training that wrote it went"):
            read(tmp_path)


def test_a_changed_file_is_not_handed_on(tmp_path: Path) -> None:
    save_model(filled(1.0), tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="hashes differ"):
        verify_model(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        verify_model(tmp_path)
