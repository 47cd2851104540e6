"""Training a registered version again from what the registry has of it, and saying whether the weights are the same."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from posecore.counting import counted
from posecore.errors import LineageError
from posecore.lineage.code.archive import ARCHIVE_FILE, unpack_archive
from posecore.lineage.code.snapshot import INSTALLED_FILE
from posecore.lineage.jobs.steps import CONFIG_FILE, JOB, MACHINES
from posecore.lineage.store.outage import STORE_ERRORS
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.lineage.versions.difference import VersionFacts, version_facts
from posecore.lineage.versions.model_source import registered_files
from posecore.lineage.versions.tags import RESUMED_CODE, SHA256, RegisteredVersion, get_version, parse_uri
from posecore.workflows.progress import HARDWARE

COMMANDS = {
    "JobConfig": "train",
    "PretrainingConfig": "pretrain",
    "AdaptationJob": "adapt",
    "DistillationJob": "distill",
}
"""Class of a run file to the command that runs it."""
REGISTERED = "posecore.registered"
"""Tag of a submission: the version it registered."""
_PLACES = re.compile(r"name$|hardware$|(?:run|data)_folder$|tracking\.|cluster\.")
"""Settings that decide no weights."""
_DECISIVE = ("torch", "numpy", "deepspeed", "ray", "opencv-python-headless", "simplejpeg", "polars", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the registry has of how a version was made.

    Attributes:
        version: which.
        facts: of it.
        tags: of the version.
        job: command that made it.
        config: its run file, resolved.
        with_ray: whether a Ray cluster worked on it, or else torchrun's processes.
        hardware: of its training: what it ran on, to the steps made there.
        python: version of Python; "" if unknown.
    """

    version: RegisteredVersion
    facts: VersionFacts
    tags: Mapping[str, str]
    job: str
    config: Mapping[str, Any]
    with_ray: bool
    hardware: Mapping[str, int]
    python: str

    @property
    def processes(self) -> int:
        """Training processes it had."""
        counts = [sum(int(n) for n in re.findall(r"(?:^|, )(\d+) x ", name)) for name in self.hardware]
        return max([*counts, 1])


@dataclass(frozen=True, kw_only=True)
class RerunResult:
    """What became of it.

    Attributes:
        again: the version that the second training made.
        weights: SHA-256 of both versions' weights.
        reasons: what differs between the two that may make others, a sentence each.
    """

    again: RegisteredVersion
    weights: tuple[str, str]
    reasons: Sequence[str]

    @property
    def equal(self) -> bool:
        """Whether the weights are the same, bit for bit."""
        return self.weights[0] == self.weights[1]


def read_recorded(tracking: Tracking, version: RegisteredVersion) -> Recorded:
    """What is needed to train a version again.

    Raises:
        LineageError: it is not there, or was registered by no job whose record is there.
    """
    found = get_version(tracking, version.name, version.version)
    tags = dict(found.tags)
    try:
        registering = tracking.client.get_run(tags["run_id"])
        submission = RunLog(tracking, registering.data.tags["mlflow.parentRunId"])
        said = tracking.client.get_run(submission.run_id).data.tags
        trained = tracking.client.get_run(tags["training_run_id"]).data.tags
        job = COMMANDS[said[JOB]]
    except (*STORE_ERRORS, KeyError) as error:
        raise LineageError(
            f"{version.uri} cannot be trained again: its record does not say which job made it ({error})."
        ) from None
    return Recorded(
        version=version,
        facts=version_facts(tracking, version),
        tags=tags,
        job=job,
        config=yaml.safe_load(submission.read_file(CONFIG_FILE)),
        with_ray=said.get(MACHINES) != "ThisProcess",
        hardware=json.loads(trained.get(HARDWARE, "{}")),
        python=said.get("posecore.python", ""),
    )


def rerun(
    tracking: Tracking, recorded: Recorded, out: Path, data_folder: str | None, overrides: Sequence[str]
) -> RerunResult:
    """Trains again, with the version's own code in a process of its own.

    The second run has its own folder, experiment and model, so that nothing of the first is used for it or changed.

    Args:
        tracking: the store that has the version, and gets the second.
        recorded: of the version.
        out: new folder; gets ``code/``, ``config.yaml``, ``installed.txt``, by which to install what was installed, and
            the run folder ``run/``.
        data_folder: where the downloads lie now; None for where they lay.
        overrides: further ``key=value`` for the job.

    Raises:
        LineageError: the version has no code, or not that which it names, or the job failed.
    """
    code = out / "code"
    with registered_files(recorded.version.uri, tracking) as files:
        if not (files / ARCHIVE_FILE).exists():
            raise LineageError(
                f"{recorded.version.uri} was registered without its code; check out commit "
                f"{recorded.tags.get('git') or '(unknown)'} and submit its config.yaml."
            )
        unpack_archive(files / ARCHIVE_FILE, code)
    environment = {**os.environ, "PYTHONPATH": str(code), "POSECORE_GIT_SHA": recorded.tags.get("git", "")}
    _check_code(code, environment, recorded.tags.get("code", ""))
    config, experiment = out / "config.yaml", f"{tracking.experiment}-rerun"
    packages = recorded.facts.packages or {}
    lock = "".join(f"{name}=={number}\n" for name, number in packages.items() if name.lower() != "posecore")
    (out / INSTALLED_FILE).write_text(lock, encoding="utf-8")
    config.write_text(yaml.safe_dump(dict(recorded.config)), encoding="utf-8")
    settings = {
        "run_folder": str(out / "run"),
        "name": f"{recorded.version.name}-rerun",
        "tracking.uri": tracking.uri,
        "tracking.experiment": experiment,
    }
    if data_folder is not None:
        settings["data_folder"] = data_folder
    if "parent" in recorded.tags and "parent" in recorded.config:  # an alias may point elsewhere by now
        settings["parent.source"] = recorded.tags["parent"]
    command = [sys.executable]
    if not recorded.with_ray:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(recorded.processes)]
    command += ["-m", "posecore", recorded.job, "--config", str(config), "--no-reuse"]
    for override in (*(f"{key}={json.dumps(value)}" for key, value in settings.items()), *overrides):
        command += ["--set", override]
    status = subprocess.run(command, env=environment, cwd=out, check=False).returncode
    if status:
        raise LineageError(f"{recorded.version.uri}: the job ended with status {status}; what it said is above.")
    again = _registered(tracking, experiment, out)
    new = read_recorded(tracking, again)
    weights = (recorded.tags.get(SHA256, ""), new.tags.get(SHA256, ""))
    return RerunResult(again=again, weights=weights, reasons=list(differences(recorded, new)))


