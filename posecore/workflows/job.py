"""One submission of a job: its steps, and who works on them."""

from collections.abc import Callable

from posecore.lineage.jobs.steps import EVERYTHING, MACHINES, Reuse, Workflow
from posecore.lineage.store.tracking import Tracking
from posecore.workflows.datasets_job import Job
from posecore.workflows.machines import Machines


class JobWorkflow(Workflow):
    """A workflow whose steps are worked on by machines. Use as a context manager.

    Args:
        machines: who does the work.
        tracking: the store.
        config: the resolved configuration.
        reuse: what of earlier submissions may be used.
        report: called with one line per step.

    Attributes:
        machines: likewise.
    """

    def __init__(
        self,
        machines: Machines,
        tracking: Tracking,
        config: Job,
        reuse: Reuse = EVERYTHING,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__(tracking, config.name, config.folder, config, reuse=reuse, report=report)
        self.machines = machines
        self.tags = {MACHINES: type(machines).__name__}
