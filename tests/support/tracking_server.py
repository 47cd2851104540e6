"""A real MLflow server on loopback that a test stops, freezes and starts again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from posecore.errors import PreflightError
from posecore.lineage.store.reachable import check_reachable
from tests.support.ports import free_port

IDLE = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without this a server starts a dozen processes for jobs that nobody here asks it for."""


class TrackingServer:
    """Keeps its record in a folder, so that a server started again is the same one. Use as a context manager.

    Args:
        folder: of artifacts, log, and the record.
        store: address of a database that has the record instead.
        options: further options of ``mlflow server``.
        environment: further variables.
    """

    def __init__(self, folder: Path, store: str = "", options: Sequence[str] = (), **environment: str) -> None:
        self._folder = folder
        self._store = store or f"sqlite:///{folder / 'server.db'}"
        self._options = options
        self._environment = environment
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", self._store, "--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1", *self._options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **IDLE, **self._environment},
            )
        until = time.monotonic() + 120
        while True:
            try:
                check_reachable(self.uri, 2.0)
                return
            except PreflightError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < until, "the MLflow server did not start"
                time.sleep(0.2)

    def freeze(self) -> None:
        """Connections are accepted by the system and never answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on after :meth:`freeze`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it and its workers at once; connections are refused."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)
