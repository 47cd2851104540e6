"""A workflow is a list of steps; a step whose code, settings and inputs have not changed is not run again.

Every step is an MLflow run nested in the workflow's run and tagged with its fingerprint, the hash of its name, code
version, settings and input digests. A finished run with the same fingerprint whose output files are still what was
written is reused; so a resubmitted job continues where it stopped, and an unchanged one costs seconds. MLflow is the
only record.

Every run holds a file lock while its driver lives, and the operating system releases it with the process. A lock that
can be taken therefore proves that the driver is dead, which is how leftover RUNNING runs are told from live ones, and
two drivers of the same step wait for each other.
"""

import platform
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from mlflow.entities import Run
from pydantic import TypeAdapter, ValidationError

from posecore.config import Config, digest_json
from posecore.errors import IntegrityError, LineageError, StorageError
from posecore.lineage.code.extensions import with_extensions
from posecore.lineage.code.snapshot import record_code
from posecore.lineage.code.version import code_digest, git_sha, source_digest
from posecore.lineage.jobs import twins
from posecore.lineage.jobs.contents import Made, copies_of, copy_tag, making_tags, reading_tags
from posecore.lineage.jobs.places import Places, placed
from posecore.lineage.store.curve import send_if_reachable
from posecore.lineage.store.parameters import flat_parameters
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.lineage.versions.tags import RegisteredVersion, get_version
from posecore.schema import Json
from posecore.shards.tar import has_tar_digest
from posecore.sole_driver import sole_driver, try_lock
from posecore.storage import AnyPath, as_path, file_content, folder_of_machine, sha256_of

