"""What a tracking store holds of lineage, read once: runs of steps, versions, and models whose version was deleted.

Tags that somebody set by hand, or that another release wrote, spoil no question: what cannot be read of them is said.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from posecore.errors import LineageError
from posecore.lineage.jobs.contents import RESULT, WITHDRAWN, Made, made_by, origins_of, reads_of
from posecore.lineage.store.ledger import is_ledger
from posecore.lineage.store.reachable import shown_uri
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import DATASET, SHA256, VERSION, RegisteredVersion
from posecore.lineage.versions.weights_use import WEIGHTS, WeightsUse

_T = TypeVar("_T")
_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The run of one step.

    Attributes:
        run_id: MLflow's id.
        step: name of the step, such as ``train``.
        user: who ran it.
        status: as MLflow says it.
        start_ms: when it began, milliseconds since 1970.
        seconds: how long it took; None while it runs.
        code: digest of the step's code.
        folder: run folder of its job, or None where the record does not say.
        params: settings that are recorded as such.
        reads: digests among its inputs.
        result: digest of its result, "" if it has none.
        made: contents it made.
        weights: weights that what it trained came from.
        uses: splits it read, with what for.
        withdrawn: whether a withdrawal has removed its record of what it wrote.
    """

    run_id: str
    step: str
    user: str
    status: str
    start_ms: int
    seconds: float | None
    code: str
    folder: Path | None
    params: dict[str, str]
    reads: list[str]
    result: str
    made: list[Made]
    weights: list[WeightsUse]
    uses: list[DatasetUse]
    withdrawn: bool = False


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """A version of a registered model, or what is left of a deleted one.

    Attributes:
        version: its name and number.
        deleted: whether the registry has it no longer; what is left is the logged model.
        model_id: of the logged model, "" if the version has none.
        run_id: of the run that registered it, "" if unknown.
        user: who registered it.
        sha256: of its weights, "" if unknown.
        parent: ``models:/name/version``, or what stands there; "" for none.
        aliases: that point at it.
        uses: splits it names as its own.
        weights: weights it came from.
        tags: all of them.
    """

    version: RegisteredVersion
    deleted: bool
    model_id: str
    run_id: str
    user: str
    sha256: str
    parent: str
    aliases: tuple[str, ...]
    uses: list[DatasetUse]
    weights: list[WeightsUse]
    tags: dict[str, str]


@dataclass
class Records:
    """All of it.

    Attributes:
        runs: steps, deleted ones too, oldest first.
        versions: the registry's, then deleted ones.
        unreadable: what of the record could not be read, a sentence each.
    """

    runs: list[RunRecord] = field(default_factory=list)
    versions: list[VersionRecord] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def attempt(self, read: Callable[[], _T], default: _T, where: str) -> _T:
        """What a reader gives, or a default and a line of :attr:`unreadable`."""
        try:
            return read()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            detail = " ".join(str(error).split())[:160]
            self.unreadable.append(f"{where}: a tag is not as we write it ({detail})")
            return default


def read_records(tracking: Tracking) -> Records:
    """Reads every step and every version of a store, of all experiments.

    Raises:
        LineageError: the store refused.
    """
    records = Records()
    client = tracking.client
    try:
        experiments = [each.experiment_id for each in _paged(client.search_experiments, view_type=ViewType.ALL)]
        steps = _paged(
            client.search_runs,
            experiments,
            "tags.`posecore.kind` = 'step'",
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC"],
        )
        records.runs = [_run(run, records) for run in steps]
        aliases = _aliases(tracking)
        logged = {
            model.model_id: model
            for model in (_paged(client.search_logged_models, experiments) if experiments else ())
            if VERSION in model.tags
        }
        records.versions = [
            _version(each, aliases, logged, records)
            for each in _paged(client.search_model_versions)
            if not is_ledger(each.name)
        ]
        living = {version.model_id for version in records.versions}
        records.versions += [_deleted(model, records) for id, model in logged.items() if id not in living]
    except MlflowException as error:
        detail = " ".join(str(error).split())
        raise LineageError(f"tracking store {shown_uri(tracking.uri)}: {detail}") from error
    return records


class _Page(Protocol):
    token: str | None

    def __iter__(self) -> Iterator[Any]: ...


