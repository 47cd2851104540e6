"""What commands end with: 2 where the command line is wrong, 1 where what it names is not there or no good."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from posecore.cli import COMMANDS, main
from posecore.formats.files import check_annotations
from posecore.formats.reader import Source
from posecore.synth.writers import write_dataset

REPOSITORY = Path(__file__).resolve().parents[2]

WRONG_USAGE = {
    "train --model vit-nano": "--data: missing",
    "train --data coco --model vit-nano": "--data coco: expected DATASET[:TRAIN[:EVALUATE]]=ROOT",
    "train --data coco=coco --model vit-nan": "Did you mean vit-nano?",
    "train --data coco=coco --model vit-nano --steps -4": "training.steps: Input should be greater than 0",
    "train --config demo.yaml --set foo": "--set foo: expected key.path=value",
    "train --config demo.yaml --set training.stesp=3": "stesp: Extra inputs are not permitted; did you mean steps?",
    "train --config demo.yaml --set training.engine.precision=bf61": "; did you mean bf16?",
    "distill --teacher x --student rtmpose-m": "--data: missing",
    "distill --teacher x --student rtmpose-m --data coco": "--data coco: expected",
    "distill --teacher x --student rtmpose-mm --data coco=coco": "Did you mean rtmpose-m?",
    "adapt --config adapt.yaml --strategy full --budget 1h": "--strategy says what --budget is to find out",
    "adapt --config adapt.yaml --strategy lroa": "; did you mean lora?",
    "adapt --config adapt.yaml --budget 3": "'3' is no budget",
    "adapt": "arguments are required: --config",
    "pretrain --config pretrain.yaml --set model.backbnoe=vit-nano": "; did you mean backbone?",
    "ingest --dataset coco --split train --root coco --out o --images-per-shard 0": "images_per_shard",
    "ingest --dataset coco --split train --root coco --out o --precut 3": "precut.input_size",
    "evaluate --model x --store coco --out o": "--store coco: expected NAME=VALUE",
    "evaluate --model x --store coco=y --out o --batch-size 0": "batch_size",
    "promote --model x": "one of the arguments --version",
    "promote --model x --version 1 --gate coco/AP": "expected set/metric>=number",
    "promote --model x --rollback": "need a reason",
    "promote --model x --version 1 --measure-holder --dry-run": "leave out --dry-run",
    "plan --gpu h1000 --backbone vitpose-base": "Did you mean h100?",
    "plan --gpu h100 --backbone vitpose-bse": "Did you mean vitpose-base?",
    "plan --gpu h100 --backbone vitpose-base --input 7x9": "must be multiples of 16",
    "plan --gpu h100": "give --backbone",
    "score text.txt": "--truth FILE --protocol NAME",
    "score text.txt --dataset coco": "--root FOLDER",
    "score text.txt --truth text.txt --protocol cocco": "Did you mean coco?",
    "calibrate x y --level 2": "--level 2: a probability",
    "export x --out .": "--out . is a folder; name a file, such as model.onnx",
    "compare models:/x/1 models:/x/2 --out .": "--out . is a folder",
    "compare models:/x/1 models:/x/2 --batch-size 0": "batch_size",
    "predict coco --model x --out y --boxes a --detector b": "give one",
    "models list vitpose-bsae": "Did you mean vitpose-base?",
    "models recipes nope": "no recipe has 'nope'",
    "models show x --heads foo": "--heads foo: say which skeleton",
    "datasets augmentations absent --out y --input 5": "--input 5",
    "view x --port 99999999": "is no port",
    "completion fish": "invalid choice: 'fish'",
}
NOT_THERE = {
    "train --config none.yaml": "none.yaml: no such file",
    "train --config text.txt": "the top level must be a mapping",
    "train --data coc=coco --model vit-nano": "Did you mean coco?",
    "train --data coco:trian=coco --model vit-nano --dry-run": "Did you mean train?",
    "train --data coco=coca --model vit-nano --dry-run": "annotations/person_keypoints_train2017.json is missing below",
    "train --data coco=cocoo --model vit-nano": "/coco?",
    "distill --teacher x --student rtmpose-m --data coco=coca --dry-run": "is missing below",
    "adapt --config adapt.yaml --dry-run": "is missing below",
    "pretrain --config pretrain.yaml --dry-run": "is missing below",
    "ingest --dataset coco --split train --root coca --out o": "is missing below",
    "ingest --dataset coco --split train --root cocoo --out o --dry-run": "/coco?",
    "ingest --dataset coco --split trian --root coco --out o --dry-run": "Did you mean train?",
    "evaluate --model absent --store coco=y --out o --dry-run": "absent is no file or folder here",
    "promote --model x --version 1": "nothing has been recorded at",
    "plan --gpu h100 --config none.yaml": "none.yaml: no such file",
    "score absent --truth text.txt --protocol coco": "error: ",
    "export absent --out x.onnx": "absent is no file or folder here",
    "calibrate absent absent --out y": "absent: no manifest.json",
    "predict absent.jpg --model x --out y": "absent.jpg: there is no photo or video",
    "predict https://x.invalid/a.jpg --model x --out y": "is an address; download it",
    "predict coco --model text.txt --out y": "text.txt begins with b'hello",
    "view absent": "absent: no such folder",
    "view text.txt": "text.txt is a file; name a folder",
    "audit absent absent": "absent: no manifest.json",
    "stages describe blur_face": "Did you mean blur_faces?",
    "synth --dataset coco --out text.txt": "a file is where a folder must be",
    "synth-sheet --out .": ". is a folder; name a file",
    "datasets export absent --format coco --out y": "absent does not exist",
    "datasets export . --format coco --out y": ". has no images.json; give the folder that",
    "labels next absent --pictures absent --out y": "absent does not exist",
    "labels learn absent --out y": "absent: no manifest.json",
    "models show sapiens-1b-whole": "Did you mean sapiens-1b-wholebody?",
    "runs": "nothing has been recorded at",
    "runs --folder runs/nowhere": "nothing has been recorded at",
    "lineage model x 1": "nothing has been recorded at",
    "compare models:/x/1 models:/x/2": "nothing has been recorded at",
    "rerun models:/x/1 --out y": "nothing has been recorded at",
    "withdraw --subject a/b": "nothing has been recorded at",
    "certify models:/x/1 --never-saw a/b": "nothing has been recorded at",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set, and run files of jobs on data that are not there."""
    folder = tmp_path_factory.mktemp("place")
    write_dataset("coco", folder / "coco", num_train=2, num_val=1, image_size=(64, 64))
    (folder / "text.txt").write_text("hello\n")
    names = {"demo": "demo", "adapt": "adapt_demo", "pretrain": "pretrain_demo"}
    for name, config in names.items():
        (folder / f"{name}.yaml").write_text((REPOSITORY / "pipelines" / "configs" / f"{config}.yaml").read_text())
    return folder


