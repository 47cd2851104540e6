"""What the command line says of stages."""

import pytest

from posecore.cli import main
from posecore.stages.load import BUILT_IN


def test_every_stage_is_listed_with_its_kind_and_purpose(capsys):
    assert main(["stages", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) >= set(BUILT_IN)
    assert lines["resize"].split()[1:4] == ["image", "Gives", "pictures"]
    assert lines["pseudo_label"].split()[1] == "model"
    assert lines["filter"].split()[1] == "table"
    assert lines["drop_crowds"].split()[1] == "function"
    assert "Attributes" not in "".join(lines.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resize", ["resize: image stage, posecore.stages.sizes:Resize", "  longer_side_px: int, required"]),
        (
            "drop_subjects",
            [
                "  subjects: tuple[str, ...] or a file (under `files`), required",
                "      their ids, or a declared file with one a line.",
                "      subject to why it is listed; told with what is taken out.",
            ],
        ),
        ("video_frames", ["video_frames: source stage, posecore.stages.videos:VideoFrames"]),
        ("deduplicate", ["deduplicate: split stage, posecore.stages.duplicates:Deduplicate"]),
        ("pseudo_label", ["  head: str or null, default None"]),
        ("blur_faces", ["  unplaced: Literal['reject', 'keep'], default 'reject'"]),
        ("drop_crowds", ["no options"]),
        (f"{__name__}:test_a_name", ["error"]),
    ],
)
def test_a_stage_is_described(capsys, name, said):
    status = main(["stages", "describe", name])
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    if said == ["error"]:
        assert status == 1
        assert "test_cli_stages.py has no test_a_name" in printed.err
    else:
        assert status == 0
        assert set(said) <= set(lines)
        assert not any("skeleton:" in line for line in lines)
