"""One pool of images divided into a part to train on and a part to judge on, so that no body is on both sides.

Frames of one body are nearly equal: a model judged on other frames of the bodies it was trained on is judged on what it
remembers. So whole groups are assigned, never frames. A group is everything that shares a subject or a video, directly
or through others; a video whose subjects are not named stands for its subject. Which part a group falls into is a hash
of its name and the seed and of nothing else: not of the order of the files, and not of the other groups, so bodies that
are added later never move those that were there.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from posecore.config import Config
from posecore.errors import DatasetError
from posecore.schema import Record, Reject

_Name = tuple[Literal["subject", "video", "image"], str]


class PartitionConfig(Config):
    """Which part of a pool a split is.

    Attributes:
        part: ``train`` or ``eval``; together the two are the whole pool.
        by: ``subject`` keeps whatever shares a subject or a video in one part; ``frame`` deals out single images, and
            is refused where subjects or videos are known.
        share: of the groups that go to ``eval``. Each group is drawn on its own, so a pool of few groups deviates.
        seed: another seed, another division.
        force_frame_split: divide by frame although subjects or videos are known. It is in the definition, and so in the
            manifest and the lineage of whatever is trained on it.
    """

    part: Literal["train", "eval"]
    by: Literal["subject", "frame"] = "subject"
    share: float = Field(default=0.2, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    force_frame_split: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.force_frame_split and self.by != "frame":
            raise ValueError("force_frame_split: it means nothing without `by: frame`; take one of the two out.")
        return self


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
                f"{where}: {item.image} shows {len(unnamed)} bodies without a name, and `subjects` names one per "
                "image; let the annotations (or the reader) state the subject_id of each body."
            )
        if unnamed:
            instances = list(item.instances)
            instances[unnamed[0]] = replace(instances[unnamed[0]], subject_id=_subject(item, rule, where))
            item = replace(item, instances=instances)
        yield item


def take_part(items: Iterable[Record | Reject], config: PartitionConfig, where: str) -> Iterator[Record | Reject]:
    """The records of one part, in their order, and the rejects that belong to them.

    A rejected instance follows its image; any other reject is dealt out by its place in the source, so that each is
    counted in one of the parts.

    Args:
        items: what a reader yields of the whole pool.
        config: which part.
        where: dataset and split, for messages.

    Raises:
        DatasetError: by frame although subjects or videos are known; by subject although an image states neither; or
            the part is empty.
    """
    pool = list(items)
    records = [item for item in pool if isinstance(item, Record)]
    groups = _frames(records, config, where) if config.by == "frame" else _groups(records, where)
    in_eval = {group: _position(config.seed, *group) < config.share for group in set(groups)}
    wanted = config.part == "eval"
    if records and wanted not in in_eval.values():
        raise DatasetError(_nothing_there(config, groups, where))
    of_image = {record.source_id: in_eval[group] for record, group in zip(records, groups, strict=True)}
    of_record = iter(groups)
    for item in pool:
        if isinstance(item, Record):
            side = in_eval[next(of_record)]
        else:
            elsewhere = _position(config.seed, "image", f"{item.source_id}\0{item.source}") < config.share
            side = of_image.get(item.source_id, elsewhere)
        if side == wanted:
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


def _frames(records: Sequence[Record], config: PartitionConfig, where: str) -> list[_Name]:
    """Each image is a group of its own."""
    known = sum(any(kind != "image" for kind, _ in _names(record)) for record in records)
    if known and not config.force_frame_split:
        raise DatasetError(
            f"{where}: {known} of {len(records)} images state a subject or a video, so a split by frame would judge a "
            "model on bodies it was trained on; take `by: subject`, or insist with `force_frame_split: true`, which is "
            "recorded."
        )
    return [("image", record.source_id) for record in records]


def _groups(records: Sequence[Record], where: str) -> list[_Name]:
    """The name of each record's group: everything connected through shared subjects and videos."""
    nameless = [record for record in records if not _names(record)]
    if nameless:
        raise DatasetError(
            f"{where}: {len(nameless)} of {len(records)} images, the first {nameless[0].image}, state neither a "
            "subject nor a video, so nobody can say whether two of them show one body; name the subjects (`subjects:` "
            "in the definition, or subject_id in the annotations), or take `by: frame` if each shows another body."
        )
    above: dict[_Name, _Name] = {}

    def top(name: _Name) -> _Name:
        while (parent := above.setdefault(name, name)) != name:
            above[name] = above[parent]
            name = parent
        return name

    for record in records:
        names = _names(record)
        for name in names:
            above[top(name)] = top(names[0])
    members: dict[_Name, list[_Name]] = {}
    for name in above:
        members.setdefault(top(name), []).append(name)
    leader = {root: _leader(group) for root, group in members.items()}
    return [leader[top(_names(record)[0])] for record in records]


def _names(record: Record) -> list[_Name]:
    """What ties a record to others: subjects and video. An image that shows nobody, of no video, is alone."""
    bodies = [body for body in record.instances if not body.is_crowd]
    names: list[_Name] = [("subject", body.subject_id) for body in bodies if body.subject_id is not None]
    if record.video_id is not None:
        names.append(("video", record.video_id))
    return names or ([] if bodies else [("image", record.source_id)])


def _leader(names: Sequence[_Name]) -> _Name:
    """Who speaks for a group: a subject if there is one, so that further videos of it change nothing."""
    subjects = [name for name in names if name[0] == "subject"]
    return min(subjects or names, key=lambda name: hashlib.sha256("\0".join(name).encode()).digest())


def _position(seed: int, kind: str, name: str) -> float:
    """A fixed point of [0, 1) for each seed and name."""
    digest = hashlib.sha256(f"partition\0{seed}\0{kind}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _nothing_there(config: PartitionConfig, groups: Sequence[_Name], where: str) -> str:
    distinct = sorted(set(groups))
    if len(distinct) == 1:
        kind, name = distinct[0]
        return (
            f"{where}: all {len(groups)} images belong together (through {kind} {name}), and one body cannot be on "
            "both sides; add other subjects, or insist on `by: frame` with `force_frame_split: true`, which is "
            "recorded."
        )
    return (
        f"{where}: with share {config.share:g}, seed {config.seed} puts none of the {len(distinct)} groups into "
        f"{config.part}; choose another seed or share."
    )
