"""``python -m posecore`` is ``posecore``."""

import sys

from posecore.interruption import signals_end_the_process


def main() -> int:
    """Runs the command line; returns its exit status."""
    signals_end_the_process()  # before the import below, which takes seconds
    from posecore.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