def _paged(search: Callable[..., _Page], *arguments: object, **named: object) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(*arguments, max_results=_PAGE, page_token=token, **named)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(tracking: Tracking) -> dict[tuple[str, int], list[str]]:
    """(model, version) to aliases: a search for versions does not tell them."""
    found: dict[tuple[str, int], list[str]] = {}
    for model in _paged(tracking.client.search_registered_models):
        for alias, version in model.aliases.items():
            found.setdefault((model.name, int(version)), []).append(alias)
    return found


def _run(run: Run, records: Records) -> RunRecord:
    tags, where = run.data.tags, f"run {run.info.run_id}"
    lock = tags.get("posecore.lock")
    end = run.info.end_time
    return RunRecord(
        run_id=run.info.run_id,
        step=tags.get("posecore.step", ""),
        user=tags.get("mlflow.user", ""),
        status=run.info.status,
        start_ms=run.info.start_time,
        seconds=None if end is None else (end - run.info.start_time) / 1000,
        code=tags.get("posecore.code", ""),
        folder=Path(lock).parent.parent if lock else None,
        params=dict(run.data.params),
        reads=reads_of(tags),
        result=tags.get(RESULT, ""),
        made=records.attempt(lambda: list(made_by(tags)), [], where),
        weights=records.attempt(lambda: origins_of(tags), [], where),
        uses=records.attempt(lambda: _uses_of(run), [], where),
        withdrawn=WITHDRAWN in tags,
    )


def _uses_of(run: Run) -> list[DatasetUse]:
    uses = []
    for found in run.inputs.dataset_inputs if run.inputs else ():
        tags = {tag.key: tag.value for tag in found.tags}
        source = json.loads(found.dataset.source)
        name, _, split = found.dataset.name.rpartition("/")
        uses.append(
            DatasetUse.model_validate(
                {
                    "name": name,
                    "split": split,
                    "digest": source["manifest_sha256"],
                    "role": tags["mlflow.data.context"],
                    "location": source["uri"],
                    "license": tags.get("license", ""),
                    "commercial_use": {"True": True, "False": False}.get(tags.get("commercial_use", "")),
                }
            )
        )
    return uses


def _version(
    version: ModelVersion,
    aliases: dict[tuple[str, int], list[str]],
    logged: Mapping[str, LoggedModel],
    records: Records,
) -> VersionRecord:
    key = RegisteredVersion(version.name, int(version.version))
    source = str(version.source)
    model_id = source.rsplit("/", 1)[-1] if source.startswith("models:/") else ""
    # A tag that somebody took off the version is still on the model, and the other way round.
    written = dict(logged[model_id].tags) if model_id in logged else {}
    return _record(
        key,
        written | dict(version.tags),
        records,
        deleted=False,
        model_id=model_id,
        run_id=version.run_id or "",
        user=version.user_id or "",
        aliases=tuple(aliases.get((key.name, key.version), ())),
    )


def _deleted(model: LoggedModel, records: Records) -> VersionRecord:
    name, _, number = model.tags[VERSION].rpartition("/")
    return _record(
        RegisteredVersion(name, int(number)),
        dict(model.tags),
        records,
        deleted=True,
        model_id=model.model_id,
        run_id=model.source_run_id or "",
        user=model.tags.get("mlflow.user", ""),
        aliases=(),
    )


def _record(
    version: RegisteredVersion,
    tags: dict[str, str],
    records: Records,
    *,
    deleted: bool,
    model_id: str,
    run_id: str,
    user: str,
    aliases: tuple[str, ...],
) -> VersionRecord:
    where = f"{version.name} version {version.version}"
    return VersionRecord(
        version=version,
        deleted=deleted,
        model_id=model_id,
        run_id=tags.get("run_id", run_id),
        user=user,
        sha256=tags.get(SHA256, ""),
        parent=tags.get("parent", ""),
        aliases=aliases,
        uses=_read_all(tags, DATASET, DatasetUse.model_validate_json, records, where),
        weights=_read_all(tags, WEIGHTS, WeightsUse.model_validate_json, records, where),
        tags=tags,
    )


def _read_all(tags: dict[str, str], prefix: str, read: Callable[[str], _T], records: Records, where: str) -> list[_T]:
    found: list[_T] = []
    for key, value in sorted(tags.items()):
        if key.startswith(prefix):
            read_here: Sequence[_T] = records.attempt(lambda value=value: [read(value)], [], f"{where}, {key}")  # type: ignore[misc]
            found += read_here
    return found