@pytest.fixture
def status(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Gives the exit status of a command, however it ends."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def ended(command: str) -> int:
        try:
            return main(shlex.split(command))
        except SystemExit as end:
            return int(end.code or 0)

    return ended


@pytest.mark.parametrize(
    ("command", "expected", "said"),
    [(command, 2, said) for command, said in WRONG_USAGE.items()]
    + [(command, 1, said) for command, said in NOT_THERE.items()],
)
def test_a_command_says_in_one_sentence_whether_it_or_what_it_names_is_wrong(
    status: Callable[[str], int], capfd: pytest.CaptureFixture[str], command: str, expected: int, said: str
) -> None:
    assert status(command) == expected
    errors = capfd.readouterr().err
    assert said in " ".join(errors.split())
    assert "Traceback" not in errors
    assert len([line for line in errors.splitlines() if "error: " in line]) == 1


def test_a_dry_run_looks_at_each_split_once(
    status: Callable[[str], int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def counting(source: Source) -> None:
        seen.append(source.split)
        check_annotations(source)

    monkeypatch.setattr("posecore.workflows.data_steps.check_annotations", counting)
    assert status("train --data coco=coco --model vit-nano --dry-run") == 0
    assert "datasets:" in capfd.readouterr().out
    assert seen == ["train", "val"]


def test_every_command_is_in_the_tables() -> None:
    tried = {command.partition(" ")[0] for command in (*WRONG_USAGE, *NOT_THERE)}
    assert set(COMMANDS) <= tried


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "command",
    [
        "train --data coco=coco --model vit-nano",
        "distill --teacher models:/x/1 --student rtmpose-m --data coco=coco",
        "pretrain --config pretrain.yaml --set data_folder=. --set run_folder=run "
        "--set 'datasets=[{name: coco, root: coco, train: train}]'",
        "adapt --config adapt.yaml --set data_folder=. --set run_folder=run --set datasets.0.definition=coco "
        "--set datasets.0.root=coco --set datasets.2.root=coco --set datasets.2.definition=coco",
    ],
)
def test_a_dry_run_of_a_job_prints_its_run_file_and_touches_nothing(
    status: Callable[[str], int], place: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    before = contents(place)
    assert status(f"{command} --dry-run") == 0, capfd.readouterr().err
    assert "run_folder" in yaml.safe_load(capfd.readouterr().out)
    assert contents(place) == before


def test_a_dry_run_of_an_ingestion_counts_and_touches_nothing(
    status: Callable[[str], int], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    assert status("ingest --dataset coco --split train --root coco --out shards --dry-run") == 0
    told = capfd.readouterr().out
    assert "2 images" in told
    assert "is not there yet" in told
    assert contents(place) == before
