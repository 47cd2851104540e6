"""Where a training writes, and which checkpoints it may go on from.

``training/<inputs>/<code>`` of the run folder: a run continues the checkpoints of the same inputs *and* the same code,
so that edited code never ends up with the weights of the code before it. A run that starts clean although there are
such checkpoints takes ``<code>-2``, ``<code>-3`` and so on; what earlier runs wrote stays where their records say. One
that goes on from another code's checkpoints, which has to be asked for by that code's name, works on a copy of them in
``<code>-from-<other code>``.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posecore.asides import aside_folder
from posecore.config import Config, digest_json
from posecore.errors import CheckpointError
from posecore.lineage.jobs.steps import Workflow
from posecore.lineage.versions.tags import RESUMED_CODE
from posecore.schema import Json
from posecore.storage import AnyPath, as_path, make_folder, remove_folder, write_atomically
from posecore.system_errors import said_of_system
from posecore.training.checkpoint import MANIFEST_FILE
from posecore.workflows.machines import RUN_NAME

LABEL_LOSSES = "label_losses"
"""Folder of the recorded losses beside the model."""
_DIGITS = 12
_NAME = re.compile(r"(?P<lineage>[0-9a-f]{12}(-from-[0-9a-f]{12})?)(-(?P<number>\d+))?")


@dataclass(frozen=True)
class Begun:
    """A training that others go on from, on copies of its checkpoints.

    Attributes:
        folder: of its run.
        made_by: what decides its checkpoints, wherever they lie.
    """

    folder: str
    made_by: Mapping[str, Json]


@dataclass(frozen=True)
class RunFolders:
    """The folders of all trainings with the same inputs, whatever code made them.

    Attributes:
        folder: holds them.
        code: of the code that is to train now, the first digits of its digest.
        other: of another code whose checkpoints are gone on from, what names its folders; "" for none.
    """

    folder: AnyPath
    code: str
    other: str = ""

    @classmethod
    def of(cls, run_folder: AnyPath, inputs: Mapping[str, Any], code: str, workflow: Workflow) -> "RunFolders":
        """Those of the inputs of a training; it may go on with another number of workers, on the same samples.

        Args:
            run_folder: of the job.
            inputs: everything but the code that decides the result.
            code: digest of the code that is to train now.
            workflow: knows which other codes may be gone on from, and is told if there are any.

        Raises:
            CheckpointError: no training of this workflow has checkpoints of a code that was named, or this one has some
                of several.
        """
        key = digest_json(workflow.portable({name: _plain(value) for name, value in inputs.items()}))[:_DIGITS]
        here = cls(run_folder / "training" / key, code[:_DIGITS])
        others = here.others()
        named = {word if word in others else word[:_DIGITS] for word in workflow.reuse.codes}
        found = [name for name in others if name in named or name[:_DIGITS] in named]
        if len(found) > 1:
            raise CheckpointError(f"{here.folder} has checkpoints of {' and '.join(found)}; name one of them.")
        if found:
            workflow.goes_on_from_other_code = True
            return replace(here, other=found[0])
        listed = ", ".join(others) or "no other code"
        if workflow.reuse.codes and not workflow.goes_on_from_other_code:
            raise CheckpointError(
                f"{here.folder} has checkpoints of {listed}, not of {', '.join(workflow.reuse.codes)}; name one that "
                "is there, or leave the flag out to start anew. Other settings or data have folders of their own."
            )
        if others and not here._numbers(here.code):
            workflow.note(
                f"the code is {here.code}; {here.folder} has checkpoints of {listed}, which are left alone "
                "(--resume-from-code would go on from them)"
            )
        return here

    def others(self) -> list[str]:
        """Other codes that left checkpoints for these inputs, by what names their folders."""
        matches = (_NAME.fullmatch(path.name) for path in self.folder.glob("*") if _has_checkpoints(path))
        names = {match["lineage"] for match in matches if match}
        return sorted(name for name in names if not name.startswith(self.code))

    @property
    def inputs(self) -> dict[str, str]:
        """What the fingerprint of such a training says beside its inputs and its code."""
        return {RESUMED_CODE: self.other} if self.other else {}

    def open(self, *, clean: bool, begun: str | None = None) -> AnyPath:
        """The folder to write to, made if there is none.

        Args:
            clean: take a new one, although there may be checkpoints to go on from.
            begun: folder of a run whose checkpoints a new one begins with; None begins with none.
        """
        name = self.code + (f"-from-{self.other[:_DIGITS]}" if self.other else "")
        newest = max(self._numbers(name), default=0)
        if clean:
            newest += 1
            while not make_folder(self.folder / _numbered(name, newest)):  # another driver was faster
                newest += 1
        folder = self.folder / _numbered(name, max(newest, 1))
        source = None if begun is None else as_path(begun)
        if self.other:  # which had begun so, too
            number = max(
                n for n in self._numbers(self.other) if _has_checkpoints(self.folder / _numbered(self.other, n))
            )
            source = self.folder / _numbered(self.other, number)
        if source is not None and not _has_checkpoints(folder):
            copy_run(source, folder)
        make_folder(folder)
        return folder

    def _numbers(self, name: str) -> list[int]:
        matches = (_NAME.fullmatch(path.name) for path in self.folder.glob("*"))
        return [int(match["number"] or 1) for match in matches if match and match["lineage"] == name]


def copy_run(source: AnyPath, target: AnyPath) -> None:
    """Copies the checkpoints of one run's folder to another's, which has none, and the losses recorded up to them.

    Checkpoints are copied last, and at the very end their manifests, without which they are none, the newest first.

    Raises:
        CheckpointError: there are none to copy, or the system refuses to read or write one.
    """
    if not _has_checkpoints(source):
        raise CheckpointError(
            f"{source}: its checkpoints, with which the training in {target} was to begin, are gone; put them back, or "
            "start with --no-reuse to have them made again."
        )
    try:
        for name in (LABEL_LOSSES, RUN_NAME):
            _copy(source / name, target, name)
    except OSError as error:  # of which shutil's are
        raise CheckpointError(
            f"{source}: its checkpoints could not be copied to {target}: {said_of_system(error)}"
        ) from error


def _copy(source: AnyPath, target: AnyPath, name: str) -> None:
    """Copies a folder, if it is there, under a name, and in place of what has that name."""
    if not source.exists():
        return
    if isinstance(target, Path):
        make_folder(target)
        with aside_folder(target) as aside:
            shutil.copytree(source, aside / name)
            remove_folder(target / name)
            (aside / name).rename(target / name)
        return
    files = [path for path in source.rglob("*") if path.is_file()]
    # A copy that was begun counts as done once one checkpoint is whole, so the newest is the first to be.
    manifests = sorted((path for path in files if path.name == MANIFEST_FILE), key=lambda path: path.parent.name)
    for path in [path for path in files if path.name != MANIFEST_FILE] + manifests[::-1]:
        write_atomically(target / name / path.relative_to(source).as_posix(), path.read_bytes())


def _has_checkpoints(folder: AnyPath) -> bool:
    return any((folder / RUN_NAME).rglob(MANIFEST_FILE))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _plain(value: Any) -> Json:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value.model_dump(mode="json") if isinstance(value, Config) else value
