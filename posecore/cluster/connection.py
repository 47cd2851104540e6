"""What every job on Ray needs first: a connection, and quiet data stages."""

import logging
import os
import signal
import threading

import ray
import ray.data


def connect_to_ray() -> None:
    """Joins the cluster RAY_ADDRESS names, or starts a local one; does nothing where a connection exists."""
    if ray.is_initialized():
        return
    # Ray would have its workers give way to everything else on the machine. On a cluster its own environment decides.
    os.environ.setdefault("RAY_worker_niceness", "0")
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
