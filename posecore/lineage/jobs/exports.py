"""Models and pages that leave the record as files: written down, so that whoever withdraws finds the files again."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from posecore.errors import LineageError
from posecore.lineage.jobs.contents import Made, making_tags, reading_tags
from posecore.lineage.jobs.steps import OUTPUTS_FILE, OutputFile, Outputs, StepResult
from posecore.lineage.store.outage import STORE_ERRORS
from posecore.lineage.store.reachable import shown_uri
from posecore.lineage.store.tracking import Tracking
from posecore.models.saving import WEIGHTS_FILE
from posecore.storage import AnyPath


def record_export(tracking: Tracking, weights: str, out: Path) -> str:
    """Records an export as the run of a step, and returns its id.

    Args:
        tracking: the store.
        weights: SHA-256 of the model's weights.
        out: the file that was written, or the model folder.
    """
    file = OutputFile.of(out.resolve() / WEIGHTS_FILE if out.is_dir() else out.resolve())
    made = Made("weights", file.sha256, str(out.resolve())) if out.is_dir() else Made("export", file.sha256, file.path)
    return _record(tracking, "export", [weights], file, made)


def record_page(tracking: Tracking, step: str, read: Iterable[str], page: AnyPath) -> str:
    """Records a page that shows pictures or names them as the run of a step, and returns its id.

    Args:
        tracking: the store.
        step: name of what wrote it.
        read: digests of the splits and weights that it shows something of.
        page: the file that was written.

    Raises:
        LineageError: the store refused, such as of somebody who may only read.
    """
    file = OutputFile.of(page.resolve() if isinstance(page, Path) else str(page))
    return _record(tracking, step, read, file, Made("report", file.sha256, file.path))


def _record(tracking: Tracking, step: str, read: Iterable[str], file: OutputFile, made: Made) -> str:
    outputs = Outputs({}, (file,), made=(made,))
    tags = {"posecore.kind": "step", "posecore.step": step, **reading_tags(sorted(read))}
    try:
        run = tracking.start_run(step, tags)
        run.set_tags(making_tags(StepResult(step, run.run_id, False, outputs).digest, outputs.made))
        run.log_dict(asdict(outputs), OUTPUTS_FILE)
        run.end()
    except STORE_ERRORS as error:
        raise LineageError(f"tracking store {shown_uri(tracking.uri)}: {' '.join(str(error).split())}") from error
    return run.run_id
