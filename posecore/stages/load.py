"""From the entries of a ``dataset.yaml`` to stages that can be run, each built with its options."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from posecore.config import parse_config
from posecore.datasets import search_path
from posecore.datasets.definition import DatasetDefinition, StageEntry, StageResources
from posecore.errors import ConfigError, IngestError, failing_line, said
from posecore.nearest import did_you_mean
from posecore.stages.declared_file import DeclaredFile
from posecore.stages.duplicates import Deduplicate
from posecore.stages.protocol import SKELETON, ImageStage, ModelStage, SourceStage, Stage
from posecore.stages.records import RecordStage

BUILT_IN: Mapping[str, str] = {
    name: f"posecore.{module}:{attribute}"
    for name, module, attribute in (
        ("check_instances", "stages.records", "check_instances"),
        ("drop_images_without_instances", "stages.records", "drop_images_without_instances"),
        ("drop_unlabelled", "stages.records", "drop_unlabelled"),
        ("drop_crowds", "stages.records", "drop_crowds"),
        ("keep_subjects", "stages.subjects", "KeepSubjects"),
        ("drop_subjects", "stages.subjects", "DropSubjects"),
        ("drop_pictures", "stages.withdrawn_pictures", "DropPictures"),
        ("filter", "stages.filtering", "Filter"),
        ("deduplicate", "stages.duplicates", "Deduplicate"),
        ("set_fields", "stages.fields", "SetFields"),
        ("box_from_points", "stages.boxes", "BoxFromPoints"),
        ("video_frames", "stages.videos", "VideoFrames"),
        ("packed_frames", "stages.packed_frames", "PackedFrames"),
        ("orient", "stages.orientation", "Orient"),
        ("scale_range", "stages.ranges", "ScaleRange"),
        ("scale_depth", "stages.ranges", "ScaleDepth"),
        ("resize", "stages.sizes", "Resize"),
        ("reencode", "stages.sizes", "Reencode"),
        ("crop_bodies", "stages.crops", "CropBodies"),
        ("blur_faces", "stages.faces", "BlurFaces"),
        ("pseudo_label", "prediction.pseudo_label", "PseudoLabel"),
        ("detect", "prediction.detect_stage", "Detect"),
    )
}
"""Stages that need no module, by name: where they are."""

ENTRY_POINTS = "posecore.stages"
"""Group of entry points by which an installed package names its stages."""


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """A stage, ready to run.

    Attributes:
        label: what counts, rejects and messages call it.
        work: a stage with options, or a function of a record.
        resources: what Ray reserves for it.
    """

    label: str
    work: Stage | RecordStage
    resources: StageResources

    @property
    def may_lose(self) -> bool:
        """Whether the stage is meant to take things out."""
        if isinstance(self.work, Stage):
            return self.work.may_lose
        return self.label.rpartition(":")[2].startswith("drop_")


def load_stages(definition: DatasetDefinition) -> tuple[LoadedStage, ...]:
    """The stages of a definition, in order.

    Raises:
        IngestError: a name is no stage, or an option or resource does not fit it; the message names them.
    """
    search_path()
    where = f"dataset {definition.name}: stage"
    stages = tuple(
        _load(label, entry, definition, f"{where} {label}")
        for label, entry in zip(definition.stage_labels, definition.stages, strict=True)
    )
    _check_order(stages, where)
    return stages


def _check_order(stages: Sequence[LoadedStage], where: str) -> None:
    before: LoadedStage | None = None
    for place, stage in enumerate(stages):
        if isinstance(stage.work, Deduplicate) and place:
            raise IngestError(f"{where} {stage.label} looks at the whole split before any other stage; list it first.")
        if isinstance(stage.work, SourceStage) and before is not None:
            raise IngestError(
                f"{where} {stage.label} reads pictures, but {before.label} before it is given them; swap them."
            )
        if isinstance(stage.work, (SourceStage, ImageStage, ModelStage)):
            before = stage


def stage_path(name: str) -> str:
    """The ``package.module:name`` behind a stage's name; the name itself where nothing is known of it."""
    return BUILT_IN.get(name) or _installed().get(name) or name


def known_stages() -> dict[str, str]:
    """Every stage that needs no module, by name: where it is."""
    return {**_installed(), **BUILT_IN}


def stage_named(name: str) -> Any:
    """The function or class behind a name.

    Raises:
        IngestError: there is none.
    """
    module_name, _, attribute = stage_path(name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or " "):
            raise IngestError(
                f"stage {name!r} is neither one of {', '.join(known_stages())} nor an importable package.module:name; "
                f"correct `stages` in dataset.yaml.{did_you_mean(name, known_stages())}"
            ) from None
        raise IngestError(f"stage {name!r}: its module fails{failing_line(error)}: {said(error)}.") from error
    found = getattr(module, attribute, None) if attribute else None
    if found is None:
        wanted = f"no {attribute}" if attribute else "several names; write package.module:name"
        raise IngestError(f"stage {name!r}: {module.__file__} has {wanted}.")
    return found


def _load(label: str, entry: StageEntry, definition: DatasetDefinition, where: str) -> LoadedStage:
    found: Callable[..., Any] = stage_named(entry.stage)
    if not (isinstance(found, type) and issubclass(found, Stage)):
        if not callable(found) or isinstance(found, type):
            raise IngestError(f"{where} is neither a function of a record nor a class of posecore.stages.")
        if entry.options or entry.files:
            raise IngestError(f"{where} is a function and has no option {', '.join([*entry.options, *entry.files])}.")
        return LoadedStage(label, found, _resources(StageResources(), entry, where))
    files = {name: DeclaredFile(path) for name, path in definition.stage_files(entry).items()}
    for name, file in files.items():
        if not file.path.exists():
            raise IngestError(f"{where}: the file of {name}, {file.path}, does not exist.")
    given = {SKELETON: definition.skeleton} if SKELETON in found.model_fields else {}
    if given.keys() & (entry.options.keys() | files.keys()):
        raise IngestError(f"{where}: options: {SKELETON} is the dataset's; leave it out.")
    try:
        work = parse_config({**entry.options, **files, **given}, found, origin=f"{where}: options")
    except (ConfigError, ValidationError) as error:
        raise IngestError(str(error)) from None
    return LoadedStage(label, work, _resources(found.resources, entry, where))


def _resources(own: StageResources, entry: StageEntry, where: str) -> StageResources:
    if not entry.resources:
        return own
    try:
        return parse_config({**own.model_dump(), **entry.resources}, StageResources, origin=f"{where}: resources")
    except ConfigError as error:
        raise IngestError(str(error)) from None


@lru_cache(maxsize=1)
def _installed() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
