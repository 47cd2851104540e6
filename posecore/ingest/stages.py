"""Stages: plain functions that look at a record before its image is read, named in ``dataset.yaml``.

A stage gets one :class:`~posecore.schema.Record` and returns a record to keep, a :class:`~posecore.schema.Reject` for
the whole image, or a record together with the rejects of the instances it took out of it. It must be a pure function:
shards are a function of the source and of nothing else. To add one, write it anywhere importable and name it
``package.module:function``; the names below need no module. What counts as its code: :mod:`posecore.ingest.stage_code`.

A stage called ``drop_…`` takes out what it is told to, and its losses never stop an ingestion; they are counted all the
same. Any other stage that loses more than the definition's ``max_loss`` does stop it.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from posecore.datasets import search_path
from posecore.errors import IngestError
from posecore.ingest.tally import Tally
from posecore.schema import Instance, Record, Reject

StageResult: TypeAlias = Record | Reject | tuple[Record, Sequence[Reject]]
StageFunction: TypeAlias = Callable[[Record], StageResult]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as a definition names it.

    Attributes:
        name: as in ``dataset.yaml``.
        function: what it does.
    """

    name: str
    function: StageFunction

    @property
    def may_lose(self) -> bool:
        """Whether the stage is meant to take things out."""
        return self.name.rpartition(":")[2].startswith("drop_")


def check_instances(record: Record) -> StageResult:
    """Takes out instances that no loss or metric could use.

    Reasons: ``nan-box``, ``negative-box``, ``empty-box``, ``box-outside-image``, ``bad-area`` (not positive and
    finite), ``nan-keypoints``, ``flag-out-of-range`` (not 0, 1 or 2), ``absent-out-of-range``.
    """
    kept = []
    rejects = []
    for instance in record.instances:
        problem = _problem(instance, record)
        if problem is None:
            kept.append(instance)
        else:
            rejects.append(reject_instance(record, instance, *problem))
    return (replace(record, instances=kept), rejects) if rejects else record


def drop_images_without_instances(record: Record) -> StageResult:
    """Takes out images in which nothing is annotated (reason ``no-instances``)."""
    if record.instances:
        return record
    return reject_image(record, "no-instances", "the image has no instance.")


def drop_unlabelled(record: Record) -> StageResult:
    """Takes out single bodies without any labelled keypoint (``no-labelled-keypoints``); crowd regions stay."""
    return _drop_instances(
        record,
        lambda instance: not instance.is_crowd and not instance.keypoints[:, 2].any(),
        "no-labelled-keypoints",
        "no keypoint is labelled.",
    )


def drop_crowds(record: Record) -> StageResult:
    """Takes out crowd regions (``crowd``)."""
    return _drop_instances(record, lambda instance: instance.is_crowd, "crowd", "the instance is a crowd region.")


_FLAGS = frozenset((0.0, 1.0, 2.0))

BUILT_IN: dict[str, StageFunction] = {
    function.__name__: function
    for function in (check_instances, drop_images_without_instances, drop_unlabelled, drop_crowds)
}


def load_stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """The stages a definition names, in order.

    Raises:
        IngestError: a name is neither built in nor the import path of a function.
    """
    search_path()
    return tuple(_load_stage(name) for name in names)


def run_stages(record: Record, stages: Sequence[Stage], tally: Tally) -> Record | None:
    """Passes a record through all stages.

    Args:
        record: one image.
        stages: from :func:`load_stages`.
        tally: counts what each stage was given and what it took out.

    Returns:
        The record as the last stage left it, or None if a stage rejected the image.
    """
    for stage in stages:
        tally.enter(stage.name, record)
        result = stage.function(record)
        if isinstance(result, Reject):
            tally.reject_image(stage.name, result, record)
            return None
        if isinstance(result, Record):
            record = result
        else:
            record, rejects = result
            for reject in rejects:
                tally.reject_instance(stage.name, reject)
    return record


def reject_image(record: Record, reason: str, detail: str) -> Reject:
    """A reject of a whole image."""
    return Reject(
        reason=reason,
        detail=detail,
        dataset=record.dataset,
        split=record.split,
        source=record.image,
        source_id=record.source_id,
    )


def reject_instance(record: Record, instance: Instance, reason: str, detail: str) -> Reject:
    """A reject of one instance."""
    return replace(reject_image(record, reason, detail), instance_id=instance.id)


def _problem(instance: Instance, record: Record) -> tuple[str, str] | None:
    x, y, w, h = instance.bbox_xywh
    box = f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g}"
    if not all(map(math.isfinite, (x, y, w, h))):
        return "nan-box", f"{box} is not finite."
    if w < 0 or h < 0:
        return "negative-box", f"{box} has a negative size."
    if w == 0 or h == 0:
        return "empty-box", f"{box} has no area."
    if record.width and record.height and (x >= record.width or y >= record.height or x + w <= 0 or y + h <= 0):
        return "box-outside-image", f"{box} lies outside the image of {record.width}x{record.height} pixels."
    if not 0 < instance.area < math.inf:
        return "bad-area", f"the area is {instance.area:g} px²; it must be positive and finite."
    if not np.isfinite(instance.keypoints).all():
        return "nan-keypoints", "a keypoint coordinate or flag is not finite."
    flags = instance.keypoints[:, 2].tolist()
    if not _FLAGS.issuperset(flags):
        wrong = ", ".join(f"{flag:g}" for flag in sorted(set(flags) - _FLAGS))
        return "flag-out-of-range", f"keypoint flags must be 0, 1 or 2, not {wrong}."
    if any(not 0 <= index < len(flags) for index in instance.absent):
        return "absent-out-of-range", f"absent points {instance.absent} are not all among the {len(flags)} keypoints."
    return None


def _drop_instances(
    record: Record, unwanted: Callable[[Instance], bool], reason: str, detail: str
) -> Record | tuple[Record, list[Reject]]:
    rejects = [reject_instance(record, item, reason, detail) for item in record.instances if unwanted(item)]
    if not rejects:
        return record
    return replace(record, instances=[item for item in record.instances if not unwanted(item)]), rejects


def _load_stage(name: str) -> Stage:
    function = BUILT_IN.get(name)
    if function is None:
        module_name, _, function_name = name.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError, ValueError):
            raise IngestError(
                f"stage {name!r} is neither one of {', '.join(BUILT_IN)} nor an importable package.module:function; "
                "correct `stages` in dataset.yaml."
            ) from None
    return Stage(name, function)
