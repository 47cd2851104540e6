"""The step of distillation that asks a teacher for its answers once and stores them as shards.

The driver plans the shards, and whoever is free writes a whole one; so their bytes do not depend on how many write, and
an interrupted step continues with the shards that are missing.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field
from tqdm import tqdm

from posecore.config import Config
from posecore.errors import ConfigError
from posecore.lineage.code.version import code_digest
from posecore.lineage.jobs.contents import Made
from posecore.lineage.jobs.steps import Outputs
from posecore.lineage.store.tracking import RunLog
from posecore.lineage.versions.dataset_inputs import log_dataset_inputs
from posecore.loading.training_crops import refuse_displacing
from posecore.methods.teacher_cache import AnswerJob, AnswerWriter, shard_writer, store_answers
from posecore.models.sources import ModelFolder
from posecore.shards.answers import (
    AnswerCommit,
    AnswerPrecision,
    AnswerTerms,
    read_answer_manifest,
    refuse_other_terms,
)
from posecore.shards.manifest import INSTANCES_NAME
from posecore.storage import for_all_nodes
from posecore.workflows.data_steps import Split, vouched_shards
from posecore.workflows.datasets_job import DatasetEntry, LoaderSettings
from posecore.workflows.job import JobWorkflow
from posecore.workflows.machines import ActorSettings, Machines

_CODE = ("posecore.methods.teacher_cache",)


class TeacherCacheSettings(Config):
    """How a teacher's answers are stored.

    Attributes:
        precision: of the stored numbers; ``float16`` takes half the room of ``float32``.
        batch_size: crops per forward pass of the teacher.
        instances_per_shard: of a tar.
        actors: how the work is spread over the cluster.
        stored: per dataset, a folder of answers that another run stored, to be read instead; refused unless this run
            would store the same.
    """

    precision: AnswerPrecision = "float16"
    batch_size: int = Field(default=32, gt=0)
    instances_per_shard: int = Field(default=256, gt=0)
    actors: ActorSettings = ActorSettings()
    stored: dict[str, str] = {}


def _resolve(value: Any) -> Any:
    if value is False or value == "off":  # YAML reads a bare off as False
        return None
    return {"precision": value} if isinstance(value, str) else value


TeacherCache: TypeAlias = Annotated[TeacherCacheSettings | None, BeforeValidator(_resolve)]
"""``off``, a precision, or all settings."""


def check_cache(settings: TeacherCacheSettings, datasets: Sequence[DatasetEntry], loading: LoaderSettings) -> None:
    """Refuses augmentation that stored answers know nothing of, and answers for datasets that are not trained on.

    Args:
        settings: of the cache.
        datasets: of the run.
        loading: the augmentation of those that have none of their own, and of later passes.

    Raises:
        ConfigError: names the settings to change.
    """
    trained = [entry for entry in datasets if entry.train is not None]
    for entry in trained:
        where = "loading.augment" if entry.augment is None else f"datasets.{entry.name}.augment"
        refuse_displacing(where, entry.augment or loading.augment, loading.late)
    names = [entry.name for entry in trained]
    if stray := sorted(settings.stored.keys() - set(names)):
        raise ConfigError(f"cache.stored: {stray[0]!r} is no dataset with a train split: {', '.join(names)}.")


def cache_step(
    workflow: JobWorkflow,
    split: Split,
    teacher: ModelFolder,
    terms: AnswerTerms,
    folder: Path,
    settings: TeacherCacheSettings,
) -> str:
    """A training split to a teacher's answers.

    Args:
        workflow: the step is recorded in.
        split: whose crops are shown.
        teacher: is asked.
        terms: what the answers depend on; they name the folder.
        folder: of all answers of the run folder.
        settings: how.

    Returns:
        The folder of these answers.

    Raises:
        ConfigError: answers that another run stored are of another teacher, or to other crops.
        IntegrityError: those are not finished.
    """
    name = split.entry.name
    if name in settings.stored:
        elsewhere = for_all_nodes(settings.stored[name])
        found = read_answer_manifest(str(elsewhere)).terms
        refuse_other_terms(str(elsewhere), found.lesson, terms.lesson)
        refuse_other_terms(str(elsewhere), found.crops, terms.crops)
        return str(elsewhere)
    job = AnswerJob(
        terms=terms,
        teacher=teacher,
        store=str(for_all_nodes(split.location)),
        folder=folder / name / terms.digest[:12],
        code=code_digest(_CODE),
        instances_per_shard=settings.instances_per_shard,
        batch_size=settings.batch_size,
    )

    def write(writer: AnswerWriter, numbers: range) -> list[AnswerCommit]:
        return _write(workflow.machines, writer, numbers, settings.actors, f"cache {name}")

    def execute(log: RunLog) -> Outputs:
        log_dataset_inputs(log, [split.use])
        log.log_dict(terms.model_dump(mode="json"), "terms.json")
        manifest = store_answers(job, write)
        log.log_metrics({"crops": manifest.num_crops, "bytes": manifest.size_bytes})
        values = {"folder": str(job.folder), "crops": manifest.num_crops, "bytes": manifest.size_bytes}
        files = vouched_shards(job.folder, manifest.shards, {INSTANCES_NAME: manifest.index})
        return Outputs(values, files, made=(Made("answers", terms.digest, str(job.folder)),))

    inputs = {
        "terms": terms,
        "teacher": teacher,
        "store": job.store,
        "out": str(job.folder),
        "shards": [job.instances_per_shard, job.batch_size],
    }
    return str(workflow.step(f"cache:{name}", execute, inputs=inputs, code=_CODE).values["folder"])


def _write(
    machines: Machines, writer: AnswerWriter, numbers: range, actors: ActorSettings, title: str
) -> list[AnswerCommit]:
    done: dict[int, AnswerCommit] = {}
    with tqdm(total=len(writer.rows) * len(writer.job.views), unit="crop", desc=title) as bar:
        for position, commit in machines.work(partial(shard_writer, writer.job), list(numbers), actors):
            done[position] = commit
            bar.update(commit.shard.num_crops)
    return [done[position] for position in range(len(numbers))]
