"""A shell as somebody sits before it: a terminal, whose TAB key is pressed."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_SETTINGS = {"PS1": "", "TERM": "dumb", "INPUTRC": os.devnull, "HISTFILE": os.devnull}


def completed_by_bash(script: Path, typed: Sequence[str], folder: Path) -> Mapping[str, str]:
    """What stands on the line after TAB, by what was typed.

    Args:
        script: to be sourced before.
        typed: beginnings of commands, without a single quote.
        folder: where the shell is.
    """
    ours, theirs = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    environment = {**os.environ, **_SETTINGS}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment, start_new_session=True
    ) as shell:
        os.close(theirs)
        try:
            os.write(ours, f"source {script}\n".encode())
            lines = {}
            for text in typed:
                # What was completed becomes the words of an echo, whose own text is shown in another spelling.
                os.write(ours, f"{text}\t\x01echo LI''NE: \x05 :EN''D\n".encode())
                lines[text] = _until(ours, ":END").partition("LINE: ")[2].partition(":END")[0].rstrip()
        finally:
            shell.kill()
            os.close(ours)
    return lines


def _until(terminal: int, end: str) -> str:
    """What the terminal shows up to some text.

    Raises:
        TimeoutError: it does not come.
    """
    shown, last = "", time.monotonic() + 30
    while end not in shown:
        if not select.select([terminal], [], [], max(0.0, last - time.monotonic()))[0]:
            raise TimeoutError(shown)
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown
