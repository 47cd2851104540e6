"""The step that judges one of several models of a job on ingested splits, each by its dataset's protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.datasets.definition import EvaluationDefinition
from posecore.evaluation.clinical import group_metrics
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.keypoint_errors import KeypointError
from posecore.ingest.stage_code import stage_code
from posecore.lineage.ancestry.measurements import MEASURED, MeasuredOn
from posecore.lineage.code.version import code_digest
from posecore.lineage.jobs.steps import Outputs, StepResult
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import DatasetUse, log_dataset_inputs
from posecore.lineage.versions.tags import EvaluationResult
from posecore.models.sources import ModelFolder
from posecore.schema import Json
from posecore.shards.manifest import read_manifest
from posecore.storage import AnyPath, as_path, sha256_of
from posecore.workflows.data_steps import Split, made_reports, vouched
from posecore.workflows.evaluation import evaluate_stores
from posecore.workflows.job import JobWorkflow

JUDGING = ("posecore.workflows.evaluation",)
"""Code that decides figures; two models judged by the same are comparable."""
PROTOCOL = "evaluation"
"""Name of what judged, among the settings of a measurement; the others are those of inference."""
_NO_MATTER = {"batch_size", "num_threads", "uncertainty"}
"""Of the settings: they change no figure, or follow from the model."""


@dataclass(frozen=True)
class JudgedSet:
    """An ingested split that a model is judged on.

    Attributes:
        name: figures are named ``name/metric``.
        use: which split, and where it lies.
        head: the model's head that answers.
        boxes: COCO detection list to judge on instead of annotated boxes.
    """

    name: str
    use: DatasetUse
    head: str
    boxes: str | None = None

    @classmethod
    def of(cls, split: Split, heads: Mapping[str, str] | None = None) -> "JudgedSet":
        """A split of a job, answered by the head of its entry unless another is named."""
        name = split.entry.name
        return cls(name, split.use, (heads or {}).get(name, split.entry.answering_head))


def judge_step(
    workflow: JobWorkflow,
    who: str,
    folder: str,
    sets: Sequence[JudgedSet],
    settings: InferenceSettings,
    worst_cases: int = 12,
    out: AnyPath | None = None,
    clinic: bool | None = None,
) -> StepResult:
    """Predicts and judges, with one report beside the model.

    Args:
        workflow: the step is recorded in.
        who: the model's part in the job, such as ``teacher`` or ``child``.
        folder: of the model.
        sets: what it is judged on.
        settings: how predictions are made.
        worst_cases: pictures per set in the report.
        out: folder of the results; None is ``evaluation/<who>`` beside the model.
        clinic: see :func:`~posecore.workflows.evaluation.evaluate_stores`.

    Returns:
        By name of the set ``metrics``, ``groups`` (errors of groups of bodies, for sets judged for clinics),
        ``measured`` (:class:`~posecore.lineage.ancestry.measurements.MeasuredOn`), the ``report``, ``predictions``, the
        file of what was said of each set, and ``clinical``, the file with what a clinic wants to know, for sets that
        were judged so; ``model``, the SHA-256 of the weights.
    """
    stores = {each.name: each.use.location for each in sets}
    answering = {each.name: each.head for each in sets}
    boxes = {each.name: each.boxes for each in sets if each.boxes is not None}
    checksums = {name: sha256_of(as_path(path)) for name, path in boxes.items()}
    protocols = {
        name: read_manifest(as_path(location)).definition.evaluation.model_dump(mode="json")
        for name, location in stores.items()
    }
    judges = {name: EvaluationDefinition.model_validate(protocol).code for name, protocol in protocols.items()}
    out = out or as_path(folder).parent / "evaluation" / who
    model = ModelFolder.at(folder)

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [each.use for each in sets])
        result = evaluate_stores(
            workflow.machines,
            folder,
            stores,
            settings,
            heads=answering,
            boxes=boxes,
            out=out,
            worst_cases=worst_cases,
            clinic=clinic,
        )
        groups = {name: group_metrics(found) for name, found in result.clinical.items()}
        for name, metrics in result.metrics.items():
            shown = {**metrics, **groups.get(name, {})}
            log.log_metrics({f"{name}/{metric}": value for metric, value in shown.items()})
        log.log_file(result.report)
        for name, pictures in result.pictures.items():
            for picture in pictures:
                log.log_file(picture, name)
        for name, found in result.errors.items():
            log.log_table(_error_table(found), f"{name}/keypoint_errors.json")
        for name, path in (*result.clinical_files.items(), *result.uncertainty_files.items()):
            log.log_file(path, name)
        code = code_digest(JUDGING)
        told = settings.model_dump(mode="json", exclude=_NO_MATTER)
        measured = {
            each.name: MeasuredOn(
                digest=each.use.digest,
                bodies=result.bodies[each.name],
                subjects=result.subjects[each.name],
                head=each.head,
                settings={**told, PROTOCOL: protocols[each.name]},
                boxes=checksums.get(each.name),
                code=code,
            ).model_dump(mode="json")
            for each in sets
        }
        clinical = {name: str(path) for name, path in result.clinical_files.items()}
        values: dict[str, Json] = {"metrics": result.metrics, "groups": groups}
        values |= {"report": str(result.report), "clinical": clinical, "model": model.sha256, MEASURED: measured}
        values["predictions"] = {name: str(path) for name, path in result.predictions.items()}
        bodies = [picture for pictures in result.pictures.values() for picture in pictures]
        beside = (*result.clinical_files.values(), *result.uncertainty_files.values(), *result.predictions.values())
        files = vouched(result.report, *beside, *bodies)
        return Outputs(values, files, made=made_reports(files))

    inputs = {
        "model": model,
        "data": {each.name: each.use.digest for each in sets},
        "evaluation": protocols,
        "heads": answering,
        "settings": settings,
        "worst_cases": worst_cases,
        "boxes": checksums,
        "clinic": clinic,
        "out": str(out),
        **{f"code of {name}": stage_code(place).digest for name, place in judges.items() if place is not None},
    }
    return workflow.step(f"evaluate:{who}", execute, inputs=inputs, code=["posecore.workflows.judge_step"])


def _error_table(errors: Sequence[KeypointError]) -> dict[str, list[str]]:
    return {
        "keypoint": [error.name for error in errors],
        "labelled": [str(error.labelled) for error in errors],
        "error, % of the box": [f"{100 * error.relative:.2f}" if error.labelled else "" for error in errors],
    }


def as_registered(splits: Sequence[Split], judged: StepResult) -> list[EvaluationResult]:
    """What a :func:`judge_step` found, as the registry records it."""
    return [
        EvaluationResult(
            name=split.entry.name,
            digest=split.digest,
            metrics=judged.values["metrics"][split.entry.name],
            groups=judged.values.get("groups", {}).get(split.entry.name, {}),
        )
        for split in splits
    ]
