"""Procedural bodies, rendered and written in the native formats of real datasets."""

from posecore.synth.writers import write_dataset

__all__ = ["write_dataset"]
