"""What the modules of the command line share: the object that commands are added to, and types of options."""

import argparse
from pathlib import Path
from typing import TypeAlias

from posecore.errors import UsageError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(text: str) -> int:
    """A whole number from 1, as the ``type`` of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def refuse_folder(out: str, such_as: str) -> None:
    """Refuses a folder where ``--out`` names a file.

    Args:
        out: as given.
        such_as: name of a file that would do.

    Raises:
        UsageError: it is a folder.
    """
    if Path(out).is_dir():
        raise UsageError(f"--out {out} is a folder; name a file, such as {Path(out) / such_as}.")


def input_size(text: str) -> tuple[int, int]:
    """Height and width of ``--input HxW``.

    Raises:
        UsageError: it is no such text.
    """
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UsageError(f"--input {text}: give height x width in pixels, for example 1024x768.")
    return int(height), int(width)
