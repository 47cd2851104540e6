"""The jobs, as an installed package has them; in the repository they are the scripts that clusters submit."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "pipelines")]
