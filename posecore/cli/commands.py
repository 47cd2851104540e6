"""What the modules of the command line share: the object that commands are added to, and types of options."""

import argparse
from typing import TypeAlias

from posecore.errors import UsageError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(text: str) -> int:
    """A whole number from 1, as the ``type`` of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def input_size(text: str) -> tuple[int, int]:
    """Height and width of ``--input HxW``.

    Raises:
        UsageError: it is no such text.
    """
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UsageError(f"--input {text}: give height x width in pixels, for example 1024x768.")
    return int(height), int(width)
