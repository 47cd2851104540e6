from pathlib import Path

import pytest
import torch

from posecore.cli import main
from posecore.models.weights.read import read_weights
from posecore.models.weights.write import write_weights
from tests.support.tiny_weights import SIX, add_tiny_presets, tiny_model


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    add_tiny_presets(monkeypatch)


@pytest.fixture
def plus(tmp_path: Path) -> Path:
    write_weights(tiny_model("tiny-plus", SIX), "vitpose", tmp_path / "plus.pth")
    return tmp_path / "plus.pth"


def test_show_a_file(plus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", str(plus)]) == 0
    text = capsys.readouterr().out
    assert "layout: vitpose" in text
    assert "preset: tiny-plus" in text
    assert "sha256: " in text
    assert f"licence of {plus}: Apache-2.0" in text
    rows = {row.split()[1]: row for row in text.splitlines() if row.startswith("│")}
    assert list(rows) == list(SIX)
    assert "msra" in rows["aic"]
    assert "udp" in rows["mpii"]


def test_convert_there_and_back(plus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "convert", str(plus), str(tmp_path / "own"), "--layout", "posecore"]) == 0
    assert (
        main(["models", "convert", str(tmp_path / "own"), str(tmp_path / "x.safetensors"), "--layout", "vitpose"]) == 0
    )
    first, again = read_weights(plus).state_dict(), read_weights(tmp_path / "x.safetensors").state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert "heads coco, aic, mpii, ap10k, apt36k, coco_wholebody" in capsys.readouterr().out


def test_convert_one_expert(plus: Path, tmp_path: Path) -> None:
    arguments = ["models", "convert", str(plus), str(tmp_path / "hf"), "--layout", "huggingface-vitpose"]
    assert main([*arguments, "--expert", "ap10k"]) == 0
    found = read_weights(tmp_path / "hf")
    assert list(found.heads) == ["ap10k"]
    assert found.config.backbone.expert_share == 0


def test_a_file_that_does_not_say_whose_points_it_has_is_not_guessed_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dataset, candidates in {"ap10k": "coco, ap10k, apt36k", "crowdpose": "aic, crowdpose"}.items():
        source, target = tmp_path / f"{dataset}.pth", tmp_path / dataset
        write_weights(tiny_model(heads=(dataset,)), "vitpose", source)
        arguments = ["models", "convert", str(source), str(target), "--layout", "posecore"]
        assert main(arguments) == 1
        assert f"the candidates are {candidates}, and each means other points" in capsys.readouterr().err
        assert not target.exists()
        assert main([*arguments, "--heads", dataset]) == 0
        assert f"heads {dataset}" in capsys.readouterr().out


def test_an_export_says_what_it_guesses_and_takes_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    write_weights(tiny_model(heads=("mpii",)), "vitpose", path)
    export = ["export", str(path), "--format", "safetensors", "--out"]
    assert main([*export, str(tmp_path / "guessed")]) == 0
    assert "the 16 points are those of mpii is guessed" in capsys.readouterr().err
    assert main([*export, str(tmp_path / "stated"), "--heads", "mice=mpii16"]) == 0
    assert "guessed" not in capsys.readouterr().err
    assert list(read_weights(tmp_path / "stated").heads) == ["mice"]


def test_what_a_layout_has_no_place_for_is_said(plus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "convert", str(plus), str(tmp_path / "hf"), "--layout", "huggingface-vitpose"]) == 0
    assert "left out 70 tensors: the layout has room for one head, that of coco" in capsys.readouterr().out


def test_heads_are_named_where_a_file_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(tiny_model(), "vitpose", tmp_path / "x.pth")
    assert main(["models", "show", str(tmp_path / "x.pth"), "--heads", "ap10k"]) == 0
    assert "ap10k17" in capsys.readouterr().out
    assert main(["models", "show", str(tmp_path / "x.pth"), "--heads", "infants=coco17"]) == 0
    assert "infants" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing.pth"], "is no file or folder here"),
        (["show", "{plus}", "--expect", "tiny"], "holds the weights of tiny-plus, not of tiny"),
        (["show", "{plus}", "--heads", "cats"], "--heads cats: say which skeleton"),
        (["show", "{plus}", "--heads", "cats=felis"], "unknown skeleton 'felis'"),
        (["convert", "{plus}", "x.pth", "--layout", "mmpose"], "no layout is called 'mmpose'. Did you mean "),
        (["convert", "{plus}", "x.pth", "--layout", "vitpose", "--expert", "cats"], "no expert for 'cats'"),
        (["convert", "vitpose-base", "x.pth", "--layout", "vitpose"], "must be downloaded by hand"),
    ],
)
def test_errors_are_sentences(
    plus: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["models", *(argument.format(plus=plus) for argument in arguments)]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
