"""Unfinished files: a killed writer's are swept by the next one, a living writer's never."""

import subprocess
import sys
from pathlib import Path

import pytest

from posecore.asides import aside_file, aside_folder, sweep, sweep_once
from posecore.storage import write_atomically, written_aside

KILLED = """
import os, signal, sys
from pathlib import Path
from posecore.asides import AsideFolder
from posecore.storage import written_aside
folder = Path(sys.argv[1])
aside = AsideFolder(folder)
(aside.path / "state").write_bytes(b"half")
with written_aside(folder / "file.bin") as path:
    path.write_bytes(b"half")
    print(path.name, aside.path.name, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def writer(folder: Path, fate: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(folder), fate]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_s_files_go_and_a_living_one_s_stay(tmp_path: Path) -> None:
    with writer(tmp_path, "alive") as alive:
        assert alive.stdout is not None
        living = alive.stdout.readline().split()
        writer(tmp_path, "killed").communicate()
        assert len(list(tmp_path.iterdir())) == 4
        strangers = [tmp_path / name for name in (".hidden", "data.part", ".0123.part.tar", f".{'g' * 32}.part")]
        for path in strangers:
            path.touch()
        link = tmp_path / f".{'a' * 32}.part"
        link.symlink_to(strangers[0])
        write_atomically(tmp_path / "other", b"whole")
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {*living, "other", link.name, *(path.name for path in strangers)}
        alive.communicate("")
    assert (tmp_path / "file.bin").read_bytes() == b"half"


def test_a_folder_is_swept_once_by_a_process(tmp_path: Path) -> None:
    left = tmp_path / f".{'0' * 32}.part"
    for expected in (False, True):
        left.touch()
        sweep_once(tmp_path)
        assert left.exists() is expected
    sweep(tmp_path)
    assert not left.exists()


def test_what_is_not_renamed_goes_with_the_block(tmp_path: Path) -> None:
    with aside_file(tmp_path / "deep", ".bin") as file, aside_folder(tmp_path / "deep") as folder:
        assert file.suffix == ".bin"
        (folder / "inside").touch()
        sweep(tmp_path / "deep")
        assert file.exists()
        assert folder.exists()
    assert list((tmp_path / "deep").iterdir()) == []
    with pytest.raises(ZeroDivisionError), written_aside(tmp_path / "deep" / "file"):
        _ = 1 / 0
    assert list((tmp_path / "deep").iterdir()) == []
