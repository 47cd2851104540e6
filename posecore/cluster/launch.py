"""How a script's job is run: by the processes that torchrun started, else by a Ray cluster."""

from collections.abc import Callable
from importlib.util import find_spec

from torch.distributed import is_torchelastic_launched

from posecore.extras import refuse_missing
from posecore.workflows.endings import exit_status as exit_status_here
from posecore.workflows.machines import Machines
from posecore.workflows.without_ray import launched_here


def launched(job: Callable[[Machines], None]) -> int:
    """Runs a job to its end and returns the exit status; whatever stopped it is said in one sentence."""
    if is_torchelastic_launched():
        return launched_here(job)
    if find_spec("ray") is None:
        return exit_status_here(lambda: refuse_missing("ray", "a job that torchrun has not started"))
    from posecore.cluster.endings import exit_status  # Ray is no part of a job that runs without it
    from posecore.cluster.machines import RayMachines

    return exit_status(lambda: job(RayMachines()))
