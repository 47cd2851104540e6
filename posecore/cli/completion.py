"""``posecore completion``: what a shell needs to complete commands and options."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from posecore.cli.commands import Commands

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Adds ``completion``."""
    parser = commands.add_parser(
        "completion",
        help="print a shell's completion script",
        epilog="where shells look for it: bash in ~/.local/share/bash-completion/completions/posecore, zsh in a folder "
        "of $fpath as _posecore",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    from posecore.cli import build_parser

    parser = build_parser()
    for action in _free_texts(parser):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))
    return 0


def _free_texts(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What may be the path of a file or folder: every argument that is neither a number nor one of a few words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _free_texts(below)
        elif action.nargs != 0 and action.choices is None and action.type in (None, str, Path):
            yield action
