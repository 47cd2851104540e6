"""Pictures that a training draws now and then, on its run's page, where a slider goes from step to step.

They are files of the run folder first, and are sent from there, so that a server that is away loses none.
"""

import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mlflow import MlflowClient
from PIL import Image

from posecore.lineage.store.tracking import RunLog
from posecore.storage import AnyPath

Ask = Callable[[Callable[[MlflowClient], Any]], Any]
_NAME = re.compile(r"step_(\d{8})\.jpg")
_SHOWN = "images"  # MLflow's folder of pictures with steps


def picture_path(folder: AnyPath, name: str, step: int) -> AnyPath:
    """Where the picture of a set at a step lies."""
    return folder / name / f"step_{step:08d}.jpg"


class SamplePictureLog:
    """Sends pictures of a folder, each once.

    Args:
        run: that shows them.
        folder: in which they lie, as :func:`picture_path` says.
    """

    def __init__(self, run: RunLog, folder: AnyPath) -> None:
        self._run = run
        self._folder = folder
        self._sent: set[str] | None = None

    def send(self, ask: Ask) -> None:
        """Sends those that are new.

        Args:
            ask: calls with the store's client; whatever it raises is raised, and what was sent by then stays so.
        """
        for key, step, path in self._found():
            if self._sent is None:
                stored = ask(lambda client: client.list_artifacts(self._run.run_id, _SHOWN))
                self._sent = {item.path.removeprefix(f"{_SHOWN}/").partition("+timestamp+")[0] for item in stored}
            if f"{key}+step+{step}" not in self._sent:
                picture = Image.open(io.BytesIO(path.read_bytes()))
                ask(partial(_show, self._run, picture, key, step))
                self._sent.add(f"{key}+step+{step}")

    def _found(self) -> Iterator[tuple[str, int, AnyPath]]:
        for path in sorted(self._folder.glob("*/*.jpg")):
            if name := _NAME.fullmatch(path.name):
                yield f"predictions {path.parent.name}", int(name.group(1)), path


def _show(run: RunLog, picture: Image.Image, key: str, step: int, client: MlflowClient) -> None:
    client.log_image(run.run_id, picture, key=key, step=step)
