"""What a training passed over, in its run."""

from posecore.lineage.store.tracking import RunLog
from posecore.storage import AnyPath
from posecore.training.checkpoint import Checkpoint

FILE = "bad_samples.json"


def log_bad_samples(log: RunLog, checkpoint: AnyPath) -> None:
    """Tags a run with the number of damaged samples its training did without, and stores their rows; if there are any.

    Args:
        log: the run.
        checkpoint: the training's last.
    """
    rows = Checkpoint(checkpoint).progress.bad_samples
    if rows:
        log.set_tags({"posecore.bad_samples": ", ".join(f"{name} {len(bad)}" for name, bad in rows.items())})
        log.log_dict({name: list(bad) for name, bad in rows.items()}, FILE)
