"""A definition of one's own labels: written from what the tool's files say, with what is guessed marked as a guess."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import yaml

from posecore.config import NAME_PATTERN
from posecore.counting import counted
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import read_pool
from posecore.datasets.division import take_part
from posecore.datasets.partition import PartitionConfig
from posecore.datasets.recognise import Found, FoundSplit, plain_definition, together
from posecore.errors import DatasetError, PoseCoreError
from posecore.formats.sleap import parse_packed_frame
from posecore.schema import Json, Record, Reject
from posecore.skeletons.library import load_skeleton, skeleton_names
from posecore.skeletons.mirror_names import other_side
from posecore.storage import write_atomically
from posecore.videos.address import parse_frame_address

Ask: TypeAlias = Callable[[str], str]
"""Asks a person a question; "" is no answer."""

_EVAL_SHARE = 0.2
_SEEDS = 200
_NO_POINTS = np.zeros((0, 3), np.float32)
_MAX_ZERO_SHARE = 0.001
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(slots=True, kw_only=True)
class Proposal:
    """A definition that is about to be written.

    Attributes:
        name: of the dataset, and of its skeleton.
        found: what the files are.
        flips: mirror partner of each point that has one.
        guessed_flips: those of them that names alone speak for.
        unions: union name of each point.
        sigmas: OKS constants by point, those of the skeleton that it is said to be like.
        like: that skeleton.
        stages: of the definition.
        splits: by name, as ``dataset.yaml`` has them.
        flags: COCO flags that were seen.
        remarks: sentences for a person.
    """

    name: str
    found: Found
    flips: dict[str, str] = field(default_factory=dict)
    guessed_flips: set[str] = field(default_factory=set)
    unions: dict[str, str] = field(default_factory=dict)
    sigmas: dict[str, float] = field(default_factory=dict)
    like: str = ""
    stages: list[str] = field(default_factory=lambda: ["check_instances"])
    splits: dict[str, dict[str, Json]] = field(default_factory=dict)
    flags: set[int] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)


def propose(
    name: str,
    ones: Sequence[Found],
    like: str = "",
    names: Sequence[str] = (),
    images: str = "",
    ask: Ask | None = None,
) -> Proposal:
    """Fills in what a definition needs beyond what the files say.

    Args:
        name: of the dataset.
        ones: what :func:`~posecore.datasets.recognise.recognise` says of each source.
        like: a known skeleton whose union names and OKS constants points of the same name take.
        names: of the points, where the tool has none.
        images: folder of pictures or films below the root, where it is not found by itself.
        ask: asks where names leave in doubt which points mirror each other; None leaves these points alone.

    Raises:
        DatasetError: the name is none, the names do not fit, or no label can be read.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise DatasetError(f"{name!r} is no name of a dataset: letters, digits, _, . and -, and no dot in front.")
    _rename(ones[0], names)
    for one in ones:
        place_images(one, images)
    found = ones[0] if len(ones) == 1 else together(ones)
    proposal = Proposal(name=name, found=found, remarks=[remark for one in ones for remark in one.remarks])
    _pair(proposal, ask)
    _unite(proposal, like)
    for split in list(found.splits):
        _look_at_split(proposal, split)
    return proposal


def write_definition(proposal: Proposal, folder: Path, license_id: str = "own") -> Path:
    """Writes ``dataset.yaml``, ``skeleton.yaml`` and a first run, ``train.yaml``; returns the path of the first.

    Raises:
        DatasetError: there is one already.
    """
    target = folder / proposal.name / "dataset.yaml"
    if target.exists():
        raise DatasetError(f"{target} exists; choose another name, or take that folder away.")
    write_atomically(target.with_name("skeleton.yaml"), _skeleton_text(proposal).encode())
    write_atomically(target.with_name("train.yaml"), _run_text(proposal).encode())
    write_atomically(target, _definition_text(proposal, license_id).encode())
    return target


