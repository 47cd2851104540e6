"""Bodies of tools that call each point by its name, whatever order they keep: joined to the skeleton by name alone.

Such tools know labelling and little else: seldom a box, never an area. What they do not say comes from options.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, TypeVar

from pydantic import Field

from posecore.config import Config, parse_config
from posecore.errors import DatasetError
from posecore.formats.files import relative_path, source_file
from posecore.formats.reader import COMMON_OPTIONS, ReaderOfParts, Source
from posecore.formats.values import Refusal, area_of_box, box_around, box_xywh, keypoints_from_rows
from posecore.schema import BoxXywh, FloatArray, Instance, Json, Outcome, Record, Reject

Point: TypeAlias = tuple[float, float, int]
"""x, y in 0-based image pixels, and COCO's flag."""

TOUCHED, PREDICTED, SCORES, RADII = "touched", "predicted", "scores", "radii"
"""Extras of an instance: names of points that a person has set or moved; true for a body that a model drew; its
confidences by name; the pixels within which each is, by name."""


class NamedPointsOptions(Config):
    """``reader_options`` of formats that name their points.

    Attributes:
        box_margin: a body without a box gets one around its labelled points, enlarged on every side by this share of
            the longer one.
        min_box_side: least width and height of such a box in pixels: one labelled point still needs one.
        category: what bodies are called where the format has no word for it.
        skip_points: points of the files that the skeleton leaves out.
        predictions: ``keep`` for bodies that a model drew and nobody has corrected, which are counted and left out
            otherwise.
        zero_is_missing: labelled points at exactly (0, 0) are not labelled.
        tracks_are_subjects: the name of a track is that of a subject, in every video.
    """

    box_margin: float = Field(default=0.25, ge=0, le=10)
    min_box_side: float = Field(default=64.0, ge=1)
    category: str = Field(default="animal", min_length=1)
    skip_points: tuple[str, ...] = ()
    predictions: bool = False
    zero_is_missing: bool = False
    tracks_are_subjects: bool = False


_OptionsT = TypeVar("_OptionsT", bound=NamedPointsOptions)


@dataclass(slots=True, kw_only=True)
class NamedBody:
    """A body as a tool has it.

    Attributes:
        id: unique in the split.
        points: by name; those left out are not labelled.
        bbox_xywh: its box, where the tool has one.
        category: what the tool calls it; "" where it has no word.
        track: the same body in other frames.
        subject: who it is.
        extras: of the instance.
    """

    id: str
    points: Mapping[str, Point]
    bbox_xywh: BoxXywh | None = None
    category: str = ""
    category_id: int = 1
    track: str | None = None
    subject: str | None = None
    extras: dict[str, Json] = field(default_factory=dict)

    @property
    def is_predicted(self) -> bool:
        """Whether a model drew it, and nobody since."""
        return bool(self.extras.get(PREDICTED))


class NamedPointsReader(ReaderOfParts):
    """A reader of one file, or of all files of its kind in a folder, in which points have names.

    Attributes:
        suffixes: endings of its files, lower case.
        kind: what it calls them.
    """

    Options: ClassVar[type[NamedPointsOptions]] = NamedPointsOptions
    options: ClassVar[frozenset[str]] = frozenset(NamedPointsOptions.model_fields)
    suffixes: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.options = frozenset(cls.Options.model_fields)

    def parts(self, source: Source) -> list[str]:
        """The file, or those of a folder by their paths."""
        path = source_file(source, source.annotations)
        if not path.is_dir():
            return [source.annotations]
        found = sorted(
            one.relative_to(path).as_posix()
            for one in path.rglob("*")
            if one.name.lower().endswith(self.suffixes) and not one.is_dir()
        )
        if not found:
            raise DatasetError(
                f"{source.dataset} {source.split}: {source.annotations or source.root} holds no file that ends in "
                f"{', '.join(self.suffixes)}, as {self.kind} does."
            )
        return [relative_path(source.annotations, name) for name in found]

    @abstractmethod
    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """The records of one file."""


def reader_options(source: Source, kind: type[_OptionsT]) -> _OptionsT:
    """The options of a reader of named points, checked.

    Raises:
        ConfigError: one is of another kind than it may be.
    """
    given = {name: value for name, value in source.options.items() if name not in COMMON_OPTIONS}
    return parse_config(given, kind, origin=f"{source.dataset} {source.split}: reader_options")


def prefix_of(source: Source, part: str) -> str:
    """What ids of a file's records begin with: nothing, unless it is one of several."""
    within = part.removeprefix(source.annotations.rstrip("/")).lstrip("/")
    return f"{within}:" if within else ""


def check_names(source: Source, found: Sequence[str], what: str, skipped: Sequence[str], option: str) -> None:
    """Refuses files whose points are not the skeleton's.

    Args:
        source: the split.
        found: names of the file.
        what: how the message begins.
        skipped: names that are left out on purpose.
        option: where they are said.

    Raises:
        DatasetError: a name is unknown, or one of the skeleton's is missing.
    """
    known = set(source.skeleton.names)
    unknown = [name for name in found if name not in known and name not in skipped]
    missing = [name for name in source.skeleton.names if name not in found]
    if unknown or missing:
        raise DatasetError(
            f"{source.dataset}: {what} {', '.join(found) or '(none)'}; the skeleton {source.skeleton.name} lacks "
            f"{', '.join(unknown) or 'none of them'} and has {', '.join(missing) or 'nothing'} besides. Name every "
            f"point in the definition's skeleton, or under the reader option {option}."
        )


def instance_of(source: Source, options: NamedPointsOptions, body: NamedBody) -> Instance:
    """A body in the skeleton's order, with a box and an area.

    Raises:
        Refusal: a point is unknown, a coordinate is none, or there is neither a box nor a labelled point.
    """
    strange = [name for name in body.points if name not in source.skeleton.names and name not in options.skip_points]
    if strange:
        raise Refusal("unknown-keypoint", f"{strange[0]!r} is not a point of skeleton {source.skeleton.name}.")
    keypoints = _keypoints(source, options, body.points)
    if body.bbox_xywh is None:
        bbox = box_around(keypoints, options.box_margin, options.min_box_side)
    else:
        bbox = box_xywh(*body.bbox_xywh)
    subject = body.subject
    if subject is None and options.tracks_are_subjects:
        subject = body.track
    return Instance(
        id=body.id,
        bbox_xywh=bbox,
        keypoints=keypoints,
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        category=body.category or options.category,
        category_id=body.category_id,
        track_id=body.track,
        subject_id=subject,
        extras=body.extras,
    )


def add_bodies(
    source: Source, options: NamedPointsOptions, record: Record, bodies: Sequence[NamedBody], where: str
) -> list[Reject]:
    """Puts the bodies of a picture into its record; returns the rejects of those that cannot be had."""
    rejects = []
    for body in bodies:
        try:
            if body.is_predicted and not options.predictions:
                raise Refusal("predicted-body", "a model drew this body; it is a label with predictions: true alone.")
            record.instances.append(instance_of(source, options, body))
        except Refusal as refusal:
            outcome: Outcome = "skipped" if refusal.reason == "predicted-body" else "lost"
            rejects.append(refusal.reject(source, where, record.source_id, body.id, outcome))
    return rejects


def _keypoints(source: Source, options: NamedPointsOptions, points: Mapping[str, Point]) -> FloatArray:
    rows = []
    for name in source.skeleton.names:
        x, y, flag = points.get(name, (0.0, 0.0, 0))
        if options.zero_is_missing and (x, y) == (0, 0):
            flag = 0
        rows.append((x, y, flag))
    return keypoints_from_rows(rows)