def differences(before: Recorded, after: Recorded) -> Iterator[str]:
    """What two trainings of one code and configuration differed in, as far as it is recorded."""
    if RESUMED_CODE in before.tags:
        yield f"the first training went on from checkpoints of other code ({before.tags[RESUMED_CODE][:12]})"
    settings = [
        {name: value for name, value in each.facts.parameters.items() if not _PLACES.match(name)}
        for each in (before, after)
    ]
    if changed := [name for name in {**settings[0], **settings[1]} if settings[0].get(name) != settings[1].get(name)]:
        shown = (f"{name} {settings[0].get(name, '–')}, then {settings[1].get(name, '–')}" for name in changed[:8])
        yield f"other settings: {'; '.join(shown)}"
    for label, one, other in _data(before.facts, after.facts):
        yield f"the data of {label} is another: {one[:12]}, then {other[:12]}"
    started = [{(use.relation, use.digest) for use in each.facts.weights if not use.child} for each in (before, after)]
    if started[0] != started[1]:
        yield "it started from, or was taught by, other weights"
    if before.hardware.keys() != after.hardware.keys() or len(before.hardware) != 1:
        yield f"it ran on {_steps(before.hardware)}, then on {_steps(after.hardware)}"
    elif any("NVIDIA" in name for name in before.hardware):
        yield "some sums on GPUs are added up in another order every time"
    if before.python != after.python:
        yield f"Python {before.python or '(unknown)'}, then {after.python}"
    yield from _package_differences(before.facts.packages, after.facts.packages)


def _package_differences(before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> Iterator[str]:
    if before is None or after is None:
        yield "what was installed is not recorded"
        return
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    names.sort(key=lambda name: name.lower() not in _DECISIVE)
    if names:
        shown = ", ".join(f"{name} {before.get(name, '–')}, then {after.get(name, '–')}" for name in names[:8])
        more = f", and {len(names) - 8} more" if len(names) > 8 else ""
        yield f"other packages: {shown}{more}"


def _data(before: VersionFacts, after: VersionFacts) -> Iterator[tuple[str, str, str]]:
    """Label and both digests of the training sets that differ."""
    sets = [{use.label: use.digest for use in facts.datasets if use.role == "training"} for facts in (before, after)]
    for label in sorted({*sets[0], *sets[1]}):
        one, other = sets[0].get(label, "none"), sets[1].get(label, "none")
        if one != other:
            yield label, one, other


def _steps(hardware: Mapping[str, int]) -> str:
    return " and ".join(f"{name} ({counted(steps, 'step')})" for name, steps in hardware.items()) or "unknown machines"


_ASK_DIGEST = """
try:
    from posecore.lineage.code.version import source_digest
except ModuleNotFoundError:  # of versions made before lineage had rooms
    from posecore.lineage.code_version import source_digest
print(source_digest())
"""


def _check_code(code: Path, environment: Mapping[str, str], expected: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _ASK_DIGEST], env=environment, cwd=code, capture_output=True, text=True, check=False
    )
    if said.stdout.strip() != expected:
        detail = said.stderr.strip().splitlines()[-1:] or [f"digest {said.stdout.strip()[:12]}"]
        raise LineageError(f"{code}: this is not the code that the version names, {expected[:12]} ({detail[0]}).")


def _registered(tracking: Tracking, experiment: str, out: Path) -> RegisteredVersion:
    """The version that the newest submission registered."""
    found = tracking.client.get_experiment_by_name(experiment)
    runs = tracking.client.search_runs(
        [found.experiment_id], f"tags.`{REGISTERED}` LIKE '%'", order_by=["attributes.start_time DESC"], max_results=1
    )
    if not runs:
        raise LineageError(f"{out}: the job registered nothing, so there are no weights to compare.")
    return parse_uri(runs[0].data.tags[REGISTERED])
