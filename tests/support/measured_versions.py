"""Registered versions with nothing in them but a card, and evaluations of them as jobs record them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from posecore.evaluation.clinical import ClinicalResult
from posecore.lineage.ancestry.measurements import MEASURED, MeasuredOn
from posecore.lineage.jobs.contents import making_tags, reading_tags
from posecore.lineage.jobs.steps import OUTPUTS_FILE, OutputFile, Outputs, StepResult
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse, log_dataset_inputs
from posecore.lineage.versions.tags import EvaluationResult, RegisteredVersion, evaluation_tag, get_version

EVAL = "e" * 64
CODE = "c" * 64


def registered(
    tracking: Tracking,
    folder: Path,
    weights: str,
    use: DatasetUse,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> RegisteredVersion:
    """A version of the experiment's name.

    Args:
        tracking: the store.
        folder: for its files.
        weights: SHA-256 that its card and its tag state.
        use: what it was trained on.
        name: of the registered model, if it is another.
        tags: more of them.
    """
    model = name or tracking.experiment
    card = folder / weights[:16] / "artifacts" / "model" / "model.json"
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(json.dumps({"weights_sha256": weights}))
    (folder / weights[:16] / "MLmodel").write_text("flavors: {}\n")
    if model not in {each.name for each in tracking.client.search_registered_models(max_results=1000)}:
        tracking.client.create_registered_model(model)
    own = {"sha256": weights, f"dataset.training.{use.label}": use.model_dump_json(), **(tags or {})}
    created = tracking.client.create_model_version(model, (folder / weights[:16]).as_uri(), tags=own)
    return RegisteredVersion(model, int(created.version))


def weights_of(tracking: Tracking, version: RegisteredVersion) -> str:
    """What its tag says."""
    return str(get_version(tracking, version.name, version.version).tags["sha256"])


def measured(
    tracking: Tracking,
    version: RegisteredVersion,
    metrics: Mapping[str, float],
    *,
    name: str = "coco",
    digest: str = EVAL,
    bodies: int = 100,
    subjects: int = 20,
    code: str = CODE,
    clinical: ClinicalResult | None = None,
    folder: Path | None = None,
    location: str = "/data/coco/val",
) -> str:
    """Records an evaluation of a version, as a step of a job does, and returns the run's id."""
    weights = weights_of(tracking, version)
    on = MeasuredOn(
        digest=digest,
        bodies=bodies,
        subjects=subjects,
        head="coco",
        settings={"flip_test": True},
        boxes=None,
        code=code,
    )
    files = []
    tags = {"posecore.kind": "step", "posecore.step": "evaluate:coco", **reading_tags([weights, digest])}
    run = tracking.start_run("evaluate", tags)
    use = DatasetUse(name=name, split="val", digest=digest, role="evaluation", location=location, license="X")
    log_dataset_inputs(run, [use])
    if clinical is not None:
        assert folder is not None
        path = folder / run.run_id / name / "clinical.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(clinical.to_json())
        run.log_file(path, name)
        files.append(OutputFile.of(path, hashlib.sha256(path.read_bytes()).hexdigest()))
    values = {"model": weights, "metrics": {name: dict(metrics)}, MEASURED: {name: on.model_dump(mode="json")}}
    outputs = Outputs(values, tuple(files))
    run.set_tags(making_tags(StepResult("evaluate", run.run_id, False, outputs).digest, ()))
    run.log_dict(asdict(outputs), OUTPUTS_FILE)
    run.end()
    key, value = evaluation_tag(EvaluationResult(name=name, digest=digest, metrics=dict(metrics)))
    tracking.client.set_model_version_tag(version.name, str(version.version), key, value)
    return run.run_id
