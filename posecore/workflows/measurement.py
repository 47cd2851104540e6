"""Measuring a registered version: judged as jobs judge their own models, and recorded so that gates believe it."""

from collections.abc import Mapping, Sequence

from posecore.errors import IntegrityError, LineageError
from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.measurements import Measurement, measurements_of
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.code.version import code_digest
from posecore.lineage.jobs.steps import StepResult
from posecore.lineage.registry.gates import alike
from posecore.lineage.registry.promotion import Promotion
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import EvaluationResult, RegisteredVersion, evaluation_tag, get_version
from posecore.models.weights.initial import SourceConfig
from posecore.shards.manifest import read_manifest
from posecore.shards.store import open_store
from posecore.storage import AnyPath, as_path
from posecore.workflows.datasets_job import Job
from posecore.workflows.fetched_model import fetch_model
from posecore.workflows.job import JobWorkflow
from posecore.workflows.judge_step import JUDGING, PROTOCOL, JudgedSet, judge_step
from posecore.workflows.machines import Machines


class MeasurementJob(Job):
    """What is measured, as it is recorded.

    Attributes:
        model: ``models:/name/version``.
        sets: name of each evaluation set to its folder.
        inference: how predictions are made.
    """

    model: str
    sets: Mapping[str, str]
    inference: InferenceSettings


def measure_missing(machines: Machines, tracking: Tracking, asked: Promotion, folder: AnyPath) -> None:
    """Judges candidate and holder on every gated set on which no two evaluations of them can be compared.

    Both are judged on the shards of the candidate's evaluation, by the present code, under its settings.

    Args:
        machines: who predicts.
        tracking: the store.
        asked: what the promotion is checked against.
        folder: for models, results and reports.

    Raises:
        LineageError: the candidate was never judged on a gated set, or the set is gone.
        EvaluationError: the holder has no head for a set.
    """
    holder = asked.seen.holder
    if holder is None:
        return
    graph = LineageGraph.load(tracking)
    own, its = (
        measurements_of(tracking, graph, graph.weights_node(version).key).found for version in (asked.candidate, holder)
    )
    gates = [gate for each in asked.wanted for gate in each.gates]
    code = code_digest(JUDGING)
    missing = {
        (measured.name, measured.digest): measured
        for measured in reversed(own)
        if any(gate.concerns(measured) for gate in gates)
        and not any(alike(each, its) for each in own if (each.name, each.digest) == (measured.name, measured.digest))
    }
    for measured in missing.values():
        if measured.on.boxes is not None:
            raise LineageError(
                f"{measured.name} was judged on detected boxes, which are not recorded; judge both versions with "
                "pipelines/evaluate.py --boxes."
            )
        sets = [judged_set(measured.name, _place(graph, measured), measured.on.head)]
        told = {name: value for name, value in measured.on.settings.items() if name != PROTOCOL}
        settings = InferenceSettings.model_validate(told)  # the protocol is the set's own
        for version, figures in ((asked.candidate, own), (holder, its)):
            if not any(each.comparable_with(measured) and each.on.code == code for each in figures):
                measure(machines, tracking, version, sets, settings, folder)


def _place(graph: LineageGraph, measured: Measurement) -> str:
    split = Node("split", measured.digest)
    for place in graph.places.get(split, ()):
        try:
            if read_manifest(as_path(place)).digest == measured.digest:
                return place
        except (IntegrityError, OSError):
            continue
    raise LineageError(
        f"{measured.name} ({graph.name(split)}) is not where the record says that it lay; ingest it again."
    )


def judged_set(name: str, location: str, head: str | None = None, boxes: str | None = None) -> JudgedSet:
    """An ingested split, wherever it lies.

    Args:
        name: figures are named ``name/metric``.
        location: its folder.
        head: the model's head that answers; None is the dataset's own.
        boxes: COCO detection list to judge on instead of annotated boxes.

    Raises:
        IntegrityError: there is no whole split.
    """
    manifest = open_store(location).manifest
    license = manifest.definition.license
    use = DatasetUse(
        name=manifest.dataset,
        split=manifest.split,
        digest=manifest.digest,
        role="evaluation",
        location=location,
        license=license.id,
        commercial_use=license.commercial_use,
    )
    return JudgedSet(name, use, head or manifest.dataset, boxes)


def measure(
    machines: Machines,
    tracking: Tracking,
    version: RegisteredVersion,
    sets: Sequence[JudgedSet],
    settings: InferenceSettings,
    folder: AnyPath,
    *,
    worst_cases: int = 12,
    clinic: bool | None = None,
) -> StepResult:
    """Judges a registered version; what was measured in this folder by the same code is not measured again.

    Args:
        machines: who predicts.
        tracking: the store.
        version: whose files are fetched.
        sets: what it is judged on.
        settings: how predictions are made.
        folder: for the model's copy, the results and the report.
        worst_cases: pictures per set in the report.
        clinic: see :func:`~posecore.workflows.evaluation.evaluate_stores`.

    Raises:
        EvaluationError: a head or boxes do not fit a split.
        LineageError: there is no such version.
        IntegrityError: its files are not what its record says.
    """
    job = MeasurementJob(
        name=f"measure {version.name} {version.version}",
        run_folder=str(folder),
        model=version.uri,
        sets={each.name: each.use.location for each in sets},
        inference=settings,
    )
    fetched = fetch_model(SourceConfig(source=version.uri), job.folder / "models", tracking)
    stated = get_version(tracking, version.name, version.version).tags.get("sha256")
    if stated != fetched.source.sha256:
        raise IntegrityError(
            f"{version.uri}: its files have SHA-256 {fetched.source.sha256}, its record says {stated}."
        )
    with JobWorkflow(machines, tracking, job) as workflow, machines.kept():
        who, out = f"{version.name}-{version.version}", job.folder / f"{version.name}-{version.version}"
        found = judge_step(
            workflow, who, fetched.source.source, sets, settings, worst_cases=worst_cases, out=out, clinic=clinic
        )
    for each in sets:  # for people who look at the version; gates read the run
        result = EvaluationResult(name=each.name, digest=each.use.digest, metrics=found.values["metrics"][each.name])
        key, value = evaluation_tag(result)
        tracking.ask(
            lambda client, key=key, value=value: client.set_model_version_tag(  # type: ignore[misc]
                version.name, str(version.version), key, value
            )
        )
    return found
