"""Which tool has written a file or a folder, and what a definition of it must say."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import yaml

from posecore.counting import counted
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import DatasetError, PoseCoreError
from posecore.formats.cvat import cvat_skeletons
from posecore.formats.datumaro import datumaro_labels
from posecore.formats.hdf5 import open_h5
from posecore.formats.label_studio import label_studio_names
from posecore.formats.lightning_pose import point_table
from posecore.formats.nwb_pose import KIND as NWB_KIND
from posecore.formats.nwb_pose import has_labels, nwb_skeletons
from posecore.formats.reader import Source
from posecore.formats.sleap import sleap_skeletons
from posecore.formats.via import ViaOptions, via_attributes, via_names, via_pictures
from posecore.formats.xml_elements import elements
from posecore.formats.yolo_pose import YoloPoseReader, describe_yolo
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import read_at_most
from posecore.strict_yaml import parse_yaml

_MAX_LOOKED_AT = 20_000
_MAX_JSON_BYTES = 2 << 30
_LISTED = 6


@dataclass(slots=True, kw_only=True)
class FoundSplit:
    """Annotations as one split: where they and their pictures lie, below the root, and options of the reader."""

    annotations: str
    images: str = ""
    use: str = "any"
    options: dict[str, Json] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Found:
    """What a file or folder is.

    Attributes:
        kind: the tool, for people.
        reader: import path.
        root: folder that all paths are relative to.
        names: of the points, in the tool's order; ``point_0`` … where the tool has none.
        is_named: whether the tool has names.
        links: pairs of names that it joins.
        pairs: pairs of names that it calls mirror partners.
        skeleton_name: what it calls the skeleton; "" for nothing.
        splits: by name.
        reader_options: of the reader.
        remarks: sentences for a person.
    """

    kind: str
    reader: str
    root: Path
    names: tuple[str, ...]
    is_named: bool = True
    links: tuple[tuple[str, str], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    skeleton_name: str = ""
    splits: dict[str, FoundSplit]
    reader_options: dict[str, Json] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def recognise(place: Path) -> Found:
    """What a file, or what is in a folder, is.

    Raises:
        DatasetError: it is nothing that is known, or several things, which the message lists.
    """
    if not place.exists():
        raise DatasetError(f"{place} does not exist; give the file or the folder that the tool has written.")
    files = [place] if place.is_file() else list(_candidates(place))
    found: dict[str, list[tuple[Path, Found]]] = {}
    said: list[str] = []
    for path in files:
        try:
            one = _look_at(path, place if place.is_dir() else path.parent)
        except PoseCoreError as error:
            said.append(str(error))
            continue
        if one is not None:
            found.setdefault(one.kind, []).append((path, one))
    if len(found) > 1:
        listed = "; ".join(f"{kind}: {_names([path for path, _ in ones])}" for kind, ones in found.items())
        raise DatasetError(f"{place} holds several kinds of labels ({listed}); give the file or folder of one.")
    if not found:
        known = "COCO, YOLO-pose, SLEAP, Label Studio, CVAT, DeepLabCut, Lightning Pose, NWB, Datumaro and VIA"
        why = f" {said[0]}" if said else ""
        raise DatasetError(f"{place} holds nothing that is known to be labels of {known}.{why}")
    ((_, ones),) = found.items()
    return _joined([one for _, one in ones], place)


def _names(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:_LISTED])
    return shown if len(paths) <= _LISTED else f"{shown}, … ({len(paths)})"


def _candidates(place: Path) -> Iterator[Path]:
    """Files that may be labels; a project's configuration stands for all that is below it."""
    for configuration in ("data.yaml", "data.yml", "dataset.yaml", "config.yaml"):
        if (place / configuration).is_file() and _look_at(place / configuration, place) is not None:
            yield place / configuration
            return
    suffixes = (".slp", ".nwb", ".json", ".xml", ".csv", ".yaml", ".yml")
    for number, path in enumerate(sorted(place.rglob("*"))):
        if number > _MAX_LOOKED_AT:
            raise DatasetError(f"{place} holds more than {_MAX_LOOKED_AT} files; give the file of the labels.")
        if path.suffix.lower() in suffixes and path.is_file():
            yield path


