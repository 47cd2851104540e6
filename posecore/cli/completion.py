"""``posecore completion``: what a shell needs to complete commands and options."""

import argparse

from posecore.cli.commands import Commands

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Adds ``completion``."""
    parser = commands.add_parser(
        "completion",
        help="print a shell's completion script",
        epilog="bash: posecore completion bash > ~/.local/share/bash-completion/completions/posecore   "
        "zsh: posecore completion zsh > a folder of $fpath, as _posecore",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    from posecore.cli import build_parser

    print(shtab.complete(build_parser(), options.shell))
    return 0
