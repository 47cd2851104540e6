import argparse
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from posecore.cli import COMMANDS, main
from posecore.doors import built_in
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.models.heads.door import HeadConfig
from tests.support.small_split import definition, records


def test_list_names_every_dataset_with_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "title", "keypoints", "splits", "licence", "commercial", "use"]
    (mpii,) = [line for line in lines if line.startswith("mpii ")]
    assert "16" in mpii
    assert mpii.endswith("no")


def test_rendered_data_passes_the_check_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = str(tmp_path / "coco"), tmp_path / "gallery"
    assert main(["synth", "--dataset", "coco", "--out", root, "--num-train", "2", "--num-val", "1"]) == 0
    worst = tmp_path / "worst"
    assert main(["datasets", "check", "coco", "--root", root, "--out", str(worst)]) == 0
    assert "coco train: 2 images" in capsys.readouterr().out
    assert sorted(page.parent.name for page in worst.glob("*/contact_sheet.png")) == ["train", "val"]
    assert main(["datasets", "show", "coco", "--root", root, "--split", "val", "--out", str(out)]) == 0
    assert Path(capsys.readouterr().out.strip()).is_relative_to(out)
    next((tmp_path / "coco" / "val2017").iterdir()).unlink()
    assert main(["datasets", "check", "coco", "--root", root, "--split", "val"]) == 1
    assert "missing" in capsys.readouterr().out


def test_audit_tells_what_two_splits_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locations = []
    for name, count in (("a", 3), ("b", 2)):
        source = records(tmp_path / name / "raw", count)
        job = ingest_job(definition(), "train", tmp_path / name / "raw", tmp_path / name, IngestSettings())
        ingest(job, source)
        locations.append(str(job.folder))
    assert main(["audit", *locations]) == 1
    assert "share 2 exact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["datasets", "check", "cocoo", "--root", "."], "unknown dataset 'cocoo'"),
        (["datasets", "show", "coco", "--root", ".", "--out", "o", "--split", "tset"], "has no split 'tset'"),
        (["datasets", "check", "coco", "--root", "nowhere://x"], "nowhere://x: "),
        (["audit", "absent", "absent"], "absent: no manifest.json"),
        (["synth", "--dataset", "coco", "--out", "file/coco"], "file/coco/train2017: a file is where a folder must be"),
        (["lineage", "--folder", "absent", "model", "pose", "1"], "absent/mlflow.db"),
        (["lineage", "model", "pose", "1", "--folder", "absent"], "absent/mlflow.db"),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("error: ")
    assert message in line


def test_the_list_is_whole_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["models", "list", "sapiens-1b"]) == 0
    printed = capsys.readouterr().out
    said = " ".join(printed.split())
    for kind, head in built_in(HeadConfig).items():
        assert not head.whole_scenes or f"{head.approach} (head {kind})" in said
    lines = [line.split() for line in printed.splitlines()]
    assert lines[0] == ["name", "million", "GFLOPs", "h×w", "takes", "points", "commercial", "licence"]
    assert ["sapiens-1b-wholebody", "1,168.76", "9,758.3", "1024×768", "crops", "133", "no", "CC-BY-NC-4.0"] in lines


def test_a_published_name_is_shown_with_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "sapiens2-0.8b-308"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "preset sapiens2-0.8b, layout sapiens2" in shown
    assert "848,704,820 parameters, 7,092.0 GFLOPs" in shown
    assert "no biometric processing" in shown


def test_an_architecture_is_shown_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "rtmpose-m"]) == 0
    assert "with one head of 17 points: 13,587,611 parameters, 3.8 GFLOPs" in capsys.readouterr().out


def test_two_dashes_before_a_command_mean_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "datasets", "list"]) == 0
    assert "coco" in capsys.readouterr().out
    assert main(["--", "train", "--model", "vit-nano"]) == 2
    assert capsys.readouterr().err.startswith("error: --data: missing; give both")


def test_the_help_lists_every_command_and_imports_none() -> None:
    program = (
        "import sys; from posecore.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({name.partition('.')[0] for name in sys.modules} & {'numpy', 'pydantic', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name, (_, told) in COMMANDS.items():
        assert re.search(rf"^    {name}\s+{re.escape(told.split()[0])}", done.stdout, re.M), name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_list_says(name: str) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    import_module(f"posecore.cli.{COMMANDS[name][0]}").add(commands)
    assert name in commands.choices


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As ``posecore stages list | head -1`` is."""
    with subprocess.Popen(
        [sys.executable, "-m", "posecore", "stages", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 141