def _look_at(path: Path, root: Path) -> Found | None:
    """What one file is; None for nothing that is known.

    Raises:
        PoseCoreError: it looks like labels, and is not.
    """
    look = _BY_SUFFIX.get(path.suffix.lower())
    return None if look is None else look(path, root)


def source_of(root: Path, annotations: str, names: Sequence[str] = (), images: str = "", **options: Json) -> Source:
    """A source of labels that no definition is there for yet."""
    points = [{"name": name, "union": name} for name in names]
    skeleton = Skeleton.model_validate({"name": "found", "keypoints": points})
    return Source(
        dataset="found",
        split="train",
        root=root,
        annotations=annotations,
        images=images,
        skeleton=skeleton,
        area_rule="box",
        options=options,
    )


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _single(path: Path, root: Path, kind: str, reader: str, names: Sequence[str], **more: Json) -> Found:
    split = FoundSplit(annotations=_below(path, root))
    return Found(
        kind=kind, reader=f"posecore.formats.{reader}", root=root, names=tuple(names), splits={"all": split}, **more
    )


def _sleap(path: Path, root: Path) -> Found:
    with open_h5(source_of(root, ""), _below(path, root), "a SLEAP file") as file:
        skeletons = sleap_skeletons(file)
    first = skeletons[0]
    more = {"links": first.links, "pairs": first.pairs, "skeleton_name": first.name}
    return _single(path, root, "SLEAP", "sleap:SleapReader", first.points, **more)


def _nwb(path: Path, root: Path) -> Found:
    with open_h5(source_of(root, ""), _below(path, root), NWB_KIND) as file:
        first, is_labelled = nwb_skeletons(file)[0], has_labels(file)
    links = tuple((first.points[a], first.points[b]) for a, b in first.links)
    more = {"links": links, "skeleton_name": first.name}
    found = _single(path, root, "NWB with ndx-pose", "nwb_pose:NwbPoseReader", first.points, **more)
    if not is_labelled:
        found.reader_options["predictions"] = True
        found.remarks.append("what a tracker predicted is read as labels (predictions); nobody has labelled a frame.")
    return found


def _xml(path: Path, root: Path) -> Found | None:
    if b"<annotations" not in _beginning(path):
        return None
    first = cvat_skeletons(source_of(root, ""), _below(path, root))[0]
    more = {"links": first.links, "skeleton_name": first.name}
    return _single(path, root, "CVAT", "cvat:CvatReader", first.points, **more)


def _csv(path: Path, root: Path) -> Found | None:
    if not _beginning(path).removeprefix(b"\xef\xbb\xbf").startswith(b"scorer,"):
        return None
    table = point_table(source_of(root, ""), _below(path, root))
    return _single(path, root, "Lightning Pose", "lightning_pose:LightningPoseReader", list(table.columns))


