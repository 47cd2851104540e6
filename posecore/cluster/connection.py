"""What every job on Ray needs first: a connection, and quiet data stages."""

import logging
import os
import signal
import socket
import sys
import threading

import ray

from posecore.errors import PreflightError

_PATIENCE_S = 5.0


def connect_to_ray() -> None:
    """Joins the cluster RAY_ADDRESS names, or starts a local one; does nothing where a connection exists.

    Raises:
        PreflightError: it cannot be joined, or did not start.
    """
    if ray.is_initialized():
        return
    # Ray would have its workers give way to everything else on the machine. On a cluster its own environment decides.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not sys.stderr.isatty():  # Ray colours its workers' lines in files as well
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    handler = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS") or "local"
    _refuse_silence(address)
    try:
        ray.init(address=address, include_dashboard=False, logging_level="ERROR")
    except Exception as error:  # a bare one says that a node took too long to start
        ray.shutdown()  # what of it has started
        raise PreflightError(_sentence(address, " ".join(str(error).split()).rstrip(". "))) from error
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own in the place of the job's (endings.py)


def _refuse_silence(address: str) -> None:
    """Refuses an address where nobody listens, for which Ray would wait a minute and a half."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE_S).close()
    except OSError as error:
        raise PreflightError(_sentence(address, str(error))) from None


def _sentence(address: str, why: str) -> str:
    if address == "local":
        return f"Ray did not start on this machine ({why}); try again when it is less busy, or take torchrun."
    return (
        f"RAY_ADDRESS {address}: no cluster answers there ({why}); correct the address, or take it out of the "
        "environment to have Ray started on this machine."
    )


def quiet_ray_data() -> None:
    """Leaves progress to the job's own bar, which counts images or crops where Ray's counts blocks."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
