"""What differs between two registered versions: configuration, data down to single pictures, code, packages."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from mlflow.exceptions import MlflowException

from posecore.counting import counted
from posecore.errors import IntegrityError
from posecore.lineage.code.snapshot import DIFF_FILE, FOLDER, INSTALLED_FILE
from posecore.lineage.store.outage import STORE_ERRORS
from posecore.lineage.store.parameters import FACTS
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import (
    DATASET,
    SHA256,
    EvaluationResult,
    RegisteredVersion,
    evaluations,
    get_version,
)
from posecore.lineage.versions.weights_use import WEIGHTS, WeightsUse
from posecore.shards.editions import find_edition
from posecore.shards.index import read_columns
from posecore.shards.manifest import IMAGES_NAME
from posecore.storage import as_path, sha256_of

_NAMED = 20
_WEIGHTS = "SHA-256 of the weights"


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What the store says of a version.

    Attributes:
        version: which.
        parameters: its configuration, flat; empty where it was registered without.
        code: words by which its code is known, by what they are.
        packages: name to version of everything that was installed; None where that is not recorded.
        datasets: splits it was trained and judged on.
        weights: what it started from and was taught by.
        evaluations: its figures.
    """

    version: RegisteredVersion
    parameters: Mapping[str, str]
    code: Mapping[str, str]
    packages: Mapping[str, str] | None
    datasets: Sequence[DatasetUse]
    weights: Sequence[WeightsUse]
    evaluations: Sequence[EvaluationResult]


@dataclass(frozen=True, slots=True)
class Differing:
    """A value that is another.

    Attributes:
        name: of the value.
        first: of the first version; None where it has none.
        second: likewise of the second.
    """

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True, kw_only=True)
class DataChange:
    """A split that one version has and the other has not, or not the same edition of.

    Attributes:
        label: ``dataset/split``.
        role: what it was used for.
        said: what became of it, in words.
        added: keys of the first pictures that only the second version's edition has.
        removed: keys of the first pictures that only the first version's has.
    """

    label: str
    role: str
    said: str
    added: Sequence[str] = ()
    removed: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class VersionDifference:
    """Two versions.

    Attributes:
        first: the one.
        second: the other.
        parameters: settings that differ.
        code: likewise, of the code.
        packages: likewise.
        data: splits that differ.
        weights: what they started from or were taught by, where that differs.
        unknown: what cannot be said, a sentence each.
    """

    first: VersionFacts
    second: VersionFacts
    parameters: Sequence[Differing]
    code: Sequence[Differing]
    packages: Sequence[Differing]
    data: Sequence[DataChange]
    weights: Sequence[Differing]
    unknown: Sequence[str] = field(default_factory=list)

    @property
    def digests(self) -> set[str]:
        """Of every split and all weights that something is said of."""
        both = (self.first, self.second)
        splits = {use.digest for facts in both for use in facts.datasets}
        judged = {result.digest for facts in both for result in facts.evaluations}
        weights = {facts.code[_WEIGHTS] for facts in both if _WEIGHTS in facts.code}
        return splits | judged | weights


def compare_versions(tracking: Tracking, first: RegisteredVersion, second: RegisteredVersion) -> VersionDifference:
    """Reads both from the store; pictures from the editions of their splits.

    Raises:
        LineageError: a version is not there.
    """
    a, b = (version_facts(tracking, version) for version in (first, second))
    unknown = []
    for facts in (a, b):
        if not facts.parameters:
            unknown.append(f"{facts.version.uri} was registered without its configuration")
        if facts.packages is None:
            unknown.append(f"what was installed for {facts.version.uri} is not recorded")
    return VersionDifference(
        first=a,
        second=b,
        parameters=_differing(a.parameters, b.parameters) if a.parameters and b.parameters else [],
        code=_differing(a.code, b.code),
        packages=_differing(a.packages, b.packages) if a.packages is not None and b.packages is not None else [],
        data=_data_changes(a.datasets, b.datasets),
        weights=_differing(_named_weights(a.weights), _named_weights(b.weights)),
        unknown=unknown,
    )


