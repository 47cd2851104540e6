"""A registered version, calibrated, as the next version: the same weights, and what was found of them."""

from pathlib import Path

from posecore.lineage.jobs.contents import reading_tags
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse, log_dataset_inputs
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.models.saving import weights_digest
from posecore.shards.store import ShardStore


def register_calibrated(
    tracking: Tracking, parent: RegisteredVersion, folder: Path, store: ShardStore
) -> RegisteredVersion:
    """Registers a calibrated copy of a version as the next one.

    The split counts as training data: promises were fitted to it, so its terms bind the version, withdrawals reach it,
    and an evaluation on the same pictures is a leak.

    Args:
        tracking: the store.
        parent: the version that was calibrated.
        folder: of the calibrated copy.
        store: the split it was calibrated on.

    Raises:
        LineageError: the registry refused.
    """
    manifest, license = store.manifest, store.manifest.definition.license
    use = DatasetUse(
        name=manifest.dataset,
        split=manifest.split,
        digest=manifest.digest,
        role="training",
        location=str(store.location),
        license=license.id,
        commercial_use=license.commercial_use,
    )
    tags = {"posecore.kind": "step", "posecore.step": "calibrate", **reading_tags([weights_digest(folder)])}
    run = tracking.start_run("calibrate", tags)
    log_dataset_inputs(run, [use])
    summary = f"The weights of {parent.uri}, calibrated on {manifest.dataset} {manifest.split}."
    version = register_model(run, parent.name, folder, [use], [], parent=parent, summary=summary)
    run.end()
    return version
