"""Saves a model over another and kills itself at the n-th thing it does to a file, for every n there is.

Run as a script in a process of its own with one thread, which may fork safely: ``killed_saving.py FOLDER``. Prints a
JSON list: for every n what was being done, and by the mean of its weights which model was read afterwards.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model, save_model
from tests.support.tiny_training import tiny_model

WATCHED = ("open", "os.rename", "os.remove", "os.mkdir")


def filled(value: float) -> PoseModel:
    """A model all of whose weights are one number."""
    model = tiny_model(drop_path=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def killed_at(number: int, action: Callable[[], object], note: Path) -> bool:
    """Runs an action in a forked process that kills itself before the n-th thing done to a file; False if it ended."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event not in WATCHED:
                return
            seen += 1
            if seen == number:
                os.write(descriptor, f"{event} {arguments[:2]}".encode())
                os.kill(os.getpid(), signal.SIGKILL)

        descriptor = os.open(note, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        sys.addaudithook(watch)
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    folder, note = Path(sys.argv[1]), Path(sys.argv[1] + ".note")
    old, new = filled(1.0), filled(2.0)
    results = []

    def names() -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    number, killed = 0, True
    while killed:
        number += 1
        shutil.rmtree(folder, ignore_errors=True)
        save_model(old, folder)
        killed = killed_at(number, lambda: save_model(new, folder), note)
        if not killed:
            break
        value = float(load_model(folder).backbone.pos_embed.detach().mean())
        left = names()
        save_model(new, folder)
        results.append({"at": note.read_text(), "value": value, "left": left, "then": names()})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
