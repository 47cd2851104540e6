"""How a definition divides a pool, and who is seen in it; :mod:`posecore.datasets.division` does it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.schema import Record, Reject


class PartitionConfig(Config):
    """Which part of a pool a split is.

    Attributes:
        part: ``train`` or ``eval``; together the two are the whole pool.
        by: ``subject`` keeps whatever shares a subject or a video in one part; ``frame`` deals out single images, and
            is refused where subjects or videos are known.
        share: of the groups that go to ``eval``. Each group is drawn on its own, so a pool of few groups deviates.
        seed: another seed, another division.
        subjects: who goes to ``eval``, by name, instead of a share drawn by seed; the others go to ``train``. In a
            ``dataset.yaml`` also a file beside it with one a line.
        force_frame_split: divide by frame although subjects or videos are known. It is in the definition, and so in the
            manifest and the lineage of whatever is trained on it.
    """

    part: Literal["train", "eval"]
    by: Literal["subject", "frame"] = "subject"
    share: float = Field(default=0.2, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    subjects: tuple[str, ...] = ()
    force_frame_split: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.subjects and (self.by != "subject" or self.model_fields_set & {"share", "seed"}):
            raise ValueError("subjects: they are named, so neither share nor seed nor `by: frame` has a meaning.")
        if self.force_frame_split and self.by != "frame":
            raise ValueError("force_frame_split: it means nothing without `by: frame`; take one of the two out.")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        return values if self.subjects else {name: value for name, value in values.items() if name != "subjects"}


class SubjectRule(Config):
    """Where the subject's name is to be had, if annotations do not state it: one of the two.

    Attributes:
        videos: video id → subject.
        pattern: regular expression with a group ``subject``, searched for in the path of the image.
    """

    videos: Mapping[str, str] = {}
    pattern: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.videos) == bool(self.pattern):
            raise ValueError("give either videos or pattern.")
        try:
            named = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"pattern: not a regular expression ({error}).") from None
        if self.pattern and "subject" not in named:
            raise ValueError("pattern: name the part that is the subject, as in '^(?P<subject>[^_]+)_'.")
        return self


def name_subjects(items: Iterable[Record | Reject], rule: SubjectRule, where: str) -> Iterator[Record | Reject]:
    """The records with the subject of each body filled in; what annotations state stays.

    Args:
        items: what a reader yields.
        rule: where the names come from.
        where: dataset and split, for messages.

    Raises:
        DatasetError: the rule has no name for an image, or an image shows several bodies without a name.
    """
    for item in items:
        if isinstance(item, Reject):
            yield item
            continue
        unnamed = [row for row, body in enumerate(item.instances) if not body.is_crowd and body.subject_id is None]
        if len(unnamed) > 1:
            raise DatasetError(
                f"{where}: {item.image} shows {counted(len(unnamed), 'body')} without a name, and `subjects` names one "
                "per image; let the annotations (or the reader) state the subject_id of each body."
            )
        if unnamed:
            instances = list(item.instances)
            instances[unnamed[0]] = replace(instances[unnamed[0]], subject_id=_subject(item, rule, where))
            item = replace(item, instances=instances)
        yield item


def _subject(record: Record, rule: SubjectRule, where: str) -> str:
    if rule.pattern:
        match = re.search(rule.pattern, record.image)
        if match is None or not match["subject"]:
            raise DatasetError(
                f"{where}: subjects.pattern {rule.pattern!r} finds no subject in the path {record.image!r}; correct "
                "the pattern, or state subject_id in the annotations."
            )
        return match["subject"]
    if record.video_id is None or record.video_id not in rule.videos:
        raise DatasetError(
            f"{where}: subjects.videos has no entry for the video {record.video_id!r} of {record.image}; name its "
            f"subject there (it has {', '.join(rule.videos)})."
        )
    return rule.videos[record.video_id]