def _rename(found: Found, names: Sequence[str]) -> None:
    if not names:
        return
    if len(names) != len(found.names) or (found.is_named and set(names) != set(found.names)):
        known = ", ".join(found.names)
        raise DatasetError(
            f"{counted(len(names), 'name')} given, and the labels have {counted(len(found.names), 'point')} ({known}); "
            f"give each once{', as the tool spells them' if found.is_named else ', in the order of the files'}."
        )
    if found.is_named:
        found.names = tuple(names)
        return
    named = dict(zip(found.names, names, strict=True))
    found.names, found.is_named = tuple(names), True
    found.links = tuple((named[a], named[b]) for a, b in found.links)
    found.pairs = tuple((named[a], named[b]) for a, b in found.pairs)


def _pair(proposal: Proposal, ask: Ask | None) -> None:
    names = proposal.found.names
    for first, second in proposal.found.pairs:
        proposal.flips |= {first: second, second: first}
    for name in names:
        partner = other_side(name)
        if name in proposal.flips or partner is None:
            continue
        if partner in names and partner not in proposal.flips:
            proposal.flips |= {name: partner, partner: name}
            proposal.guessed_flips |= {name, partner}
    in_doubt = [name for name in names if other_side(name) is not None and name not in proposal.flips]
    for name in in_doubt:
        if name in proposal.flips:
            continue
        answer = (
            ask(f"{name} names a side, and {other_side(name)} is not there. Which point mirrors it? ") if ask else ""
        )
        if answer in names and answer != name and answer not in proposal.flips:
            proposal.flips |= {name: answer, answer: name}
        else:
            proposal.remarks.append(f"{name} names a side and has no mirror partner; say its flip in skeleton.yaml.")
    if not proposal.flips:
        proposal.remarks.append(
            "no point has a mirror partner, so mirrored pictures would teach that left is right where there are sides; "
            "say flip in skeleton.yaml, if two points mirror each other."
        )


def _unite(proposal: Proposal, like: str) -> None:
    known = load_skeleton(like) if like else None
    proposal.like = like
    theirs = {_plain(point.name): point for point in known.keypoints} if known is not None else {}
    for name in proposal.found.names:
        point = theirs.get(_plain(name))
        proposal.unions[name] = point.union if point is not None else f"{proposal.name}_{_plain(name)}"
        if point is not None and point.oks_sigma is not None:
            proposal.sigmas[name] = point.oks_sigma
    if len(set(proposal.unions.values())) < len(proposal.unions):
        doubled = Counter(proposal.unions.values()).most_common(1)[0][0]
        twice = [name for name, union in proposal.unions.items() if union == doubled]
        raise DatasetError(f"the points {', '.join(twice)} differ by spelling alone; rename one in the tool.")
    if known is not None and not any(_plain(name) in theirs for name in proposal.found.names):
        raise DatasetError(f"no point is called like one of {like} ({', '.join(known.names)}).")