def version_facts(tracking: Tracking, version: RegisteredVersion) -> VersionFacts:
    """What the store says of one version.

    Raises:
        LineageError: it is not there.
    """
    found = get_version(tracking, version.name, version.version)
    tags = dict(found.tags)
    model_id = str(found.source).rsplit("/", 1)[-1]
    try:
        found_parameters = tracking.client.get_logged_model(model_id).params
        parameters = {name: value for name, value in found_parameters.items() if not name.startswith(FACTS)}
    except MlflowException:
        parameters = {}
    snapshot = _snapshot(tracking, tags.get("run_id", found.run_id or ""))
    code = {"git commit": tags.get("git", ""), "digest of the code": tags.get("code", "")}
    code |= {_WEIGHTS: tags.get(SHA256, ""), "changes that were not committed": snapshot.diff}
    return VersionFacts(
        version=version,
        parameters=parameters,
        code=code,
        packages=snapshot.packages,
        datasets=[DatasetUse.model_validate_json(tags[key]) for key in sorted(tags) if key.startswith(DATASET)],
        weights=[WeightsUse.model_validate_json(tags[key]) for key in sorted(tags) if key.startswith(WEIGHTS)],
        evaluations=evaluations(found),
    )


@dataclass(frozen=True)
class _Snapshot:
    packages: dict[str, str] | None
    diff: str


def _snapshot(tracking: Tracking, run_id: str) -> _Snapshot:
    """What was installed, and the uncommitted changes, of the submission that a step's run belongs to."""
    client = tracking.client
    with tempfile.TemporaryDirectory() as scratch:
        try:
            submission = client.get_run(run_id).data.tags["mlflow.parentRunId"]
            folder = Path(client.download_artifacts(submission, FOLDER, scratch))
            lines = (folder / INSTALLED_FILE).read_text(encoding="utf-8").split()
        except (*STORE_ERRORS, OSError, KeyError):
            return _Snapshot(None, "not recorded")
        diff = folder / DIFF_FILE
        packages = dict(line.split("==", 1) for line in lines if "==" in line)
        return _Snapshot(packages, f"a diff, {sha256_of(diff)[:12]}" if diff.exists() else "none")


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[Differing]:
    return [
        Differing(name, first.get(name), second.get(name))
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    ]


def _named_weights(uses: Sequence[WeightsUse]) -> dict[str, str]:
    return {f"{use.relation} {use.source}": use.digest[:12] for use in uses if not use.child}


def _data_changes(first: Sequence[DatasetUse], second: Sequence[DatasetUse]) -> list[DataChange]:
    uses = [{(use.role, use.label): use for use in each} for each in (first, second)]
    changes = []
    for role, label in sorted({*uses[0], *uses[1]}, reverse=True):
        before, after = (each.get((role, label)) for each in uses)
        if before is None or after is None:
            use, who = (after, "second") if before is None else (before, "first")
            assert use is not None
            changes.append(
                DataChange(label=label, role=role, said=f"only the {who} version has it ({use.digest[:12]})")
            )
        elif before.digest != after.digest:
            changes.append(_edition_change(before, after))
        elif before.corrections != after.corrections:
            changes.append(DataChange(label=label, role=role, said="other corrections of its labels"))
        elif before.weight != after.weight and None not in (before.weight, after.weight):
            said = f"{before.weight:.1%} of the crops, then {after.weight:.1%}"
            changes.append(DataChange(label=label, role=role, said=said))
    return changes


def _edition_change(before: DatasetUse, after: DatasetUse) -> DataChange:
    digests = f"edition {before.digest[:12]}, then {after.digest[:12]}"
    try:
        old, new = (_pictures(use) for use in (before, after))
    except (IntegrityError, OSError, pa.ArrowInvalid) as error:
        detail = " ".join(str(error).split()).rstrip(".")
        said = f"{digests}; which pictures cannot be said ({detail})"
        return DataChange(label=after.label, role=after.role, said=said)
    added = [key for mark, key in new.items() if mark not in old]
    removed = [key for mark, key in old.items() if mark not in new]
    same = "" if added or removed else "; the same pictures, with other labels, stages or settings"
    return DataChange(
        label=after.label,
        role=after.role,
        said=f"{digests}: {counted(len(added), 'picture')} added, {len(removed)} removed, of {len(old)}{same}",
        added=added[:_NAMED],
        removed=removed[:_NAMED],
    )


def _pictures(use: DatasetUse) -> dict[int, str]:
    """XXH3 of the bytes to key of every picture of an edition; editions of every format have it."""
    if not use.location:
        raise IntegrityError("the record names no place")
    table = read_columns(find_edition(as_path(use.location), use.digest) / IMAGES_NAME, ("key", "image_xxh3"))
    return dict(zip(table["image_xxh3"].to_pylist(), table["key"].to_pylist(), strict=True))
