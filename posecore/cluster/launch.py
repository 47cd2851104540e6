"""How a script's job is run: by the processes that torchrun started, else by a Ray cluster."""

from collections.abc import Callable

from torch.distributed import is_torchelastic_launched

from posecore.workflows.machines import Machines
from posecore.workflows.without_ray import launched_here


def launched(job: Callable[[Machines], None]) -> int:
    """Runs a job to its end and returns the exit status; whatever stopped it is said in one sentence."""
    if is_torchelastic_launched():
        return launched_here(job)
    from posecore.cluster.endings import exit_status  # Ray is no part of a job that runs without it
    from posecore.cluster.machines import RayMachines

    return exit_status(lambda: job(RayMachines()))
