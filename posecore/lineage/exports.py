"""A model that leaves the record as a file: written down, so that whoever withdraws finds the file again."""

from dataclasses import asdict
from pathlib import Path

from posecore.lineage.contents import Made, making_tags, reading_tags
from posecore.lineage.steps import OUTPUTS_FILE, OutputFile, Outputs, StepResult
from posecore.lineage.tracking import Tracking
from posecore.models.saving import WEIGHTS_FILE


def record_export(tracking: Tracking, weights: str, out: Path) -> str:
    """Records an export as the run of a step, and returns its id.

    Args:
        tracking: the store.
        weights: SHA-256 of the model's weights.
        out: the file that was written, or the model folder.
    """
    file = OutputFile.of(out.resolve() / WEIGHTS_FILE if out.is_dir() else out.resolve())
    made = Made("weights", file.sha256, str(out.resolve())) if out.is_dir() else Made("export", file.sha256, file.path)
    outputs = Outputs({}, (file,), made=(made,))
    tags = {"posecore.kind": "step", "posecore.step": "export", **reading_tags({"model": weights})}
    run = tracking.start_run("export", tags)
    run.set_tags(making_tags(StepResult("export", run.run_id, False, outputs).digest, outputs.made))
    run.log_dict(asdict(outputs), OUTPUTS_FILE)
    run.end()
    return run.run_id
