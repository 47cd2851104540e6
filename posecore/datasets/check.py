"""What is wrong with a download, in plain words: files, counts, boxes, points, flags, images, and relations.

An image is judged by its first and last 64 KiB; only some of those with more than 8 bits are decoded, for their range.
"""

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posecore.counting import counted
from posecore.datasets.areas import areas_of_boxes, impossible_areas
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import read_split
from posecore.datasets.finding import MAX_EXAMPLES, Finding, Severity
from posecore.datasets.image_files import TRANSPOSED, examine, fitting_reading, value_range
from posecore.datasets.judgeable import LabelCounts, labels_problem
from posecore.datasets.relations import columns_of, relations, worst_records
from posecore.datasets.sample import Sample
from posecore.datasets.seen import Seen
from posecore.errors import DatasetError, ImageHeaderError
from posecore.geometry import beyond_reach, boxes_beyond_reach
from posecore.schema import Instance, Outcome, Record, Reject
from posecore.skeletons.mirror_names import wrong_partners
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, as_path
from posecore.tar_members import picture_at

SAMPLE_SIZE = 50
RELATED_SIZE = 2000
"""Records whose labels are related to each other; shares of them stand for the split's."""
_DECODED_SIZE = 20
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
_DIGITS = 12
_ENOUGH_FRAMES = 5
_SPARSE = 10
"""Numbers with larger gaps, on average, are ids of photographs rather than frames."""
POINT_TOLERANCE_PX = 1.0
"""Annotators click on the border; a point this far outside is not reported."""

_GAPS_OF_THE_PUBLISHER = frozenset({"no-center", "no-keypoints"})
"""Rejects that a whole and healthy download has too."""

