import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from posecore.errors import CheckpointError, IntegrityError
from posecore.models.weights.files import MAX_BYTES, read_tensors, shard_names

PLAIN = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1000)}


class Attack:
    """Runs a shell command in whoever unpickles it."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.victim}",)


def saved(path: Path, value: object, **options: object) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "ema"])
def test_wrappers_are_removed(tmp_path: Path, wrapper: str) -> None:
    tensors = read_tensors(saved(tmp_path / "x.pth", {wrapper: PLAIN, "epoch": 3}))
    assert tensors.keys() == PLAIN.keys()
    assert torch.equal(tensors["a"], PLAIN["a"])


def test_wrappers_in_wrappers_and_the_prefix_of_a_parallel_module_are_removed(tmp_path: Path) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in PLAIN.items()}
    assert read_tensors(saved(tmp_path / "x.pth", {"model": {"state_dict": prefixed}})).keys() == PLAIN.keys()


def test_a_prefix_that_only_some_names_have_belongs_to_the_names(tmp_path: Path) -> None:
    mixed = {"module.a": PLAIN["a"], "b": PLAIN["b"]}
    assert read_tensors(saved(tmp_path / "x.pth", mixed)).keys() == mixed.keys()


def test_files_older_than_the_zip_format_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"state_dict": PLAIN}, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert torch.equal(read_tensors(path)["b"], PLAIN["b"])


def test_numpy_metadata_as_mmengine_writes_it_is_let_through(tmp_path: Path) -> None:
    meta = {"dataset_meta": {"sigmas": np.ones(17, np.float32), "num": np.int64(3)}, "time": "20230126"}
    assert read_tensors(saved(tmp_path / "x.pth", {"meta": meta, "state_dict": PLAIN})).keys() == PLAIN.keys()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, options: dict[str, object]) -> None:
    victim = tmp_path / "victim"
    path = saved(tmp_path / "x.pth", {"state_dict": PLAIN, "extra": Attack(victim)}, **options)
    with pytest.raises(CheckpointError, match=r"wants to call posix\.system .* so it was not read"):
        read_tensors(path)
    assert not victim.exists()
    with path.open("rb") as file:  # the attack itself works
        torch.load(file, weights_only=False)
    assert victim.exists()


def test_code_hidden_in_a_numpy_array_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    path = saved(tmp_path / "x.pth", {"meta": np.array([Attack(victim)], dtype=object), "state_dict": PLAIN})
    with pytest.raises(CheckpointError, match="so it was not read"):
        read_tensors(path)
    assert not victim.exists()


def test_a_bare_pickle_and_a_pickled_module_are_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Attack(victim)))
    with pytest.raises(CheckpointError, match="so it was not read"):
        read_tensors(tmp_path / "bare.pkl")
    assert not victim.exists()
    with pytest.raises(CheckpointError, match=r"wants to call torch\.nn\.modules\.linear\.Linear"):
        read_tensors(saved(tmp_path / "x.pth", torch.nn.Linear(2, 2)))


def test_a_torchscript_program_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "lite.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version", "code/a.py"):
            archive.writestr(f"lite/{name}", "3\n")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        read_tensors(path)


@pytest.mark.parametrize("keep", [0, 60, 0.5])
@pytest.mark.parametrize("zipped", [True, False])
def test_cut_files_are_refused(tmp_path: Path, keep: float, zipped: bool) -> None:
    path = saved(tmp_path / "x.pth", {"state_dict": PLAIN}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    what = "cut or not a checkpoint;" if keep else "empty; name another file, or"
    with pytest.raises(CheckpointError, match=rf"x\.pth is {what} download it again"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\xff\xd8\xff\xe0JPEG", b"\x80\x02garbage"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_tensors(path)


def test_safetensors_cut_or_garbled_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(PLAIN, path)
    assert read_tensors(path).keys() == PLAIN.keys()
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"\xff" * 50, b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cut or not a safetensors file"):
            read_tensors(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    tensors = PLAIN | {"b": torch.tensor([1.0, bad])}
    with pytest.raises(CheckpointError, match="b holds 1 of 2 values that are NaN or infinite"):
        read_tensors(saved(tmp_path / "x.pth", tensors))
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        read_tensors(tmp_path / "x.safetensors")


def test_what_is_not_a_tensor_by_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="entry 'epoch' is int, not a tensor"):
        read_tensors(saved(tmp_path / "x.pth", PLAIN | {"epoch": 3}))
    with pytest.raises(CheckpointError, match="holds list where tensors by name belong"):
        read_tensors(saved(tmp_path / "x.pth", {"state_dict": [1, 2]}))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_tensors(saved(tmp_path / "x.pth", {"state_dict": {}}))
    with pytest.raises(CheckpointError, match="a is not a plain tensor"):
        read_tensors(saved(tmp_path / "x.pth", {"a": torch.eye(3).to_sparse()}))


def test_a_tensor_cannot_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    bomb = torch.as_strided(torch.ones(1), (10**12,), (0,))
    with pytest.raises(CheckpointError, match="a claims 1000000000000 values"):
        read_tensors(saved(tmp_path / "x.pth", {"a": bomb}))


def test_many_tensors_cannot_claim_the_same_values(tmp_path: Path) -> None:
    values = torch.ones(1000)
    tied = {"a": values, "b": values, "rest": values[:500]}
    assert read_tensors(saved(tmp_path / "tied.pth", tied)).keys() == tied.keys()
    views = {str(number): values for number in range(50)}
    with pytest.raises(CheckpointError, match="its tensors claim 200000 bytes together, far more than the file holds"):
        read_tensors(saved(tmp_path / "x.pth", views))


def test_a_compressed_archive_is_not_unfolded(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(saved(tmp_path / "x.pth", PLAIN)) as stored,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in stored.namelist():
            small.writestr(name, stored.read(name))
    with pytest.raises(CheckpointError, match="is compressed inside, which no checkpoint is"):
        read_tensors(tmp_path / "small.pth")


def test_a_description_of_absurd_length_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posecore.models.weights.files._MAX_PICKLE_BYTES", 100)
    with pytest.raises(CheckpointError, match=r"describes its tensors in \d+ bytes, more than the 100 allowed"):
        read_tensors(saved(tmp_path / "x.pth", PLAIN))


def test_a_wrapper_that_holds_itself_ends(tmp_path: Path) -> None:
    wrapper: dict[str, object] = {}
    wrapper["state_dict"] = wrapper
    with pytest.raises(CheckpointError, match="entry 'state_dict' is dict, not a tensor"):
        read_tensors(saved(tmp_path / "x.pth", wrapper))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_is_no_file_or_a_sparse_giant_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=r"cannot be read .No such file"):
        read_tensors(path)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is not a file"):
        read_tensors(path)
    path.unlink()
    path.touch()
    os.truncate(path, MAX_BYTES + 1)  # takes no space
    with pytest.raises(CheckpointError, match="has more than the 128 GiB"):
        read_tensors(path)


def test_a_header_that_states_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    for shape, end in (([10**9, 10**9], 4 * 10**18), ([2**62, 8], 0), ([3], 12)):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(CheckpointError, match="is cut or not a safetensors file"):
            read_tensors(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="is cut or not a safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def write_sharded(folder: Path, weight_map: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_sharded_safetensors_are_put_together(tmp_path: Path) -> None:
    index = write_sharded(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    for number, name in ((1, "a"), (2, "b")):
        save_file({name: PLAIN[name]}, tmp_path / f"{number}.safetensors")
    tensors = read_tensors(index)
    assert all(torch.equal(tensors[name], PLAIN[name]) for name in PLAIN)
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"names 2\.safetensors, which is missing"):
        read_tensors(index)
    save_file({"c": PLAIN["a"]}, tmp_path / "2.safetensors")
    with pytest.raises(IntegrityError, match="disagree about b"):
        read_tensors(index)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/1.safetensors"])
def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path, name: str) -> None:
    save_file(PLAIN, tmp_path / "secret.safetensors")
    index = write_sharded(tmp_path / "model", {"a": name})
    with pytest.raises(IntegrityError, match="outside its folder"):
        shard_names(index)
    with pytest.raises(IntegrityError, match="outside its folder"):
        read_tensors(index)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(IntegrityError, match="is not an index"):
        read_tensors(index)
