"""What every format of one's own is that a model is exported to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from posecore.config import Config, Extension, apply_override, parse_config
from posecore.doors import Door, trusted_file
from posecore.errors import ConfigError
from posecore.models.pose_model import PoseModel

OURS = ("onnx", "safetensors")
"""Formats that ``posecore export`` writes itself."""
_DOOR = Door("export format", "posecore.export_formats")


class ExportFormat(Extension):
    """The protocol of formats."""

    def write(self, model: PoseModel, head: str, out: Path) -> str:
        """Writes one head of a model.

        Args:
            model: in evaluation mode, on the CPU.
            head: dataset whose points are wanted.
            out: file or folder.

        Returns:
            A line for whoever asked: what was written, and how well it holds.
        """
        raise NotImplementedError(f"{type(self).__name__} has to write a model")


ExportFormatConfig: TypeAlias = Annotated[ExportFormat, _DOOR]
"""Whatever comes by."""


class _Asked(Config):
    format: ExportFormatConfig


def format_named(kind: str, options: Sequence[str] = ()) -> ExportFormat:
    """The format that somebody names on the command line, whose code is run therefore.

    Args:
        kind: name of an installed one, or where its class lies.
        options: of it, as ``key=value``.

    Raises:
        ConfigError: there is none of that name, or an option is not its own.
    """
    if _DOOR.place(kind) is None:
        raise ConfigError(_DOOR.unknown(kind, OURS))
    values: dict[str, Any] = {"kind": kind}
    for option in options:
        apply_override(values, option)
    with trusted_file():
        return parse_config({"format": values}, _Asked, origin="posecore export").format
