"""What is wrong with a download, in plain words: files, counts, boxes, points, flags, image headers.

Nothing is decoded: an image is judged by its first and last 64 KiB.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from posecore.datasets.areas import impossible_areas
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import read_split
from posecore.datasets.sample import Sample
from posecore.errors import DatasetError, ImageHeaderError
from posecore.geometry import beyond_reach, boxes_beyond_reach
from posecore.image_header import HEADER_BYTES, ImageSize, has_end_mark, image_size
from posecore.schema import Instance, Record, Reject
from posecore.storage import AnyPath, as_path, open_regular

Severity: TypeAlias = Literal["error", "warning"]

MAX_EXAMPLES = 3
SAMPLE_SIZE = 50
POINT_TOLERANCE_PX = 1.0
"""Annotators click on the border; a point this far outside is not reported."""

_GAPS_OF_THE_PUBLISHER = frozenset({"no-center", "no-keypoints"})
"""Rejects that a whole and healthy download has too."""

_SENTENCES: dict[str, tuple[Severity, str]] = {
    "missing-image": ("error", "image files do not exist"),
    "unreadable-image": ("error", "image files are empty, cut within their header, or neither JPEG nor PNG"),
    "truncated-image": ("error", "image files end before their end mark; download them again"),
    "size-mismatch": ("error", "images have another size than their annotation says"),
    "duplicate-image-id": ("error", "image ids occur more than once"),
    "duplicate-image-file": ("warning", "image files are named by more than one record"),
    "duplicate-instance-id": ("error", "instance ids occur more than once"),
    "bad-box": ("error", "boxes are not finite or have no positive width and height"),
    "far-box": ("error", "boxes lie so far from their image that they cannot be pixels of it"),
    "box-outside-image": ("error", "boxes lie entirely outside their image"),
    "bad-area": ("error", "OKS areas are not positive numbers"),
    "wrong-keypoint-count": ("error", "instances have another number of points than the skeleton"),
    "flag-out-of-range": ("error", "keypoint flags are not 0, 1 or 2"),
    "nan-keypoint": ("error", "labelled points have a coordinate that is not a finite number"),
    "far-keypoints": ("error", "instances have labelled points that cannot be pixels of their image"),
    "point-outside-image": ("warning", "instances have labelled points outside their image"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, with how often and where.

    Attributes:
        severity: an ``error`` would be lost or do harm in ingestion; a ``warning`` deserves a look.
        code: kebab-case name of the problem.
        message: what is wrong, in words that follow the count.
        count: how many images or instances are affected.
        examples: up to :data:`MAX_EXAMPLES` places.
    """

    severity: Severity
    code: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        many = f"{self.count} × " if self.examples else ""
        where = f" (for example {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.severity}: {self.code}: {many}{self.message}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The findings on one split.

    Attributes:
        dataset: name of the definition.
        split: name of the split.
        num_images: records the reader gave.
        num_instances: bodies in them.
        num_subjects: different subjects they state; 0 if none.
        findings: errors first.
        sample: some of its records, to try the stages on.
    """

    dataset: str
    split: str
    num_images: int
    num_instances: int
    num_subjects: int
    findings: tuple[Finding, ...]
    sample: tuple[Record, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def __str__(self) -> str:
        named = "subject" if self.num_subjects == 1 else "subjects"
        subjects = f", {self.num_subjects} {named}" if self.num_subjects else ""
        head = f"{self.dataset} {self.split}: {self.num_images} images, {self.num_instances} instances{subjects}"
        lines = [f"  {finding}" for finding in self.findings] or ["  no problems found"]
        return "\n".join([head, *lines])


def present_splits(definition: DatasetDefinition, root: str | AnyPath) -> tuple[str, ...]:
    """Splits whose annotations exist: a definition may list several layouts of which a download has one."""
    top = as_path(root)
    return tuple(name for name, split in definition.splits.items() if (top / split.annotations).exists())


def check_split(
    definition: DatasetDefinition,
    split: str,
    root: str | AnyPath,
    made_of: Callable[[str], str | None] = lambda image: None,
) -> CheckReport:
    """Reads one split completely, looks at every image's header, and says what is wrong.

    Args:
        definition: the dataset.
        split: a split of the definition.
        root: folder of the download, local or any fsspec URL.
        made_of: for the ``image`` of a record, the file that a stage makes its picture of, of which only is asked
            whether it exists; None where it is a picture file.

    Raises:
        DatasetError: the definition has no such split, or its reader cannot be loaded.
    """
    top = as_path(root)
    findings: list[Finding] = []
    tally = _Tally(definition.skeleton.num_keypoints, top, made_of)
    sample = Sample(SAMPLE_SIZE)
    expected = definition.splits.get(split)
    if expected is not None:
        findings += _missing_files(top, expected.annotations, expected.images, expected.detections)
    if not any(finding.code == "missing-annotations" for finding in findings):
        records = read_split(definition, split, root)
        try:
            for item in tqdm(records, desc=f"{definition.name} {split}", unit=" images", disable=None, leave=False):
                tally.look_at(item)
                if isinstance(item, Record):
                    sample.offer(item)
        except DatasetError as error:
            findings.append(Finding(severity="error", code="unreadable-annotations", message=str(error)))
        else:
            findings += _counts(definition, split, tally)
    findings += tally.findings()
    return CheckReport(
        dataset=definition.name,
        split=split,
        num_images=tally.num_images,
        num_instances=tally.num_instances,
        num_subjects=len(tally.subjects),
        findings=tuple(sorted(findings, key=lambda finding: finding.severity)),
        sample=tuple(sample.records),
    )


@dataclass(slots=True)
class _Tally:
    """Counts problems while records pass by.

    Attributes:
        num_keypoints: K of the skeleton.
        root: of the download.
        made_of: as of :func:`check_split`.
        areas: px², annotated and of the box, of every body of which the annotation states one.
    """

    num_keypoints: int
    root: AnyPath
    made_of: Callable[[str], str | None]
    num_images: int = 0
    num_instances: int = 0
    flags: Counter[int] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    rejects: dict[str, list[Reject]] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    subjects: set[str] = field(default_factory=set)
    areas: list[tuple[float, float]] = field(default_factory=list)

    def look_at(self, item: Record | Reject) -> None:
        if isinstance(item, Reject):
            self.rejects.setdefault(item.reason, []).append(item)
            return
        self.num_images += 1
        self._once("duplicate-image-id", item.source_id, item.image)
        self._once("duplicate-image-file", item.image, item.source_id)
        width, height = self._look_at_image(item)
        for instance in item.instances:
            self.num_instances += 1
            if instance.subject_id is not None:
                self.subjects.add(instance.subject_id)
            self._once("duplicate-instance-id", instance.id, item.image)
            self._look_at_instance(instance, f"{item.image}, instance {instance.id}", width, height)

    def findings(self) -> list[Finding]:
        found = []
        for code, count in self.counts.items():
            severity, sentence = _SENTENCES[code]
            examples = tuple(self.problems[code])
            found.append(Finding(severity=severity, code=code, message=sentence, count=count, examples=examples))
        for reason, rejects in self.rejects.items():
            found.append(
                Finding(
                    severity="warning" if reason in _GAPS_OF_THE_PUBLISHER else "error",
                    code=reason,
                    message="annotations cannot be taken over",
                    count=len(rejects),
                    examples=tuple(f"{reject.source}: {reject.detail}" for reject in rejects[:MAX_EXAMPLES]),
                )
            )
        problem = impossible_areas(*np.array(self.areas, np.float64).reshape(-1, 2).T)
        if problem is not None:
            found.append(Finding(severity="error", code="impossible-areas", message=problem))
        return found

    def _add(self, code: str, example: str) -> None:
        self.counts[code] += 1
        examples = self.problems.setdefault(code, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def _once(self, code: str, key: str, where: str) -> None:
        seen = self.seen.setdefault(code, set())
        if key in seen:
            self._add(code, f"{key} ({where})")
        seen.add(key)

    def _look_at_image(self, record: Record) -> tuple[int, int]:
        """Width and height to judge boxes and points by: the file's, else the annotation's; 0 if unknown."""
        made_of = self.made_of(record.image)
        if made_of is not None:
            if not (self.root / made_of).is_file():
                self._add("missing-image", made_of)
            return record.width, record.height
        try:
            size = _examine(self.root / record.image)
        except FileNotFoundError:
            self._add("missing-image", record.image)
            return record.width, record.height
        except (OSError, ImageHeaderError) as error:
            self._add("unreadable-image", f"{record.image}: {error}")
            return record.width, record.height
        if size is None:
            self._add("truncated-image", record.image)
            return record.width, record.height
        if (record.width and record.width != size.width) or (record.height and record.height != size.height):
            stated = f"{record.width}x{record.height}"
            self._add("size-mismatch", f"{record.image} is {size.width}x{size.height}, annotated as {stated}")
        return size.width, size.height

    def _look_at_instance(self, instance: Instance, where: str, width: int, height: int) -> None:
        x, y, w, h = instance.bbox_xywh
        if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
            self._add("bad-box", f"{where}: x={x:g}, y={y:g}, w={w:g}, h={h:g}")
        elif boxes_beyond_reach(np.array(instance.bbox_xywh), (height, width)):
            self._add("far-box", f"{where}: x={x:g}, y={y:g}, w={w:g}, h={h:g} in {width}x{height}")
        elif width and height and (x >= width or y >= height or x + w <= 0 or y + h <= 0):
            self._add("box-outside-image", f"{where}: x={x:g}, y={y:g}, w={w:g}, h={h:g} in {width}x{height}")
        if not (math.isfinite(instance.area) and instance.area > 0):
            self._add("bad-area", f"{where}: {instance.area:g}")
        elif instance.area_rule == "annotated" and w * h > 0 and not instance.is_crowd:
            self.areas.append((instance.area, w * h))
        points = instance.keypoints
        if points.shape != (self.num_keypoints, 3):
            self._add("wrong-keypoint-count", f"{where}: shape {points.shape}, not ({self.num_keypoints}, 3)")
            return
        wrong = points[~np.isin(points[:, 2], (0, 1, 2)), 2]
        if wrong.size:
            self._add("flag-out-of-range", f"{where}: {wrong[0]:g}")
        self.flags.update(points[np.isin(points[:, 2], (0, 1, 2)), 2].astype(int).tolist())
        labelled = points[points[:, 2] > 0, :2]
        if not np.isfinite(labelled).all():
            self._add("nan-keypoint", where)
        elif beyond_reach(labelled, (height, width)).any():
            px, py = labelled[np.abs(labelled).max(axis=1).argmax()]
            self._add("far-keypoints", f"{where}: ({px:g}, {py:g}) in {width}x{height}")
        elif width and height:
            limit = np.array([width, height], np.float32) - 1 + POINT_TOLERANCE_PX
            outside = labelled[((labelled < -POINT_TOLERANCE_PX) | (labelled > limit)).any(axis=1)]
            if len(outside):
                px, py = outside[0]
                self._add("point-outside-image", f"{where}: ({px:g}, {py:g}) in {width}x{height}")


def _examine(path: AnyPath) -> ImageSize | None:
    """Size of an image file, or None if its end is missing.

    Raises:
        ImageHeaderError: no size can be read.
        OSError: no file can be read.
    """
    with open_regular(path) as file:
        head = file.read(HEADER_BYTES)
        tail = head
        if len(head) == HEADER_BYTES:
            length = file.seek(0, 2)
            file.seek(max(0, length - HEADER_BYTES))
            tail = file.read()
        try:
            size = image_size(head)
        except ImageHeaderError:
            if len(head) < HEADER_BYTES:
                raise
            file.seek(0)
            size = image_size(file.read())
    return size if has_end_mark(tail, size.format) else None


def _counts(definition: DatasetDefinition, split: str, tally: _Tally) -> list[Finding]:
    findings = []
    if not tally.num_images:
        findings.append(
            Finding(severity="error", code="empty-split", message=f"split {split} has not a single usable image")
        )
        return findings
    if not tally.num_instances:
        findings.append(
            Finding(severity="error", code="no-instances", message=f"split {split} has not a single usable instance")
        )
    expected = definition.splits[split]
    for code, counted, stated in (
        ("image-count", tally.num_images, expected.num_images),
        ("instance-count", tally.num_instances, expected.num_instances),
    ):
        if stated is not None and counted != stated:
            what = code.partition("-")[0]
            findings.append(
                Finding(
                    severity="warning",
                    code=code,
                    message=f"{counted} {what}s where the definition states {stated}: a subset, or not complete",
                )
            )
    never = [flag for flag in definition.expected_flags if not tally.flags[flag]]
    if never and tally.num_instances:
        meaning = {0: "0 (not labelled)", 1: "1 (occluded)", 2: "2 (visible)"}
        listed = ", ".join(meaning.get(flag, str(flag)) for flag in never)
        findings.append(
            Finding(
                severity="warning",
                code="flag-never-seen",
                message=f"flag {listed} was never seen, but a whole download has it",
            )
        )
    return findings


def _missing_files(root: AnyPath, annotations: str, images: str, detections: str | None) -> list[Finding]:
    findings = []
    wanted: Iterable[tuple[str, str | None, Severity]] = (
        ("missing-annotations", annotations, "error"),
        ("missing-image-folder", images, "error"),
        ("missing-detections", detections, "warning"),
    )
    for code, relative, severity in wanted:
        if relative is not None and not (root / relative).exists():
            message = f"{relative or root} does not exist; {_what_is_there(root, relative)}"
            findings.append(Finding(severity=severity, code=code, message=message))
    return findings


def _what_is_there(root: AnyPath, relative: str) -> str:
    """What stands in the nearest folder that does exist, and where the wanted name lies instead."""
    name = PurePosixPath(relative).name
    if isinstance(root, Path) and name:
        elsewhere = sorted(path for depth in ("*/", "*/*/") for path in root.glob(f"{depth}{name}"))
        if elsewhere:
            return f"a {name} lies in {elsewhere[0].parent}, is that the right folder?"
    folder = root / relative
    while not folder.exists() and folder != root:
        folder = folder.parent
    if not folder.exists():
        return f"nor does {root}"
    return f"{folder} holds {_listing([path.name for path in folder.iterdir()])}"


def _listing(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(sorted(names)[:limit])
    return f"{shown}, … ({len(names)} entries)" if len(names) > limit else shown or "nothing"