def _plain(name: str) -> str:
    """A name as union names are spelled: ``leftEye``, ``Left-Eye`` and ``L.Eye`` become left_eye."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    sides = {"l": "left", "r": "right"}
    lower = [sides.get(word.lower(), word.lower()) for word in words]
    in_front = [word for word in lower if word in sides.values()]
    return "_".join(in_front + [word for word in lower if word not in sides.values()]) or "point"


def _lookalikes(proposal: Proposal, name: str) -> list[str]:
    """Union names of shipped skeletons that a point of the same name has."""
    found: dict[str, str] = {}
    for skeleton_name in skeleton_names():
        for point in load_skeleton(skeleton_name).keypoints:
            if _plain(point.name) == _plain(name) or point.union == _plain(name):
                found.setdefault(point.union, skeleton_name)
    return [f"{union} ({skeleton})" for union, skeleton in found.items() if union != proposal.unions[name]]


def place_images(found: Found, stated: str) -> None:
    """Says where pictures lie, unless they are found as the tool has written them."""
    for split in found.splits.values():
        if stated:
            split.images = stated
            continue
        if found.reader.endswith(":YoloPoseReader"):
            continue
        records = _some_records(found, split)
        if all(_is_there(found.root, record.image) for record in records):
            continue
        best = split.images
        best_count = sum(_is_there(found.root, record.image) for record in records)
        for folder in _folders_of(found.root, records):
            split.images = folder
            count = sum(_is_there(found.root, record.image) for record in _some_records(found, split))
            if count > best_count:
                best, best_count = folder, count
        split.images = best


def _folders_of(root: Path, records: Sequence[Record]) -> list[str]:
    """Folders below the root that hold a file that a record may mean, and those around them; the outermost first."""
    wanted = {PurePosixPath(_file_of(record.image)).name for record in records}
    folders: dict[str, None] = {}
    for path in sorted(root.rglob("*")):
        if path.name in wanted and path.is_file():
            for above in reversed(path.relative_to(root).parents):
                folders.setdefault("" if str(above) == "." else above.as_posix())
    return list(folders)


def _file_of(image: str) -> str:
    address, packed = parse_frame_address(image), parse_packed_frame(image)
    return address.video if address is not None else packed.file if packed is not None else image


def _is_there(root: Path, image: str) -> bool:
    return (root / _file_of(image)).is_file()


def _some_records(found: Found, split: FoundSplit, count: int = 20) -> list[Record]:
    some = []
    for item in read_pool(plain_definition(found, split), "all", found.root):
        if isinstance(item, Record):
            some.append(item)
        if len(some) == count:
            break
    return some


def _look_at_split(proposal: Proposal, name: str) -> None:
    """Reads a split once: what its pictures are, which flags it has, and who is in it."""
    found, split = proposal.found, proposal.found.splits[name]
    if found.reader.endswith(":YoloPoseReader"):
        split.options = {"part": name}
    definition = plain_definition(found, split)
    seen = _Seen(root=found.root)
    for item in read_pool(definition, "all", found.root):
        seen.look_at(item)
    if not seen.num_bodies:
        raise DatasetError(f"{found.root / split.annotations} has no body that can be read{seen.why()}.")
    if seen.num_missing:
        proposal.remarks.append(
            f"{seen.num_missing} of {counted(seen.num_images, 'file')} of {name}, pictures or films, are not below "
            f"{found.root} (such as {seen.missing}); give their folder as --images."
        )
    for stage, is_needed in (("video_frames", seen.has_frames), ("packed_frames", seen.has_packed)):
        if is_needed and stage not in proposal.stages:
            proposal.stages.insert(0, stage)
    is_asked = "zero_is_missing" in found.reader_options or "sources" in found.reader_options
    if seen.num_at_origin > _MAX_ZERO_SHARE * max(seen.num_points, 1) and not is_asked:
        found.reader_options["zero_is_missing"] = True
        proposal.remarks.append(
            f"{counted(seen.num_at_origin, 'labelled point')} at exactly (0, 0): read as not labelled "
            "(zero_is_missing)."
        )
    proposal.flags |= seen.flags
    proposal.splits |= _divided(proposal, name, definition, seen)


@dataclass(slots=True)
class _Seen:
    root: Path
    num_images: int = 0
    num_bodies: int = 0
    num_points: int = 0
    num_at_origin: int = 0
    num_missing: int = 0
    missing: str = ""
    has_frames: bool = False
    has_packed: bool = False
    flags: set[int] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    is_grouped: bool = True
    rejects: Counter[str] = field(default_factory=Counter)

    def look_at(self, item: Record | Reject) -> None:
        if isinstance(item, Reject):
            self.rejects[item.reason] += item.outcome == "lost"
            return
        self.num_images += 1
        if not _is_there(self.root, item.image):
            self.num_missing += 1
            self.missing = self.missing or _file_of(item.image)
        self.has_frames |= parse_frame_address(item.image) is not None
        self.has_packed |= parse_packed_frame(item.image) is not None
        for body in item.instances:
            self.num_bodies += 1
            labelled = body.keypoints[body.keypoints[:, 2] > 0]
            self.num_points += len(labelled)
            self.num_at_origin += int((labelled[:, :2] == 0).all(axis=1).sum())
            self.flags |= set(body.keypoints[:, 2].astype(int).tolist())
        subjects = {body.subject_id for body in item.instances if body.subject_id is not None}
        self.groups |= {f"subject {one}" for one in subjects} or (
            {f"video {item.video_id}"} if item.video_id else set()
        )
        self.is_grouped &= bool(subjects or item.video_id or not item.instances)

    def why(self) -> str:
        listed = ", ".join(f"{reason}: {count}" for reason, count in self.rejects.most_common(3) if count)
        return f" (rejected: {listed})" if listed else ""


def _divided(proposal: Proposal, name: str, definition: DatasetDefinition, seen: _Seen) -> dict[str, dict[str, Json]]:
    """The splits that a pool becomes: two by subject or video, or itself."""
    split = proposal.found.splits[name]
    base: dict[str, Json] = {"annotations": split.annotations}
    base |= {"images": split.images} if split.images else {}
    base |= {"options": split.options} if split.options else {}
    if len(proposal.found.splits) > 1 or split.use != "any":
        return {name: base | {"use": split.use}}
    if seen.is_grouped and len(seen.groups) > 1:
        pool = [_grouping(item) for item in read_pool(definition, "all", proposal.found.root)]
        for seed in range(_SEEDS if _can_be_divided(pool) else 0):
            parts = [_partition(part, seed) for part in ("train", "eval")]
            if all(_has_any(pool, part) for part in parts):
                by = [{"part": part.part, "by": "subject", "share": _EVAL_SHARE, "seed": seed} for part in parts]
                return {
                    "train": base | {"use": "train", "partition": by[0]},
                    "val": base | {"use": "eval", "partition": by[1]},
                }
    if seen.is_grouped:
        proposal.remarks.append(
            "all pictures are of one subject or film, so there is none to judge on that a model has not seen: the one "
            "split, all, is for training; add another subject, or divide by frame (docs/add_a_dataset.md, part D)."
        )
    else:
        proposal.remarks.append(
            "nothing says who is in a picture, so the one split is not divided; state subjects (docs/add_a_dataset.md, "
            "part D), so that a part can be judged on."
        )
    return {"all": base}


def _partition(part: str, seed: int) -> PartitionConfig:
    return PartitionConfig.model_validate({"part": part, "share": _EVAL_SHARE, "seed": seed})


def _grouping(item: Record | Reject) -> Record | Reject:
    """What groups are made of, without points and regions: a pool is gone through many times."""
    if isinstance(item, Reject):
        return item
    bodies = [replace(body, keypoints=_NO_POINTS, segmentation=None, extras={}) for body in item.instances]
    return replace(item, instances=bodies, extras={})


def _can_be_divided(pool: Sequence[Record | Reject]) -> bool:
    """Whether some pictures share no subject and no video with the others, directly or through others."""
    named = {
        frozenset(
            [f"subject {body.subject_id}" for body in item.instances if body.subject_id is not None]
            + ([f"video {item.video_id}"] if item.video_id else [])
        )
        for item in pool
        if isinstance(item, Record)
    }
    groups: list[frozenset[str]] = []
    for names in filter(None, named):
        apart = [group for group in groups if not group & names]
        groups = [*apart, names.union(*(group for group in groups if group & names))]
    return len(groups) > 1


def _has_any(pool: Sequence[Record | Reject], partition: PartitionConfig) -> bool:
    try:
        return any(isinstance(item, Record) and item.instances for item in take_part(lambda: pool, partition, "found"))
    except PoseCoreError:
        return False


def _skeleton_text(proposal: Proposal) -> str:
    lines = [f"name: {proposal.name}", f"source: {_quoted(f'{proposal.found.kind}, by posecore datasets new')}"]
    lines += [
        "# name: as the tool spells it. union: what the point is; points of datasets that are the same place on a body",
        "# share it, and what a model learns of them. Confirm it, or take the one that is named behind #.",
        "keypoints:",
    ]
    for name in proposal.found.names:
        parts = [f"name: {_quoted(name)}", f"union: {proposal.unions[name]}"]
        if name in proposal.sigmas:
            parts += [f"oks_sigma: {proposal.sigmas[name]:g}", "oks_guessed: true"]
        parts += [f"flip: {_quoted(proposal.flips[name])}"] if name in proposal.flips else []
        remarks = ["flip guessed from the names"] if name in proposal.guessed_flips else []
        alike = _lookalikes(proposal, name)
        remarks += [f"or {', '.join(alike[:3])}"] if alike and not proposal.like else []
        note = f"  # {'; '.join(remarks)}" if remarks else ""
        lines.append(f"  - {{{', '.join(parts)}}}{note}")
    if proposal.found.links:
        lines.append("links:")
        lines += [f"  - [{_quoted(a)}, {_quoted(b)}]" for a, b in proposal.found.links]
    return "\n".join(lines) + "\n"


def _definition_text(proposal: Proposal, license_id: str) -> str:
    found = proposal.found
    values: dict[str, Json] = {
        "name": proposal.name,
        "title": f"{proposal.name}, labelled with {found.kind}",
        "reader": found.reader,
        "skeleton": proposal.name,
        "license": {"id": license_id, "commercial_use": None, "note": "Stated by nobody yet."},
        "area_rule": "box",
        "splits": proposal.splits,
        "stages": proposal.stages,
        "conventions": {"half_bodies": False},
        "evaluation": {"protocol": "oks" if len(proposal.sigmas) == len(found.names) else "pck"},
        "expected_flags": sorted(proposal.flags),
    }
    if found.reader_options:
        values["reader_options"] = found.reader_options
    head = "# Written by posecore datasets new; the points are in skeleton.yaml beside it.\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _run_text(proposal: Proposal) -> str:
    """A run that learns something of the set on two cores, to begin with."""
    uses = {name: split.get("use", "any") for name, split in proposal.splits.items()}
    train = next((name for name, use in uses.items() if use != "eval"), next(iter(uses)))
    judged = next((name for name, use in uses.items() if use == "eval" and name != train), None)
    entry: dict[str, Json] = {"name": re.sub(r"[^\w-]", "_", proposal.name), "root": str(proposal.found.root.resolve())}
    entry |= {"definition": proposal.name} if entry["name"] != proposal.name else {}
    entry |= {"train": train} | ({"evaluate": judged} if judged else {})
    values: dict[str, Json] = {
        "name": f"{proposal.name}-first",
        "run_folder": f"runs/{proposal.name}",
        "data_folder": ".",
        "datasets": [entry],
        "model": {
            "backbone": {"preset": "vit-micro"},
            "head": {"kind": "classic", "channels": 64},
            "input_size": [128, 128],
        },
        "loading": {"num_threads": 1, "augment": {"half_body_probability": 0, "scale_factor": 0.15}},
        "training": {
            "steps": 300,
            "global_batch": 16,
            "seed": 0,
            "optimizer": {"lr": 2e-3, "weight_decay": 0.05, "layer_decay": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": 30},
            "engine": {"kind": "torch"},
            "checkpoint_every": 300,
        },
        "cluster": {"num_workers": 1, "cpus_per_worker": 1},
        "inference": {"batch_size": 16, "num_threads": 1},
    }
    head = (
        "# What:     a small model from scratch on this set alone, to see that all fits. For one of use, give a large\n"
        "#           backbone its published weights: model: {backbone: vitpose-base} and weights: (docs/weights.md).\n"
        "# How long: minutes on two cores.\n"
        "# Command:  posecore train --config train.yaml\n"
    )
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _quoted(text: str) -> str:
    """A text as YAML has it within a line."""
    return yaml.safe_dump(text, default_flow_style=True, allow_unicode=True, width=10_000).splitlines()[0]
