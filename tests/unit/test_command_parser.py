"""What is said of a command line that nobody can follow."""

import pytest

from posecore.cli import main


@pytest.mark.parametrize(
    ("given", "usage", "said"),
    [
        (["predcit"], "usage: posecore [-h] COMMAND", "invalid choice: 'predcit'"),
        (["predcit"], "usage: posecore [-h] COMMAND", "Did you mean predict?"),
        (["synth", "--dataset", "cocoo", "--out", "x"], "usage: posecore synth ", "Did you mean coco?"),
        (
            ["datasets", "show", "coco", "--root", "x", "--out", "y", "--spilt", "val"],
            "usage: posecore datasets show ",
            "unrecognized arguments: --spilt val. Did you mean --split?",
        ),
        (["evaluate", "--modell", "x"], "usage: posecore evaluate ", "arguments are required: --model, --store"),
        (["train", "--conf=x.yaml", "--dryrun"], "usage: posecore train ", "Did you mean --dry-run?"),
    ],
)
def test_the_command_that_was_meant_says_what_is_near(
    given: list[str], usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(usage)
    assert said in " ".join(printed.split())


def test_a_full_disk_and_a_missing_file_are_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth-sheet", "--out", "/dev/full/sheet.jpg"]) == 1
    assert capsys.readouterr().err == "error: /dev/full: a file is where a folder must be; name another place.\n"