_OUTCOMES: dict[Outcome, str] = {
    "lost": "annotations cannot be taken over",
    "kept": "annotations are taken over without what is wrong with them",
    "skipped": "kinds of annotations are left aside",
}

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
        worst: the three records, each with one body, whose labels fit each other worst, to look at.
    """

    dataset: str
    split: str
    num_images: int
    num_instances: int
    num_subjects: int
    findings: tuple[Finding, ...]
    sample: tuple[Record, ...] = ()
    worst: tuple[Record, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def __str__(self) -> str:
        subjects = f", {counted(self.num_subjects, 'subject')}" if self.num_subjects else ""
        found = f"{counted(self.num_images, 'image')}, {counted(self.num_instances, 'instance')}"
        head = f"{self.dataset} {self.split}: {found}{subjects}"
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
    may_scale: bool = False,
) -> CheckReport:
    """Reads one split completely, looks at every image's header, and says what is wrong.

    Args:
        definition: the dataset.
        split: a split of the definition.
        root: folder of the download, local or any fsspec URL.
        made_of: for the ``image`` of a record, the file that a stage makes its picture of, of which only is asked
            whether it exists; None where it is a picture file.
        may_scale: whether a stage may make pictures of 8 bits of those of 16, which trying the stages tells.

    Raises:
        DatasetError: the definition has no such split, or its reader cannot be loaded.
    """
    top = as_path(root)
    findings: list[Finding] = []
    stages = frozenset(entry.stage for entry in definition.stages)
    tally = _Tally(definition.skeleton, top, made_of, stages, may_scale)
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
    findings += tally.findings() + _sides(definition.skeleton)
    return CheckReport(
        dataset=definition.name,
        split=split,
        num_images=tally.num_images,
        num_instances=tally.num_instances,
        num_subjects=len(tally.subjects),
        findings=tuple(sorted(findings, key=lambda finding: finding.severity)),
        sample=tuple(sample.records),
        worst=tally.worst(),
    )


@dataclass(slots=True)
class _Tally:
    """Counts problems while records pass by.

    Attributes:
        skeleton: of the dataset.
        root: of the download.
        made_of: as of :func:`check_split`.
        stages: those of the dataset; what ``orient`` sees to is not asked for again.
        may_scale: as of :func:`check_split`.
        areas: px², annotated and of the box in turn, of every body of which the annotation states one.
        labels: what protocols ask of them.
        series: name of images without their last number → how many, and the least and greatest number.
        at_origin: (K,) labels at exactly (0, 0).
        turned: images that viewers show turned or mirrored, by the reading that their labels fit.
        deep: some images of more than 8 bits.
        related: some records, with the sizes of their files.
    """

    skeleton: Skeleton
    root: AnyPath
    made_of: Callable[[str], str | None]
    stages: frozenset[str]
    may_scale: bool
    num_images: int = 0
    num_instances: int = 0
    flags: Counter[int] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    rejects: dict[str, list[Reject]] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    subjects: set[str] = field(default_factory=set)
    areas: "array[float]" = field(default_factory=lambda: array("d"))
    series: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    labels: LabelCounts = field(default_factory=LabelCounts)
    at_origin: NDArray[np.int64] = field(init=False)
    turned: Counter[str] = field(default_factory=Counter)
    turned_examples: list[str] = field(default_factory=list)
    num_deep: int = 0
    deep: list[str] = field(default_factory=list)
    related: Sample = field(default_factory=lambda: Sample(RELATED_SIZE))

    def __post_init__(self) -> None:
        self.at_origin = np.zeros(self.skeleton.num_keypoints, np.int64)

    def _count_series(self, image: str) -> None:
        number = _LAST_NUMBER.search(image)
        if number is not None:
            name, place = _LAST_NUMBER.sub("…", image), int(number[0][-_DIGITS:])
            count, low, high = self.series.get(name, (0, place, place))
            self.series[name] = count + 1, min(low, place), max(high, place)

    def _count_labels(self, record: Record) -> None:
        labels = self.labels
        labels.images += 1
        labels.without_crowd_index += record.extras.get("crowdIndex") is None
        for body in record.instances:
            if not body.is_crowd and (body.keypoints[:, 2:] > 0).any():
                labels.labelled += 1
                labels.with_head += body.head_bbox_xyxy is not None

    def look_at(self, item: Record | Reject) -> None:
        if isinstance(item, Reject):
            self.rejects.setdefault(item.reason, []).append(item)
            return
        self.num_images += 1
        self._count_labels(item)
        self._count_series(item.image)
        self._once("duplicate-image-id", item.source_id, item.image)
        self._once("duplicate-image-file", item.image, item.source_id)
        width, height = self._look_at_image(item)
        for instance in item.instances:
            self.num_instances += 1
            if instance.subject_id is not None:
                self.subjects.add(instance.subject_id)
            self._once("duplicate-instance-id", instance.id, item.image)
            self._look_at_instance(instance, f"{item.image}, instance {instance.id}", width, height)
        self.related.offer(replace(item, width=width, height=height))

    def findings(self) -> list[Finding]:
        found = []
        for code, count in self.counts.items():
            severity, sentence = _SENTENCES[code]
            examples = tuple(self.problems[code])
            found.append(Finding(severity=severity, code=code, message=sentence, count=count, examples=examples))
        for reason, rejects in self.rejects.items():
            harmless = reason in _GAPS_OF_THE_PUBLISHER or all(reject.outcome != "lost" for reject in rejects)
            found.append(
                Finding(
                    severity="warning" if harmless else "error",
                    code=reason,
                    message=_OUTCOMES[rejects[0].outcome],
                    count=len(rejects),
                    examples=tuple(f"{reject.source}: {reject.detail}" for reject in rejects[:MAX_EXAMPLES]),
                )
            )
        areas = np.array(self.areas, np.float64).reshape(-1, 2).T
        if (problem := impossible_areas(*areas)) is not None:
            found.append(Finding(severity="error", code="impossible-areas", message=problem))
        if (problem := areas_of_boxes(*areas)) is not None:
            found.append(Finding(severity="warning", code="areas-are-boxes", message=problem))
        bodies = columns_of(self.related.records, self.skeleton.num_keypoints)
        return [*found, *self._origins(), *self._turned(), *self._depths(), *relations(bodies, self.skeleton)]

    def worst(self) -> tuple[Record, ...]:
        records = self.related.records
        return tuple(worst_records(records, columns_of(records, self.skeleton.num_keypoints)))

    def _origins(self) -> list[Finding]:
        if not self.at_origin.any():
            return []
        named = zip(self.skeleton.names, self.at_origin.tolist(), strict=True)
        listed = ", ".join(f"{name} {count}" for name, count in named if count)
        message = (
            f"{counted(self.at_origin.sum(), 'labelled point')} at exactly (0, 0) ({listed}): where a missing "
            "point is written so, say reader_options: {zero_is_missing: true} in dataset.yaml"
        )
        return [Finding(severity="warning", code="labelled-at-origin", message=message)]

    def _turned(self) -> list[Finding]:
        if not self.turned or "orient" in self.stages:
            return []
        counts = ", ".join(f"{reading} {count}" for reading, count in sorted(self.turned.items()))
        upright = self.turned["upright"] > self.turned["stored"]
        advice = (
            "the labels are those of the upright picture: add the stage {stage: orient, options: {annotated: shown}}"
            if upright
            else "labels are taken to mean the stored pixels; if viewers show them right, add the stage "
            "{stage: orient, options: {annotated: shown}}"
        )
        message = f"images are stored turned or mirrored (EXIF), and their labels fit: {counts}; {advice}"
        count, examples = self.turned.total(), tuple(self.turned_examples)
        severity: Severity = "error" if upright else "warning"
        return [Finding(severity=severity, code="stored-turned", message=message, count=count, examples=examples)]

    def _depths(self) -> list[Finding]:
        if not self.num_deep or self.may_scale:
            return []
        ranges = [found for name in self.deep if (found := value_range(picture_at(self.root, name))) is not None]
        low, high = (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else (0, 65535)
        message = (
            "images have 16 bits per value, and models see 8, so ingestion refuses them; say what is black and what is "
            f"white (in {len(ranges)} of them are values from {low} to {high}) by the stage "
            f"{{stage: scale_range, options: {{low: {low}, high: {high}}}}}"
        )
        examples = tuple(self.deep[:MAX_EXAMPLES])
        return [Finding(severity="error", code="16-bit", message=message, count=self.num_deep, examples=examples)]

    def _add(self, code: str, example: str) -> None:
        self.counts[code] += 1
        examples = self.problems.setdefault(code, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)

    def _once(self, code: str, key: str, where: str) -> None:
        if self.seen.setdefault(code, Seen()).add(key):
            self._add(code, f"{key} ({where})")

    def _look_at_image(self, record: Record) -> tuple[int, int]:
        """Width and height to judge boxes and points by: the file's, else the annotation's; 0 if unknown."""
        made_of = self.made_of(record.image)
        if made_of is not None:
            if not (self.root / made_of).is_file():
                self._add("missing-image", made_of)
            return record.width, record.height
        try:
            size, orientation, bits = examine(picture_at(self.root, record.image))
        except FileNotFoundError:
            self._add("missing-image", record.image)
            return record.width, record.height
        except (OSError, ImageHeaderError) as error:
            self._add("unreadable-image", f"{record.image}: {error}")
            return record.width, record.height
        if size is None:
            self._add("truncated-image", record.image)
            return record.width, record.height
        if bits > 8:
            self.num_deep += 1
            if len(self.deep) < _DECODED_SIZE:
                self.deep.append(record.image)
        differs = (record.width and record.width != size.width) or (record.height and record.height != size.height)
        if orientation != 1:
            self.turned[fitting_reading(record, size, orientation)] += 1
            self.turned_examples += [record.image][: MAX_EXAMPLES - len(self.turned_examples)]
            if orientation in TRANSPOSED and (record.width, record.height) == (size.height, size.width):
                return record.width, record.height
        if differs:
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
            self.areas.extend((instance.area, w * h))
        points = instance.keypoints
        if points.shape != (self.skeleton.num_keypoints, 3):
            self._add("wrong-keypoint-count", f"{where}: shape {points.shape}, not ({self.skeleton.num_keypoints}, 3)")
            return
        self.at_origin += (points[:, 2] > 0) & (points[:, :2] == 0).all(axis=1)
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


def _sides(skeleton: Skeleton) -> list[Finding]:
    findings = []
    wrong = wrong_partners(skeleton)
    missing = [item for item in wrong if item.partner is None]
    crossed = [item for item in wrong if item.partner is not None]
    if missing:
        listed = ", ".join(f"{item.name}: {item.expected}" for item in missing)
        message = f"points whose names have a side, but no mirror partner; say flip in the skeleton ({listed})"
        findings.append(Finding(severity="warning", code="no-mirror-partner", message=message))
    if crossed:
        listed = ", ".join(
            f"{item.name} ↔ {item.partner}{f', not {item.expected}' if item.expected else ''}" for item in crossed
        )
        message = f"points are mirrored to another part of the body, by their names ({listed})"
        findings.append(Finding(severity="warning", code="crossed-mirror-partners", message=message))
    return findings


def _counts(definition: DatasetDefinition, split: str, tally: _Tally) -> list[Finding]:
    findings = []
    if not tally.num_images:
        findings.append(
            Finding(severity="error", code="empty-split", message=f"split {split} has not a single usable image")
        )
        return findings
    if not tally.num_instances and definition.skeleton.num_keypoints:  # without points, a split is of pictures alone
        findings.append(
            Finding(severity="error", code="no-instances", message=f"split {split} has not a single usable instance")
        )
    expected = definition.splits[split]
    for noun, seen, stated in (
        ("image", tally.num_images, expected.num_images),
        ("instance", tally.num_instances, expected.num_instances),
    ):
        if stated is not None and seen != stated:
            findings.append(
                Finding(
                    severity="warning",
                    code=f"{noun}-count",
                    message=f"{counted(seen, noun)} where the definition states {stated}: a subset, or not complete",
                )
            )
    if expected.use == "eval" and tally.num_instances:
        problem = labels_problem(definition.evaluation.protocol, tally.labels)
        if problem is not None:
            findings.append(Finding(severity="error", code="cannot-be-judged", message=problem))
    if expected.partition is not None and expected.partition.by == "frame":
        findings += _frames_on_both_sides(tally, forced=expected.partition.force_frame_split)
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


def _frames_on_both_sides(tally: _Tally, *, forced: bool) -> list[Finding]:
    """Whether images that are divided one by one look like frames of videos, by their names or by what is stated."""
    if forced:
        message = "the split is divided by frame although subjects or videos are known, so bodies are on both sides"
        return [Finding(severity="warning", code="divided-by-frame", message=message)]
    dense = {
        name: count
        for name, (count, low, high) in tally.series.items()
        if count >= _ENOUGH_FRAMES and high - low < _SPARSE * count
    }
    if sum(dense.values()) <= tally.num_images / 2:
        return []
    first = max(dense, key=lambda name: dense[name])
    message = (
        f"{sum(dense.values())} of the {counted(tally.num_images, 'image')} of a split that is divided by frame are "
        f"numbered through in {counted(len(dense), 'series')}, such as {first}: if they are videos, a model is judged "
        "on frames nearly equal to those it was trained on. Name videos (option video_field) or subjects (subjects: "
        "{pattern}), and take by: subject"
    )
    return [Finding(severity="warning", code="divided-by-frame", message=message)]


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
    return f"{shown}, … ({counted(len(names), 'entry')})" if len(names) > limit else shown or "nothing"