CONFIG_FILE = "config.yaml"
"""Artifact of a submission's run: its run file, resolved."""
JOB, MACHINES = "posecore.job", "posecore.machines"
"""Tags of a submission's run: the class of its run file, and of who works on it."""
OUTPUTS_FILE = "outputs.json"
"""Artifact of a step's run: what the step returned."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file a step wrote, as it was then.

    Attributes:
        path: local path or fsspec URL.
        size_bytes: its size.
        mtime: its modification time in seconds, 0 where the store has none.
        sha256: hash of its content; of a tar of ours its digest.
        is_tar: whether :func:`~posecore.shards.tar.tar_digest` made that hash, which whoever wrote a tar knows already.
    """

    path: str
    size_bytes: int
    mtime: float
    sha256: str
    is_tar: bool = False

    @classmethod
    def of(cls, location: str | Path, sha256: str | None = None, *, is_tar: bool = False) -> Self:
        """Describes a file that exists now.

        Args:
            location: local path or fsspec URL.
            sha256: the hash of its content if the writer knows it; else the file is read.
            is_tar: the hash, which is given, is the digest of a tar.
        """
        path = as_path(location)
        stat = path.stat()
        return cls(str(path), stat.st_size, stat.st_mtime, sha256 or sha256_of(path), is_tar)

    def is_alive(self, verify: bool = False) -> bool:
        """Whether the file is still what was written.

        Args:
            verify: read it in any case, and not only if its modification time differs.

        Raises:
            StorageError: a disk or store does not say; what is gone is made again, so that is not guessed.
        """
        path = as_path(self.path)
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StorageError(
                f"{path}: it cannot be told whether it is still there ({error.strerror or error}); see to its disk or "
                "store, and submit the job again."
            ) from None
        if stat.st_size != self.size_bytes:
            return False
        return (not verify and stat.st_mtime == self.mtime) or self._has_content(path)

    def _has_content(self, path: AnyPath) -> bool:
        if not self.is_tar:
            return sha256_of(path) == self.sha256
        try:
            with file_content(path) as data:
                return has_tar_digest(data, self.sha256, str(path))
        except IntegrityError:  # cut, or a header is damaged
            return False


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a step's function returns.

    Attributes:
        values: small results as JSON: digests, metrics, locations.
        files: files that must be unchanged for the step to be reused: every one that a later step reads.
        versions: registered versions that must still be there, and be those of the run that made them.
        made: splits, models and other contents by which lineage knows the result again, wherever it is used.
    """

    values: dict[str, Json] = field(default_factory=dict)
    files: tuple[OutputFile, ...] = ()
    versions: tuple[RegisteredVersion, ...] = ()
    made: tuple[Made, ...] = ()


_READ_JSON, _READ_OUTPUTS = TypeAdapter(dict[str, Json]), TypeAdapter(Outputs)
_FOLDER = "folder"


def outputs_of(run: RunLog) -> Outputs:
    """What a finished step returned, with places as they were then.

    Raises:
        LineageError: there is no record of it, or it cannot be read.
    """
    return _outputs_in(run, None)[0]


def outputs_everywhere(run: RunLog) -> list[Outputs]:
    """What a finished step returned, as it lies where it was written and in every copy of the run that was used.

    Raises:
        LineageError: see :func:`outputs_of`.
    """
    tags = run.tracking.ask(lambda client: client.get_run(run.run_id)).data.tags
    return [outputs_of(run), *(_outputs_in(run, folder)[0] for _, folder in copies_of(tags))]


def _outputs_in(run: RunLog, folder: str | None) -> tuple[Outputs, str | None]:
    """What a finished step returned, as it lies in a copy of the run, and the folder that it lay in; None for both."""
    try:
        said = _READ_JSON.validate_json(run.read_file(OUTPUTS_FILE))
        wrote = said.pop(_FOLDER, None)
        if wrote is None:  # written before copies were known
            return _READ_OUTPUTS.validate_python(said), None
        return _READ_OUTPUTS.validate_python(placed(said, folder or str(wrote))), str(wrote)
    except ValidationError as error:
        detail = " ".join(str(error).split())[:200]
        raise LineageError(f"run {run.run_id}: {OUTPUTS_FILE} is not what a step returns ({detail}).") from None


@dataclass(frozen=True, slots=True)
class Reuse:
    """What of earlier submissions a workflow may use.

    Attributes:
        finished: finished steps are not run again, and interrupted trainings go on; False starts everything clean.
        codes: digests of other versions of the code whose interrupted trainings may go on under the present one.
        verify: the files of finished steps are read, and compared by their hashes. Otherwise a file of the same size
            and time counts as what was written.
    """

    finished: bool = True
    codes: tuple[str, ...] = ()
    verify: bool = False


EVERYTHING = Reuse()
"""What a job uses unless it is told otherwise: all that is whole, made by the same code."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that has run, now or earlier.

    Attributes:
        name: name of the step.
        run_id: the MLflow run that did the work.
        reused: whether that was an earlier run.
        outputs: what the function returned.
        portable: its values, as they are in every copy of the run; None where no place is among them.
    """

    name: str
    run_id: str
    reused: bool
    outputs: Outputs
    portable: Mapping[str, Json] | None = None

    @property
    def values(self) -> dict[str, Json]:
        """The small results."""
        return self.outputs.values

    @property
    def digest(self) -> str:
        """Hash of the results, independent of where the files lie; an input of the steps that follow."""
        values = self.values if self.portable is None else dict(self.portable)
        return digest_json([values, sorted(file.sha256 for file in self.outputs.files)])


class Workflow:
    """One submission of a job: a parent run and its steps. Use as a context manager.

    Args:
        tracking: the store.
        name: name of the job; shown as the parent run's name.
        folder: of the run. Locks lie in it, or on this machine if it is remote; drivers that may meet must share them.
        config: the resolved configuration, recorded whole.
        reuse: what of earlier submissions may be used.
        report: called with one line per step.

    Attributes:
        reuse: likewise.
        goes_on_from_other_code: whether a step has found what :attr:`Reuse.codes` names.
        tags: further tags of its run.
    """

    tags: Mapping[str, str] = {}

    def __init__(
        self,
        tracking: Tracking,
        name: str,
        folder: str | AnyPath,
        config: Config,
        *,
        reuse: Reuse = EVERYTHING,
        report: Callable[[str], None] = print,
    ) -> None:
        self.tracking = tracking
        self.name = name
        self._locks = folder_of_machine(folder) / "locks"
        self._folder = as_path(folder)
        self._places = Places(str(self._folder.resolve() if isinstance(self._folder, Path) else self._folder))
        self._config = config
        self.reuse = reuse
        self.goes_on_from_other_code = False
        self._report = report
        self._lock_file: TextIO | None = None
        self._held = ExitStack()
        self._run: RunLog | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """The whole configuration, flat."""
        return flat_parameters(self._config.model_dump(mode="json"))

    def note(self, line: str) -> None:
        """Says something beside the steps."""
        self._report(line)

    def portable(self, value: Any) -> Json:
        """A JSON value that says the same in every copy of the run."""
        return self._places.portable(value)

    @property
    def run(self) -> RunLog:
        """The parent run, inside the ``with`` block."""
        assert self._run is not None, "Workflow is a context manager: use it in a with statement"
        return self._run

    def __enter__(self) -> Self:
        self._locks.mkdir(parents=True, exist_ok=True)
        close_dead_runs(self.tracking)
        send_if_reachable(self.tracking, self._locks.parent)
        lock_path = self._locks / f"workflow-{time.time_ns()}.lock"
        self._lock_file = try_lock(lock_path)
        tags = {
            "posecore.kind": "workflow",
            twins.LOCK: str(lock_path),
            twins.CONFIG: self._config.fingerprint(),
            twins.CODE: source_digest(),
            twins.ALIVE: "0",
            twins.HOST: socket.gethostname(),
            "posecore.git": git_sha(),
            "posecore.python": platform.python_version(),
            JOB: type(self._config).__name__,
            **self.tags,
        }
        self._run = self.tracking.start_run(self.name, tags)
        try:
            self._keep_apart()
            self._run.log_dict(self._config.model_dump(mode="json"), CONFIG_FILE)
            self._run.log_params(self.parameters)
            record_code(self._run)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _keep_apart(self) -> None:
        """Waits for a driver of the same job whose locks cannot be seen from here, and signs for others like it.

        A store in a file is on one machine, and drivers of a remote run have leases.
        """
        if self.tracking.uri.startswith("sqlite:") or not isinstance(self._folder, Path):
            return
        self._held.enter_context(twins.Pulse(self.run))
        own = self.tracking.ask(lambda client: client.get_run(self.run.run_id))
        said = "waiting for another driver of the same job on"
        twins.wait_for_earlier(self.tracking, own, lambda host: self._report(f"{self.name:<32} {said} {host}"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._lock_file is not None
        with self._lock_file, self._held:
            if error is None:
                send_if_reachable(self.tracking, self._locks.parent)
                self.run.end()
            elif not self.run.end_failed(error):
                return  # the lock file stays, by which the next submission knows that this run is dead
            Path(self._lock_file.name).unlink(missing_ok=True)

    def step(
        self,
        name: str,
        function: Callable[[RunLog], Outputs],
        *,
        inputs: Mapping[str, Any],
        code: Iterable[str],
        continues: bool = False,
    ) -> StepResult:
        """Runs a function, or reuses the finished run of an identical step.

        Args:
            name: such as ``ingest:coco``.
            function: gets the step's own run to log to.
            inputs: everything that decides the result: configurations, results of earlier steps, :class:`Path` of
                files (their content counts), and JSON values. Extensions among them count with their code.
            code: modules and packages whose sources, with all they import of ours, are the step's code.
            continues: the function goes on where an interrupted call stopped, and so does the step's run: a curve
                stays one curve.

        Raises:
            Exception: whatever the function raises; the step's run is then closed as failed.
        """
        version = code_digest(code)
        given = _fingerprint_input(with_extensions(inputs))
        read, writes_here = self.portable(given), self._places.names(given)
        fingerprint = digest_json({"name": name, "code": version, "inputs": read})
        with self._lock(fingerprint, name) as lock_path:
            if self.reuse.finished and (found := self._find(fingerprint, writes_here)) is not None:
                run, outputs = found
                self.run.set_tags({f"posecore.reused.{name}": run.info.run_id})
                seconds = (run.info.end_time - run.info.start_time) / 1000
                self._report(f"{name:<32} reused  ({seconds:.1f} s when it ran, run {run.info.run_id})")
                return self._result(name, run.info.run_id, outputs, reused=True)
            tags = {
                "posecore.kind": "step",
                "posecore.step": name,
                "posecore.fingerprint": fingerprint,
                "posecore.code": version,
                "posecore.lock": str(lock_path),
                **reading_tags(read),
            }
            return self._execute(name, function, tags, continues and self.reuse.finished)

    def _execute(
        self, name: str, function: Callable[[RunLog], Outputs], tags: Mapping[str, str], continues: bool
    ) -> StepResult:
        run = self._unfinished(tags["posecore.fingerprint"], tags["posecore.lock"]) if continues else None
        if run is None:
            run = self.tracking.start_run(name, tags, parent_run_id=self.run.run_id)
        else:
            run.begin_again({"mlflow.parentRunId": self.run.run_id, "posecore.error": ""})
        started = time.monotonic()
        try:
            outputs = function(run)
            result = self._result(name, run.run_id, outputs, reused=False)
            run.set_tags(making_tags(result.digest, outputs.made))
            run.log_dict({_FOLDER: self._places.folder, **self.portable(asdict(outputs))}, OUTPUTS_FILE)
        except BaseException as error:
            run.end_failed(error)
            self._report(f"{name:<32} failed  {time.monotonic() - started:8.1f} s")
            raise
        run.end()
        self._report(f"{name:<32} ran     {time.monotonic() - started:8.1f} s")
        return result

    def _result(self, name: str, run_id: str, outputs: Outputs, *, reused: bool) -> StepResult:
        return StepResult(name, run_id, reused, outputs, self.portable(outputs.values))

    def _find(self, fingerprint: str, writes_here: bool) -> tuple[Run, Outputs] | None:
        """A finished run of a step, in this folder, or wherever it is if the step does not say that it writes here."""
        found = self.tracking.ask(
            lambda client: client.search_runs(
                [self.tracking.experiment_id],
                f"tags.`posecore.fingerprint` = '{fingerprint}' AND attributes.status = 'FINISHED'",
                order_by=["attributes.start_time DESC"],
                max_results=10,
            )
        )
        for run in found:
            if outputs := self._alive(run, writes_here):
                return run, outputs
        return None

    def _alive(self, run: Run, writes_here: bool) -> Outputs | None:
        """What a finished step returned, here or, if it may be, where it was written; None if it is gone."""
        log = RunLog(self.tracking, run.info.run_id)
        try:
            here, wrote = _outputs_in(log, self._places.folder)
            if not all(self._has(version, run) for version in here.versions):
                return None
            foreign = wrote not in (None, self._places.folder)
            # Nothing vouches for a step without files: it is read where the steps before it were.
            if self._are_alive(here) and (here.files or not self._places.has(wrote)):
                if foreign and here.files:
                    log.set_tags(copy_tag(str(wrote), self._places.folder))
                return here
            if writes_here or not foreign or not self._are_alive(there := outputs_of(log)):
                return None
        except LineageError:
            return None  # deleted or damaged; an older identical run may still have its own
        self._places.add(str(wrote))
        return there

    def _are_alive(self, outputs: Outputs) -> bool:
        return all(file.is_alive(self.reuse.verify) for file in outputs.files)

    def _has(self, version: RegisteredVersion, run: Run) -> bool:
        """Whether the registry still has a version that a run made: a model registered anew counts from 1 again."""
        try:
            return bool(get_version(self.tracking, version.name, version.version).run_id == run.info.run_id)
        except LineageError:
            return False

    def _unfinished(self, fingerprint: str, lock_path: str) -> RunLog | None:
        """The newest run of this step in this run folder, if it was not finished."""
        found = self.tracking.ask(
            lambda client: client.search_runs(
                [self.tracking.experiment_id],
                f"tags.`posecore.fingerprint` = '{fingerprint}'",
                order_by=["attributes.start_time DESC"],
                max_results=10,
            )
        )
        # The lock's path tells a run of this folder from one of its copy, which has checkpoints of its own.
        newest = next((run for run in found if run.data.tags.get("posecore.lock") == lock_path), None)
        return None if newest is None or newest.info.status == "FINISHED" else RunLog(self.tracking, newest.info.run_id)

    @contextmanager
    def _lock(self, fingerprint: str, name: str) -> Iterator[Path]:
        path = self._locks / f"step-{fingerprint}.lock"

        def waiting(holder: str) -> None:
            self._report(f"{name:<32} waiting for another driver that runs the same step ({holder})")

        with sole_driver(path, self._folder / "locks" / fingerprint, waiting):
            yield path


def close_dead_runs(tracking: Tracking) -> int:
    """Closes runs left RUNNING by drivers that were killed, and returns how many.

    A run whose lock file this machine cannot see is left alone: its driver may live elsewhere.
    """
    running = tracking.client.search_runs(
        [tracking.experiment_id], "attributes.status = 'RUNNING' AND tags.`posecore.lock` LIKE '%'", max_results=1000
    )
    closed = 0
    for run in running:
        path = Path(run.data.tags["posecore.lock"])
        if not path.exists():
            continue
        lock = try_lock(path)
        if lock is None:
            continue
        with lock:
            log = RunLog(tracking, run.info.run_id)
            log.set_tags({"posecore.error": "its driver ended without closing the run"})
            log.end("KILLED")
            closed += 1
    return closed


def _fingerprint_input(value: Any) -> Json:
    if isinstance(value, Config):
        return {"kind": type(value).__name__, "values": value.model_dump(mode="json")}
    if isinstance(value, StepResult):
        return value.digest
    if isinstance(value, Path):
        return sha256_of(value)
    if isinstance(value, Mapping):
        return {str(key): _fingerprint_input(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fingerprint_input(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise LineageError(f"a step's input of type {type(value).__name__} has no fingerprint; pass its digest instead.")
