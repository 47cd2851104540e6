import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import posecore.training.checkpoint as checkpoint_module
from posecore.errors import CheckpointError, IntegrityError
from posecore.methods.supervised import SupervisedHeads
from posecore.storage import AnyPath, as_path
from posecore.training.checkpoint import (
    MANIFEST_FILE,
    SECTIONS,
    Checkpoint,
    Counts,
    Progress,
    UnfinishedError,
    checkpoint_name,
    commit_checkpoint,
    load_trained,
    manifest_digest,
    step_of,
)
from posecore.training.checkpoint_files import BLOCK_BYTES, FileEntry
from posecore.training.checkpoint_pieces import Piece, share, write_pieces
from tests.support.checkpoints import State, load_checkpoint, save_checkpoint, save_format_1
from tests.support.tiny_training import tiny_model

PIECES_FILE = "rank_00000-000.safetensors"
PROGRESS = Progress(step=41, seed=3, world_size=2, config={"global_batch": 8}, bad_samples={"people": (3, 5)})
WAYS: dict[str, Callable[[AnyPath, State, Progress], None]] = {
    "one rank": save_checkpoint,
    "three ranks": lambda folder, state, progress: save_checkpoint(folder, state, progress, ranks=3),
    "format 1": save_format_1,
}


def _state() -> State:
    method = SupervisedHeads(tiny_model())
    weights = dict(method.named_parameters())
    return State(
        weights={name: tensor.detach().clone() for name, tensor in weights.items()},
        exp_avg={name: torch.randn_like(tensor) for name, tensor in weights.items()},
        exp_avg_sq={name: torch.rand_like(tensor) for name, tensor in weights.items()},
        buffers=dict(method.named_buffers()),
        optimizer_steps=41,
        updates={"model.heads.": 7},
        average_updates=40,
        loss_scale=(64.0, 3),
    )


def test_weights_of_a_mean_teacher_are_found_where_older_checkpoints_have_them(tmp_path: Path) -> None:
    state, name = _state(), "mean_teacher.model.pos_embed"
    state.buffers = {**state.buffers, name: torch.arange(6.0).view(2, 3)}
    save_checkpoint(tmp_path, state, PROGRESS)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.has("weights", name)
    assert torch.equal(checkpoint.read("weights", name), state.buffers[name])
    own = next(iter(state.weights))
    assert not checkpoint.has("buffers", own)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_saved_is_loaded(tmp_path: Path, way: str) -> None:
    state = _state()
    WAYS[way](tmp_path / "c", state, PROGRESS)
    loaded, progress = load_checkpoint(tmp_path / "c")
    assert progress == PROGRESS
    assert loaded.counts == state.counts
    assert loaded.tensors.keys() == state.tensors.keys()
    for key, tensor in state.tensors.items():
        assert torch.equal(loaded.tensors[key], tensor), key
        assert loaded.tensors[key].dtype == tensor.dtype
    method = SupervisedHeads(tiny_model())
    assert load_trained(tmp_path / "c", method) == 41
    assert torch.equal(method.state_dict()["model.backbone.pos_embed"], state.weights["model.backbone.pos_embed"])