def _yaml(path: Path, root: Path) -> Found | None:
    try:
        content = parse_yaml(path.read_text("utf-8-sig"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
    if isinstance(content, dict) and "kpt_shape" in content:
        return _yolo(path, root)
    if isinstance(content, dict) and ("bodyparts" in content or "multianimalbodyparts" in content):
        return _deeplabcut(content, path, root)
    return None


def _yolo(path: Path, root: Path) -> Found:
    description = describe_yolo(source_of(root, _below(path, root)))
    names = description.names or tuple(f"point_{place}" for place in range(description.shape[0]))
    is_mirrored = description.flip and description.flip != tuple(range(len(names)))
    uses = {"train": "train", "val": "eval", "test": "eval"}
    splits: dict[str, FoundSplit] = {}
    for part, places in description.pictures.items():
        again = places in [
            description.pictures[other] for other in splits
        ]  # as files without a part to judge on say it
        if places and not again and _is_there(source_of(root, _below(path, root), names, part=part)):
            splits[part] = FoundSplit(annotations=_below(path, root), use=uses.get(part, "any"))
    if not splits:
        raise DatasetError(f"{path}: none of the folders of pictures that it names is there.")
    return Found(
        kind="YOLO-pose",
        reader="posecore.formats.yolo_pose:YoloPoseReader",
        root=root,
        names=names,
        is_named=bool(description.names),
        links=tuple((names[a], names[b]) for a, b in description.links),
        pairs=tuple((names[a], names[b]) for a, b in enumerate(description.flip) if a < b) if is_mirrored else (),
        skeleton_name=next(iter(description.classes.values()), "") if len(description.classes) == 1 else "",
        splits=splits,
    )


def _is_there(source: Source) -> bool:
    try:
        return bool(YoloPoseReader().parts(source))
    except DatasetError:
        return False


def _deeplabcut(content: dict[str, Json], path: Path, root: Path) -> Found:
    lists = [content.get(key) for key in ("bodyparts", "multianimalbodyparts", "uniquebodyparts")]
    names = [str(part) for parts in lists if isinstance(parts, list) for part in parts]
    unique = [str(part) for part in content.get("uniquebodyparts") or ()]
    ends = [link for link in content.get("skeleton") or () if isinstance(link, list) and len(link) == 2]
    links = tuple((str(a), str(b)) for a, b in ends if str(a) in names and str(b) in names)
    found = _single(
        path, root, "DeepLabCut", "deeplabcut:DeepLabCutReader", [name for name in names if name not in unique],
        links=links, skeleton_name=str(content.get("Task") or ""),
    )  # fmt: skip
    found.reader_options = {"skip_bodyparts": unique} if unique else {}
    return found


def _json(path: Path, root: Path) -> Found | None:
    where = _below(path, root)
    if _beginning(path).lstrip().startswith(b"["):
        names = label_studio_names(source_of(root, ""), where)
        order = _order_of_setup(path.parent, root)
        if set(order) >= set(names):
            names = order
        return _single(path, root, "Label Studio", "label_studio:LabelStudioReader", names)
    try:
        content = orjson.loads(read_at_most(path, _MAX_JSON_BYTES))
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(content, dict):
        return None
    if "annotations" in content and "images" in content:
        return _coco(content, path, root)
    if "items" in content and "categories" in content:
        label = datumaro_labels(source_of(root, ""), where, content)[0]
        links = tuple((label.points[a], label.points[b]) for a, b in label.links)
        more = {"links": links, "skeleton_name": label.name}
        return _single(path, root, "Datumaro", "datumaro:DatumaroReader", label.points, **more)
    if "_via_img_metadata" in content or any(isinstance(one, dict) and "regions" in one for one in content.values()):
        pictures = via_pictures(source_of(root, ""), where)
        names = via_names(pictures, via_attributes(pictures, ViaOptions())[0])
        return _single(path, root, "VIA", "via:ViaReader", names)
    return None


def _order_of_setup(folder: Path, root: Path) -> list[str]:
    """Points in the order of Label Studio's labelling setup, where one lies beside the export."""
    for path in sorted(folder.glob("*.xml")):
        if b"<KeyPointLabels" not in path.read_bytes():
            continue
        found = elements(source_of(root, ""), _below(path, root), "View")
        labels = [label for one in found if one.tag == "KeyPointLabels" for label in one.iter("Label")]
        return [label.get("value", "") for label in labels]
    return []


def _coco(content: dict[str, Json], path: Path, root: Path) -> Found | None:
    categories = [one for one in content.get("categories") or () if isinstance(one, dict)]
    with_points = [one for one in categories if one.get("keypoints")]
    bodies = [one for one in content["annotations"] if isinstance(one, dict) and one.get("keypoints")]
    if not bodies:
        return None
    names = [str(name) for name in with_points[0]["keypoints"]] if with_points else []
    count = len(bodies[0]["keypoints"]) // 3
    is_named = len(names) == count
    names = names if is_named else [f"point_{place}" for place in range(count)]
    ends = with_points[0].get("skeleton") or [] if with_points else []
    links = [(a - 1, b - 1) for a, b in (link for link in ends if isinstance(link, list) and len(link) == 2)]
    found = _single(path, root, "COCO", "coco:CocoReader", names)
    found.is_named = is_named
    found.links = tuple((names[a], names[b]) for a, b in links if min(a, b) >= 0 and max(a, b) < count)
    found.skeleton_name = str(with_points[0].get("name") or "") if with_points else ""
    if with_points and len(with_points) < len(categories):
        found.reader_options["categories"] = [str(one.get("name")) for one in with_points]
    if any("bbox" not in body for body in bodies):
        found.reader_options["box_margin"] = 0.25
    return found


_BY_SUFFIX: dict[str, Callable[[Path, Path], Found | None]] = {
    ".slp": _sleap,
    ".nwb": _nwb,
    ".xml": _xml,
    ".csv": _csv,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".json": _json,
}


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _joined(ones: Sequence[Found], place: Path) -> Found:
    """Files of one tool as one: the parts of a dataset where they are called so, else one split of them all."""
    first = ones[0]
    others = [one for one in ones if set(one.names) != set(first.names)]
    if others and first.kind != "Label Studio":
        one, odd = (next(iter(found.splits.values())).annotations for found in (first, others[0]))
        raise DatasetError(
            f"{place} holds files of {first.kind} with different points ({one}: {', '.join(first.names)}; {odd}: "
            f"{', '.join(others[0].names)}); give one of them."
        )
    if len(ones) == 1:
        return first
    first.names = tuple(dict.fromkeys(name for one in ones for name in one.names))
    places = [next(iter(one.splits.values())).annotations for one in ones]
    called = [Path(one).stem for one in places]
    if first.kind == "COCO" or Counter(map(_part_of, called)).keys() >= {"train", "val"}:
        first.splits = {
            _split_name(name): FoundSplit(annotations=one) for name, one in zip(called, places, strict=True)
        }
        if len(first.splits) < len(places):
            raise DatasetError(f"{place}: several files are called {called[0]}; give the folder of one of them.")
        for name, split in first.splits.items():
            split.use = {"train": "train", "val": "eval", "test": "eval"}.get(_part_of(name), "any")
    else:
        folders = [one.split("/")[:-1] for one in places]
        shared = []
        for pieces in zip(*folders, strict=False):
            if len(set(pieces)) > 1:
                break
            shared.append(pieces[0])
        first.splits = {"all": FoundSplit(annotations="/".join(shared))}
    return first


def plain_definition(found: Found, split: FoundSplit) -> DatasetDefinition:
    """A definition that is enough to read by."""
    points = [{"name": name, "union": name} for name in found.names]
    return DatasetDefinition.model_validate(
        {
            "name": "found",
            "title": "found",
            "reader": found.reader,
            "skeleton": {"name": "found", "keypoints": points},
            "license": {"id": "own"},
            "reader_options": found.reader_options,
            "splits": {"all": {"annotations": split.annotations, "images": split.images, "options": split.options}},
        }
    )


def together(ones: Sequence[Found]) -> Found:
    """Several sources as one set of the first one's points; the place of the pictures of each is known.

    Raises:
        DatasetError: they have different points, no names for them, or splits.
    """
    first = ones[0]
    for other in ones:
        if set(other.names) != set(first.names) or not other.is_named or len(other.splits) != 1:
            raise DatasetError(
                f"only sources of one split each, with the same named points, become one set; {first.kind} has "
                f"{', '.join(first.names)} and {other.kind} {', '.join(other.names)}, in "
                f"{counted(len(other.splits), 'split')}."
            )
    root = Path(os.path.commonpath([one.root.resolve() for one in ones]))
    sources: dict[str, Json] = {}
    for one in ones:
        (split,) = one.splits.values()
        below = one.root.resolve().relative_to(root)
        name = below.name or Path(split.annotations).name.partition(".")[0]
        images = (below / split.images).as_posix() if split.images or str(below) != "." else ""
        sources[f"{name}_{len(sources)}" if name in sources else name] = {
            "reader": one.reader,
            "annotations": (below / split.annotations).as_posix(),
            "images": "" if images == "." else images,
            "options": {**one.reader_options, **split.options},
        }
    return replace(
        first,
        kind=" and ".join(dict.fromkeys(one.kind for one in ones)),
        reader="posecore.formats.several:SeveralReader",
        root=root,
        splits={"all": FoundSplit(annotations="")},
        reader_options={"sources": sources},
    )


def _split_name(called: str) -> str:
    name = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in called)
    return _part_of(called) or name


def _part_of(called: str) -> str:
    words = "".join(letter if letter.isalpha() else " " for letter in called.lower()).split()
    for part, synonyms in (
        ("train", ("train", "training")),
        ("val", ("val", "valid", "validation")),
        ("test", ("test",)),
    ):
        if any(word in synonyms for word in words):
            return part
    return ""
