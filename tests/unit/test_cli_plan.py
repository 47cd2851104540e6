"""``posecore plan`` and ``posecore export`` as a user types them, with good and bad arguments."""

from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml

from posecore.cli import main
from posecore.models.saving import load_model, save_model
from tests.support.tiny_training import tiny_model

TINY = ["plan", "--backbone", "vit-nano", "--input", "64x64", "--gpu", "h100"]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_a_run_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TINY, "--gpus", "8", "--zero", "3", "--batch", "4", "--checkpointing", "--mfu", "0.5"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in (
        "64x64, 8 GPUs, ZeRO 3, bf16, 4 crops (4 x 1)",
        "master weights",
        "at 50% of 989.00 TFLOP/s",
        "It fits",
    ):
        assert word in printed
    assert "1/8 of 8 bytes" in printed


def test_a_run_that_does_not_fit_says_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--backbone", "vitpose-base", "--gpu", "l4", "--gpus", "2", "--batch", "512", "--zero", "1"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "It does not fit." in printed
    assert printed.index("checkpoint activations") < printed.index("That fits.")


def test_a_strategy_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--datasets", "coco,syrip", "--strategy", "frozen-backbone", "--engine", "torch"]) == 0
    printed = capsys.readouterr().out
    assert "they alone have gradients" in printed
    assert "forward and backward, as counted" in printed


def test_a_strategy_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--strategy", "magic"]) == 1
    assert "magic" in capsys.readouterr().err


def test_a_run_file_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _run_file(tmp_path, {"backbone": "vit-nano", "input_size": [64, 64]})
    assert main(["plan", "--config", str(path), "--gpu", "a100-40"]) == 0
    assert "64x64, 4 GPUs, ZeRO 2, bf16, 12 crops (6 x 2)" in capsys.readouterr().out
    assert main(["plan", "--config", str(path), "--gpu", "a100-40", "--gpus", "1", "--engine", "torch"]) == 0
    assert "64x64, 1 GPU, torch, bf16, 48 crops (24 x 2)" in capsys.readouterr().out


def test_a_run_file_is_completed_as_the_job_completes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RTMPose's recipe has a moving average, which takes memory, and the file does not name it."""
    assert main(["plan", "--config", str(_run_file(tmp_path, {"backbone": "rtmpose-x"})), "--gpu", "a100-40"]) == 0
    printed = capsys.readouterr().out
    assert "rtmpose-x" in printed.partition("GPUs")[0], "which recipe is followed"
    (average,) = [line for line in printed.splitlines() if "moving average" in line]
    assert "0.00 GiB" not in average


def test_a_run_file_of_another_job_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "adapt.yaml"
    path.write_text("parent: models:/body/1\n")
    assert main(["plan", "--config", str(path), "--gpu", "l4"]) == 1
    assert "parent" in capsys.readouterr().err


def _run_file(folder: Path, model: dict[str, object]) -> Path:
    job = {
        "name": "planned",
        "run_folder": "run",
        "data_folder": "data",
        "model": model,
        "training": {"steps": 400_000, "global_batch": 48, "accumulation": 2, "engine": {"kind": "deepspeed"}},
        "cluster": {"num_workers": 4},
        "datasets": [
            {"name": "mine", "definition": "mpii", "root": "mpii", "train": "train"},
            {"name": "coco", "root": "coco", "evaluate": "val", "head": "mine"},
        ],
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backbone", "vit-nano", "--gpu", "foo"], "no GPU is called 'foo'. There are b200, h200"),
        (["--backbone", "vit-nano", "--gpu", "l4", "--input", "100x64"], "must be multiples of 16"),
        (["--backbone", "vit-nano", "--gpu", "l4", "--input", "64"], "give height x width in pixels"),
        (["--backbone", "vit-nonsense", "--gpu", "l4"], "no backbone preset is called 'vit-nonsense'"),
        (["--gpu", "l4"], "give --backbone"),
        (["--backbone", "vit-nano", "--gpu", "v100"], "no bfloat16; use precision fp32"),
        (["--backbone", "rtmpose-t", "--gpu", "l4", "--checkpointing"], "cannot checkpoint its activations"),
        (["--backbone", "vit-nano", "--gpu", "l4", "--engine", "torch", "--zero", "2"], "shards and offloads nothing"),
        (["--backbone", "vit-nano", "--gpu", "l4", "--offload", "--zero", "0"], "needs a ZeRO stage of at least 1"),
        (["--config", "nowhere.yaml", "--gpu", "l4"], "no such file"),
        (["--backbone", "vit-nano", "--gpu", "l4", "--datasets", "coco,nonsense"], "nonsense"),
    ],
)
def test_a_wrong_argument_is_answered_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) in (1, 2)
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--mfu", "1.5"], ["--zero", "4"], ["--gpus", "many"]])
def test_a_number_out_of_range_is_bad_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*TINY, *wrong])
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model(expert_share=0.25).eval(), folder)
    return folder


def test_exports_a_head_as_onnx(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "dogs.onnx"
    assert main(["export", str(model_folder), "--head", "dogs", "--layout", "crops", "--out", str(out)]) == 0
    assert "head dogs, layout crops, float32; in float32 onnxruntime differs from PyTorch by" in capsys.readouterr().out
    model = load_model(model_folder)
    images = torch.randn(3, 3, *model.input_size)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert found.shape[1] == 7
    assert torch.allclose(found, model.predict(images, "dogs"), atol=1e-6, rtol=1e-4)


def test_exports_a_head_as_a_model_folder(model_folder: Path, tmp_path: Path) -> None:
    command = ["export", str(model_folder), "--format", "safetensors", "--head", "dogs", "--out", str(tmp_path / "m")]
    assert main(command) == 0
    alone, whole = load_model(tmp_path / "m"), load_model(model_folder)
    images = torch.randn(2, 3, *whole.input_size)
    assert list(alone.skeletons) == ["dogs"]
    assert torch.allclose(alone.predict(images, "dogs"), whole.predict(images, "dogs"), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "several heads; choose one with --head: people, dogs"),
        (["--head", "cats"], "no head 'cats'; it has people, dogs"),
    ],
)
def test_a_head_must_be_one_of_the_models(
    arguments: list[str], sentence: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(model_folder), "--out", str(tmp_path / "x.onnx"), *arguments]) in (1, 2)
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()
