"""What every format is that a model is exported to, and those that are built in."""

from pathlib import Path

from posecore.config import Extension
from posecore.models.pose_model import PoseModel


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
