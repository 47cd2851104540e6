"""The command line: thin wrappers, one subcommand group per room of the library."""

import argparse
import sys
from collections.abc import Sequence

from posecore.errors import PoseCoreError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 a deliberate error or a failed check, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="posecore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _ = commands
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except PoseCoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