def _cut(tensors: dict[str, torch.Tensor], rank: int, world_size: int, padded: int) -> list[Piece]:
    """As ZeRO cuts: equal parts of each flattened tensor, rounded up to a multiple."""
    pieces = []
    for key, tensor in tensors.items():
        size = -(-tensor.numel() // (world_size * padded)) * padded
        values = tensor.flatten()[rank * size : (rank + 1) * size]
        if len(values):
            pieces.append(Piece(key, tuple(tensor.shape), rank * size, values))
    return pieces


def test_any_run_is_read_from_pieces_that_were_cut_anyhow(tmp_path: Path) -> None:
    """Files of at most 3000 bytes, which cut the pieces once more; the ranks cut differently."""
    tensors = {
        "weights/large": torch.randn(30, 70),
        "weights/scalar": torch.randn(()),
        "weights/empty": torch.zeros(0, 4),
        "exp_avg/large": torch.randn(30, 70, dtype=torch.float64),
        "buffers/count": torch.tensor(7),
        "buffers/flags": torch.tensor([True, False, True]),
        "buffers/half": torch.randn(5).bfloat16(),
    }
    files = {}
    for rank in range(4):
        pieces = _cut(tensors, rank, 4, padded=3) + (
            [Piece.whole("weights/empty", tensors["weights/empty"])] if rank == 2 else []
        )
        files |= write_pieces(tmp_path, f"rank_{rank:05d}", pieces, max_bytes=3000)
    assert len(files) > 8
    assert all((tmp_path / name).stat().st_size < 4200 for name in files)
    commit_checkpoint(tmp_path, files, Counts(optimizer_steps=1), PROGRESS)
    checkpoint = Checkpoint(tmp_path)
    for key, tensor in tensors.items():
        section, _, name = key.partition("/")
        assert torch.equal(checkpoint.read(section, name), tensor)
        assert checkpoint.shapes(section)[name] == tensor.shape
        for start, stop in ((0, 1), (1, 3), (500, 1203), (2099, 2100), (0, 2100)):
            values = tensor.flatten()[start:stop]
            for dtype in (tensor.dtype, torch.float32):
                read = torch.empty(len(values), dtype=dtype)
                checkpoint.read_into(section, name, read, start)
                assert torch.equal(read, values.to(dtype))


def test_what_is_rounded_is_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(11)
    save_checkpoint(tmp_path, replace(_state(), weights={"w": values}, exp_avg={}, exp_avg_sq={}, updates={}), PROGRESS)
    monkeypatch.setattr(checkpoint_module, "_STAGED_VALUES", 3)
    read = torch.empty(8, dtype=torch.bfloat16)
    Checkpoint(tmp_path).read_into("weights", "w", read, 2)
    assert torch.equal(read, values[2:10].bfloat16())


def test_any_safetensors_reader_finds_the_pieces_under_their_names(tmp_path: Path) -> None:
    tensor, whole = torch.randn(3, 5), torch.randn(2, 2)
    pieces = [Piece("weights/a", (3, 5), 4, tensor.flatten()[4:11]), Piece.whole("weights/b", whole)]
    write_pieces(tmp_path, "rank_00001", pieces)
    with safe_open(tmp_path / "rank_00001-000.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("weights/a"), tensor.flatten()[4:11])
        assert torch.equal(file.get_tensor("weights/b"), whole)
        assert json.loads(file.metadata()["runs"]) == {"weights/a": {"shape": [3, 5], "start": 4}}


def test_ranks_share_what_all_have() -> None:
    pieces = [Piece.whole(f"weights/{n}", torch.zeros(n)) for n in (90, 1, 2, 40, 60, 5, 102)]
    shares = [share(pieces, rank, 3) for rank in range(3)]
    assert [piece.key for part in shares for piece in part] == [piece.key for piece in pieces]
    assert [sum(len(piece.values) for piece in part) for part in shares] == [93, 105, 102]


def test_a_store_behind_a_url_does_as_well() -> None:
    folder = as_path("memory://checkpoints/run/step_00000041_ws2_a")
    state = _state()
    save_checkpoint(folder, state, PROGRESS, ranks=2)
    loaded, progress = load_checkpoint(folder)
    assert progress == PROGRESS
    assert all(torch.equal(tensor, loaded.tensors[key]) for key, tensor in state.tensors.items())
    with (folder / "rank_00001-000.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(IntegrityError, match="is not what was written"):
        load_checkpoint(folder)
    (folder / "rank_00001-000.safetensors").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("way", "name"), [("three ranks", "rank_00001-000.safetensors"), ("format 1", "state.safetensors")]
)
def test_a_truncated_changed_or_missing_file_is_refused(tmp_path: Path, way: str, name: str) -> None:
    folder = tmp_path / "c"
    WAYS[way](folder, _state(), PROGRESS)
    tensors = folder / name
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-10])
    with pytest.raises(IntegrityError, match=rf"{name} is not what was written \(\d+ of \d+ bytes"):
        load_checkpoint(folder)
    for place in (0, len(whole) // 2, len(whole) - 1):
        tensors.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IntegrityError, match=f"{name} is not what was written"):
            load_checkpoint(folder)
    tensors.unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        load_checkpoint(folder)
    (folder / MANIFEST_FILE).write_text("[")
    with pytest.raises(IntegrityError, match="not readable as JSON"):
        load_checkpoint(folder)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(UnfinishedError, match="never finished"):
        load_checkpoint(folder)


