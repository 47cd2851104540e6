"""What a training says of itself once it has ended, in its run: how long it took, on what, and which step was best."""

import json

from posecore.lineage.store.tracking import RunLog
from posecore.training.checkpoint import Checkpoint, Progress
from posecore.workflows.machines import TrainedRun

HARDWARE = "posecore.hardware"
"""Tag of a training's run: what it ran on, with the number of steps that were made there, as JSON."""
ENERGY = "posecore.energy"
"""Tag of a training's run: whether its energy is known, and what is in it."""
SECONDS = "training_s"
"""Metric of a training's run: how long it trained, over all attempts."""


def log_progress(log: RunLog, trained: TrainedRun) -> Progress:
    """Writes down how a training went, and returns where its result comes from.

    Args:
        log: the run.
        trained: the training.
    """
    last = Checkpoint(trained.last).progress
    log.set_tags({HARDWARE: json.dumps(dict(last.hardware))})
    log.log_metrics({SECONDS: last.seconds, "steps_made": last.step}, last.step)
    if last.joules is None:
        log.set_tags({ENERGY: "unknown: a machine did not count it"})
    else:
        log.set_tags({ENERGY: "processors and memory (RAPL), GPUs (NVML)"})
        log.log_metrics({"training_kwh": last.joules / 3.6e6}, last.step)
    if last.best is not None:
        value, step, _ = last.best
        settings = last.config["best"]
        assert isinstance(settings, dict), settings
        log.log_metrics({"best_step": step, f"best/{settings['metric']}": value}, step)
    return Checkpoint(trained.checkpoint).progress
