"""The tables of epochs, drawn before they are needed: in a thread, or, large ones, once for all processes of a machine.

An order of ten million instances takes a minute to draw and gigabytes while it is drawn. So a process of its own draws
it into files below the machine's cache, and whoever reads it maps them. The folder is named by all that the order is a
function of.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posecore.asides import alone_in, aside_folder
from posecore.errors import StorageError
from posecore.loading.blocks import BlockStarts

LEAST_SAMPLES = 1_000_000
"""Epochs of fewer are drawn by a thread and held in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class EpochTable:
    """The instances of one epoch, S steps by G slots.

    Attributes:
        dataset: (S, G) int16, index of the mixture entry.
        instance: (S, G) uint32, index into the entry's instances.
        number_of_pass: (S, G) uint32, how many times the entry's instances had been gone through before.
        blocks: of each entry that is read in blocks, by its index.
    """

    dataset: NDArray[np.int16]
    instance: NDArray[np.uint32]
    number_of_pass: NDArray[np.uint32]
    blocks: Mapping[int, BlockStarts]

    def write(self, folder: Path) -> None:
        """Writes a file per array into an empty folder."""
        arrays: dict[str, NDArray[Any]] = {
            "dataset": self.dataset,
            "instance": self.instance,
            "number_of_pass": self.number_of_pass,
        }
        for entry, starts in self.blocks.items():
            arrays |= {f"block-{entry}": starts.block, f"step-{entry}": starts.step}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def mapped(cls, folder: Path) -> "EpochTable":
        """What :meth:`write` wrote, mapped."""
        arrays = read_arrays(folder)
        blocks = {
            int(name.removeprefix("block-")): BlockStarts(arrays[name], arrays[name.replace("block", "step")])
            for name in arrays
            if name.startswith("block-")
        }
        return cls(arrays["dataset"], arrays["instance"], arrays["number_of_pass"], blocks)


class Epochs:
    """The tables of epochs: whoever asks for one has the next drawn in the background.

    Args:
        draw: draws or finds the table of an epoch.
    """

    def __init__(self, draw: Callable[[int], EpochTable]) -> None:
        self._draw = draw
        self._tables: dict[int, Future[EpochTable]] = {}

    def __getitem__(self, epoch: int) -> EpochTable:
        self._begin(epoch)
        table = self._tables[epoch].result()
        self._begin(epoch + 1)
        for number in [number for number in self._tables if abs(number - epoch) > 1]:
            del self._tables[number]
        return table

    def _begin(self, epoch: int) -> None:
        if epoch not in self._tables:
            self._tables[epoch] = Future()
            # No pool, whose threads a process would wait for when it ends.
            threading.Thread(target=self._fulfil, args=(epoch, self._tables[epoch]), daemon=True).start()

    def _fulfil(self, epoch: int, table: Future[EpochTable]) -> None:
        try:
            table.set_result(self._draw(epoch))
        except BaseException as error:  # which belongs to whoever asks for the table
            table.set_exception(error)


class DrawnFiles:
    """Tables in files, drawn by a process of its own and mapped by all of the machine.

    Args:
        scratch: local folder for orders. Those of which no process reads are removed.
        settings: JSON values, and
        arrays: arrays, which together with the module's function decide about the order.
        module: run as ``python -m module FOLDER EPOCH ASIDE``, draws an epoch's table from the ``settings.json`` and
            the arrays in FOLDER and writes it into ASIDE.
    """

    def __init__(
        self, scratch: Path, settings: Mapping[str, object], arrays: Mapping[str, NDArray[Any]], module: str
    ) -> None:
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        self._module = module
        self.folder = scratch / digest.hexdigest()[:32]
        scratch.mkdir(parents=True, exist_ok=True)
        with alone_in(scratch):
            if not self.folder.exists():
                with aside_folder(scratch) as aside:
                    (aside / "settings.json").write_text(text)
                    for name, array in arrays.items():
                        np.save(aside / f"{name}.npy", array)
                    aside.rename(self.folder)
            self._descriptor = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            _remove_unread(scratch)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, mapped."""
        return read_arrays(self.folder)

    def table(self, epoch: int) -> EpochTable:
        """The table of an epoch, drawn if no process has."""
        epochs = self.folder / "epochs"
        epochs.mkdir(exist_ok=True)
        target = epochs / str(epoch)
        with alone_in(epochs):
            if not target.exists():
                with aside_folder(epochs) as aside:
                    self._draw(epoch, aside)
                    aside.rename(target)
            for path in epochs.iterdir():
                if path.name.isdecimal() and int(path.name) < epoch - 2:  # mapped files stay readable
                    shutil.rmtree(path, ignore_errors=True)
            return EpochTable.mapped(target)

    def _draw(self, epoch: int, aside: Path) -> None:
        command = [sys.executable, "-m", self._module, str(self.folder), str(epoch), str(aside)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise StorageError(f"{self.folder}: the order of epoch {epoch} could not be drawn there ({reason}).")


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays in a folder by name, mapped."""
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def _remove_unread(scratch: Path) -> None:
    for path in scratch.iterdir():
        if path.name.startswith("."):
            continue
        descriptor = os.open(path, os.O_RDONLY)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        os.close(descriptor)
