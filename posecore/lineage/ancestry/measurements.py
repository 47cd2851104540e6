"""Figures of a model as evaluations recorded them: by the digests of weights and data, never from editable tags.

An evaluation's run holds its result as an artifact, and the digest of that result; figures whose artifact is not what
the run says are not figures. Which weights a version has is read of the files that are registered, too.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, TypeVar

from posecore.config import Config, digest_json
from posecore.errors import LineageError
from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.uncertainty import UncertaintyResult
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.ancestry.records import RunRecord
from posecore.lineage.jobs.steps import OUTPUTS_FILE
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.schema import Json

_Read = TypeVar("_Read")

MEASURED = "measured"
"""Entry of an evaluation's result: name of each set to a :class:`MeasuredOn`."""


class MeasuredOn(Config):
    """What stands behind the figures of one evaluation set.

    Attributes:
        digest: of the ingested split.
        bodies: labelled bodies that were judged, crowds excepted.
        subjects: named people or animals among them; 0 where nobody is named.
        head: the model's head that answered.
        settings: how predictions were made and judged, but for what changes no figure.
        boxes: SHA-256 of the list of detected boxes, None for annotated ones.
        code: digest of the code that judged.
    """

    digest: str
    bodies: int
    subjects: int
    head: str
    settings: Mapping[str, Json]
    boxes: str | None
    code: str

    @property
    def how(self) -> str:
        """Digest of whatever decides a figure beside model and data."""
        return digest_json([dict(self.settings), self.boxes, self.code])


@dataclass(frozen=True)
class Measurement:
    """Figures of one model on one evaluation set.

    Attributes:
        run: of the evaluation.
        name: of the set.
        on: what stands behind them.
        metrics: by name.
        files: name of each file of the evaluation, as ``set/file``, to its SHA-256.
    """

    run: RunLog
    name: str
    on: MeasuredOn
    metrics: Mapping[str, float]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the ingested split."""
        return self.on.digest

    @property
    def bodies(self) -> int:
        """Labelled bodies that were judged."""
        return self.on.bodies

    @property
    def subjects(self) -> int:
        """Named people or animals among them."""
        return self.on.subjects

    def comparable_with(self, other: "Measurement") -> bool:
        """Whether both were measured on the same data by the same code under the same settings."""
        return (self.name, self.digest, self.on.how) == (other.name, other.digest, other.on.how)

    @cached_property
    def clinical(self) -> ClinicalResult | None:
        """What a clinic wants to know of the set; None where it was not judged so.

        Raises:
            LineageError: the file cannot be read, or is not what was written.
        """
        return self._beside("clinical.json", ClinicalResult.from_json)

    @cached_property
    def uncertainty(self) -> UncertaintyResult | None:
        """Whether the model knows how far off it is; None where it was not calibrated to say.

        Raises:
            LineageError: the file cannot be read, or is not what was written.
        """
        return self._beside("uncertainty.json", UncertaintyResult.from_json)

    def _beside(self, file: str, read: Callable[[bytes, str], _Read]) -> _Read | None:
        artifact = f"{self.name}/{file}"
        stated = self.files.get(artifact)
        if stated is None:
            return None
        text = self.run.read_file(artifact)
        if hashlib.sha256(text).hexdigest() != stated:
            raise LineageError(f"run {self.run.run_id}: {artifact} is not what the evaluation wrote; measure again.")
        return read(text, f"run {self.run.run_id}, {artifact}")


@dataclass(frozen=True)
class Measurements:
    """What is known of a model's figures.

    Attributes:
        found: the newest measurement of each set, digest and way of judging, newest first.
        doubts: runs that say they measured the model and cannot be believed, a sentence each.
    """

    found: Sequence[Measurement]
    doubts: Sequence[str]


def measurements_of(tracking: Tracking, graph: LineageGraph, weights: str) -> Measurements:
    """Everything that was measured of a model.

    Args:
        tracking: the store.
        graph: what it records.
        weights: SHA-256 of the model's weights.
    """
    newest: dict[tuple[str, ...], Measurement] = {}
    doubts = []
    for run in graph.runs.values():  # oldest first
        if weights in run.reads and run.status == "FINISHED" and any(use.role == "evaluation" for use in run.uses):
            try:
                for found in _measured_in(tracking, run, weights):
                    newest[found.name, found.digest, found.on.how] = found
            except LineageError as error:
                doubts.append(str(error))
    return Measurements(list(reversed(newest.values())), doubts)


@dataclass(frozen=True)
class Result:
    """What a step recorded as its result.

    Attributes:
        values: small results, by name.
        files: path of each file, as it was written, to its SHA-256.
    """

    values: Mapping[str, Any]
    files: Mapping[str, str]


def result_of(tracking: Tracking, run: RunRecord) -> Result:
    """The result of a step, compared with the digest that its run states.

    Raises:
        LineageError: it cannot be read, or was changed since.
    """
    text = RunLog(tracking, run.run_id).read_file(OUTPUTS_FILE)
    try:
        said = json.loads(text)
        values, files = dict(said["values"]), {str(file["path"]): str(file["sha256"]) for file in said["files"]}
        digest = digest_json([values, sorted(file["sha256"] for file in said["files"])])
    except (KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:120]
        raise LineageError(f"run {run.run_id}: {OUTPUTS_FILE} is not what a step returns ({detail}).") from None
    if digest != run.result:
        raise LineageError(f"run {run.run_id}: its result is not the one that {run.step} recorded.")
    return Result(values, files)


def _measured_in(tracking: Tracking, run: RunRecord, weights: str) -> Iterator[Measurement]:
    result = result_of(tracking, run)
    if result.values.get("model", weights) != weights:
        return  # it read the weights for something else
    judged = {use.digest for use in run.uses if use.role == "evaluation"}
    files = {"/".join(PurePosixPath(path).parts[-2:]): sha256 for path, sha256 in result.files.items()}
    try:
        for name, said in result.values[MEASURED].items():
            on = MeasuredOn.model_validate(said)
            if on.digest in judged:
                metrics = {metric: _number(value) for metric, value in result.values["metrics"][name].items()}
                yield Measurement(RunLog(tracking, run.run_id), name, on, metrics, files)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LineageError(
            f"run {run.run_id}: it does not say on what it measured, as those of earlier releases; measure again."
        ) from None


def _number(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]
