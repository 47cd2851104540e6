"""Draws one epoch of a large mixture: ``python -m posecore.loading.draw_order FOLDER EPOCH ASIDE``, by the loader."""

import sys
from pathlib import Path

from posecore.loading.mixture import MixtureSampler


def main(folder: str, epoch: str, aside: str) -> None:
    """Draws an epoch of the order that is described in a folder, into another folder."""
    MixtureSampler.described(Path(folder)).draw(int(epoch)).write(Path(aside))


if __name__ == "__main__":
    main(*sys.argv[1:])
