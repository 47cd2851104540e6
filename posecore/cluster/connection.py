"""What every job on Ray needs first: a connection, quiet data stages, and places all nodes can reach."""

import logging
import os
import signal
import threading
from pathlib import Path

import ray
import ray.data

from posecore.errors import ConfigError
from posecore.storage import AnyPath, as_path


def connect_to_ray() -> None:
    """Joins the cluster RAY_ADDRESS names, or starts a local one; does nothing where a connection exists."""
    if ray.is_initialized():
        return
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=os.environ.get("RAY_ADDRESS") or "local", include_dashboard=False, logging_level="ERROR")
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own in the place of the job's (endings.py)


def quiet_ray_data() -> None:
    """Leaves progress to the job's own bar, which counts images or crops where Ray's counts blocks."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def for_all_nodes(location: str | AnyPath) -> AnyPath:
    """The location in a form that means the same in every process: local paths become absolute.

    Raises:
        ConfigError: the location exists in this process only.
    """
    path = as_path(location)
    if isinstance(path, Path):
        return path.resolve()
    if path.protocol == "memory":
        raise ConfigError(f"{path}: memory:// exists in one process only; give a folder or URL every node can reach.")
    return path