def test_only_the_blocks_that_are_needed_are_read(tmp_path: Path) -> None:
    """The tensor begins in the first of six blocks; of another rank's part not a byte is looked at."""
    tensor = torch.randn(5 * BLOCK_BYTES // 4)
    files = write_pieces(tmp_path, "rank_00000", [Piece.whole("weights/w", tensor)])
    commit_checkpoint(tmp_path, files, Counts(optimizer_steps=1), PROGRESS)
    path = tmp_path / PIECES_FILE
    data = bytearray(path.read_bytes())
    data[3 * BLOCK_BYTES + 5] ^= 1
    path.write_bytes(data)
    values = BLOCK_BYTES // 4
    for start in (0, 17, 4 * values):
        read = torch.empty(2 * values if start < values else values)
        Checkpoint(tmp_path).read_into("weights", "w", read, start)
        assert torch.equal(read, tensor[start : start + len(read)])
    with pytest.raises(IntegrityError, match="is not what was written"):
        Checkpoint(tmp_path).read_into("weights", "w", torch.empty(10), 3 * values)


SHA = "0" * 64


def _manifest_of(**fields: object) -> str:
    """A manifest of one file with one tensor, right but for what is given."""
    tensor = {"dtype": "F32", "shape": [2], "start": 0, "count": 2, "offset": 0} | fields.pop("tensor", {})
    name, key = fields.pop("name", PIECES_FILE), fields.pop("key", "weights/x")
    file = {"num_bytes": 8, "blocks": [SHA], "tensors": {key: tensor}} | fields
    return json.dumps({"format": 2, "files": {name: file, "state.json": "as it is"}})


@pytest.mark.parametrize(
    ("manifest", "what"),
    [
        ("[1]", "is not a checkpoint manifest of format 1 or 2"),
        ('{"format": [2]}', "is not a checkpoint manifest of format 1 or 2"),
        ('{"format": 2}', "files"),
        ('{"format": 2, "files": {}}', "does not name state.json"),
        ('{"format": 1, "files": {}}', "does not name state.safetensors"),
        (f'{{"format": 1, "files": {{"state.safetensors": {{"num_bytes": -1, "sha256": "{SHA}"}}}}}}', "num_bytes"),
        ('{"format": 1, "files": {"state.safetensors": {"num_bytes": 5, "sha256": "../../x"}}}', "sha256"),
        (_manifest_of(num_bytes=-1), "num_bytes"),
        (_manifest_of(num_bytes=1 << 60), f"{1 << 60} bytes are not 1 block"),
        (_manifest_of(num_bytes=9), r"\(\d+ of 9 bytes"),
        (_manifest_of(name="../state.safetensors"), "no file of a checkpoint"),
        (_manifest_of(name="absent.safetensors"), "absent.safetensors is missing"),
        (_manifest_of(key="x"), r"holds no state \(x\)"),
        (_manifest_of(key="letters/x"), "holds no state"),
        (_manifest_of(tensor={"dtype": "F7"}), "holds no state"),
        (_manifest_of(tensor={"shape": [-1, -2]}), "shape"),
        (_manifest_of(tensor={"shape": [1 << 50], "count": 1 << 50}), "holds no state"),
        (_manifest_of(tensor={"offset": 4}), "holds no state"),
        (_manifest_of(tensor={"shape": [3]}), "lacks a piece of weights/x"),
        (_manifest_of(tensor={"start": 1, "count": 1}), "lacks a piece of weights/x"),
        ('{"format": 2, "files": ' + "[" * 5000 + "]" * 5000 + "}", "manifest.json"),
    ],
)
def test_an_absurd_manifest_is_refused_in_one_sentence(tmp_path: Path, manifest: str, what: str) -> None:
    save_checkpoint(tmp_path, _state(), PROGRESS)
    (tmp_path / PIECES_FILE).write_bytes(bytes(8))
    said = json.loads((tmp_path / MANIFEST_FILE).read_text())["files"]["state.json"]
    (tmp_path / MANIFEST_FILE).write_text(_with_digest(manifest.replace('"as it is"', json.dumps(said))))
    with pytest.raises((CheckpointError, IntegrityError), match=what) as refusal:
        load_checkpoint(tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def _with_digest(manifest: str) -> str:
    """As somebody would write it who means it; what is no manifest stays as it is."""
    try:
        value = json.loads(manifest)
        files = {name: FileEntry.model_validate(entry) for name, entry in value["files"].items()}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return manifest
    return json.dumps(value | {"digest": manifest_digest(files)}) if value["format"] == 2 else manifest


def test_a_manifest_of_a_size_that_none_has_is_not_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _state(), PROGRESS)
    with (tmp_path / MANIFEST_FILE).open("r+b") as file:
        file.truncate((256 << 20) + 1)  # as sparse as it can be
    with pytest.raises(IntegrityError, match="is larger than any manifest"):
        load_checkpoint(tmp_path)


def test_a_manifest_with_another_place_of_a_tensor_is_not_what_was_written(tmp_path: Path) -> None:
    """The bytes it would lead to are whole, and their hashes right."""
    save_checkpoint(tmp_path, _state(), PROGRESS)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    tensors = next(entry["tensors"] for entry in manifest["files"].values() if len(entry["tensors"]) > 1)
    first, second = list(tensors)[:2]
    tensors[first]["offset"], tensors[second]["offset"] = tensors[second]["offset"], tensors[first]["offset"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"manifest\.json is not what was written; use another checkpoint"):
        load_checkpoint(tmp_path)


def test_progress_of_a_size_that_no_such_file_has_is_not_read(tmp_path: Path) -> None:
    """It is as sparse as it can be; the manifest states its size truthfully."""
    save_checkpoint(tmp_path, _state(), PROGRESS)
    size = (16 << 20) + 1
    with (tmp_path / "state.json").open("r+b") as file:
        file.truncate(size)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    manifest["files"]["state.json"] |= {"num_bytes": size, "blocks": [SHA] * -(-size // BLOCK_BYTES)}
    files = {name: FileEntry.model_validate(entry) for name, entry in manifest["files"].items()}
    manifest["digest"] = manifest_digest(files)
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"state\.json is larger than any such file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_not_loaded(tmp_path: Path, section: str, value: float) -> None:
    """As a version of the code without the check when saving had written it."""
    state = _state()
    tensors = getattr(state, section)
    tensors["model.one"], tensors["model.other"] = torch.zeros(3), torch.tensor([0.0, value, 0.0])
    save_checkpoint(tmp_path / "c", state, PROGRESS)
    with pytest.raises(CheckpointError, match=f"in {section}/model.other; its run had diverged") as refusal:
        load_checkpoint(tmp_path / "c")
    assert "model.one" not in str(refusal.value)


def test_files_of_another_attempt_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, _state(), PROGRESS)
    (folder / "rank_00009-000.safetensors").write_bytes(b"stale")
    load_checkpoint(folder)


def test_the_name_tells_step_world_size_and_attempt() -> None:
    name = checkpoint_name(500, 2, "a1b2")
    assert name == "step_00000500_ws2_a1b2"
    assert step_of(name) == 500
    assert step_of("step_5") is None
