"""Synthetic datasets on disk, laid out and annotated as the real ones are, so that the real readers read them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import cv2

from posecore.config import Config, read_yaml
from posecore.errors import DatasetError
from posecore.nearest import choices
from posecore.schema import Json
from posecore.storage import write_atomically
from posecore.synth.coco_files import Ap10kFile, CocoFile, CrowdPoseFile, SyripFile, WholeBodyFile, detections
from posecore.synth.mpii_files import MpiiRows
from posecore.synth.scene import Kind, Scene, render

DatasetName: TypeAlias = Literal["coco", "coco_wholebody", "mpii", "ap10k", "syrip", "crowdpose"]
SceneName: TypeAlias = Literal["usual", "incubator"]
"""Those of the format, or an infant in an incubator with the arms of adults in the picture."""
Progress: TypeAlias = Callable[[int, int], object]
"""Called with the number of pictures written and the number in all."""

GENERATOR_VERSION = 2
"""Raised whenever the same settings come to render other pictures."""

JPEG_QUALITY = 92
_SPLITS = ("train", "val")
_FIRST_VAL = 1_000_000
"""Numbers of validation pictures and subjects start here, so that no split shares either with another."""
_MOST_PX = 4096


class SynthSettings(Config):
    """What a synthetic dataset on disk was made from; two folders with equal settings hold equal bytes.

    Attributes:
        dataset: whose format and layout.
        num_train: training pictures.
        num_val: validation pictures, of other subjects.
        image_size: (height, width), px.
        seed: names the set; each dataset draws its own pictures from it.
        scenes: what the pictures show.
        generator_version: see :data:`GENERATOR_VERSION`.
    """

    dataset: DatasetName
    num_train: int
    num_val: int
    image_size: tuple[int, int] = (256, 256)
    seed: int = 0
    scenes: SceneName = "usual"
    generator_version: int = GENERATOR_VERSION


class _Layout(Config):
    """Where a dataset keeps what; ``{split}`` is the split's name in that dataset, ``detections`` are of ``val``."""

    kind: Kind
    splits: tuple[str, str]
    images: str
    file_name: str
    annotations: str
    detections: str | None = None


_DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
_LAYOUTS: dict[DatasetName, _Layout] = {
    "coco": _Layout(
        kind="adult",
        splits=("train2017", "val2017"),
        images="{split}",
        file_name="{number:012d}.jpg",
        annotations="annotations/person_keypoints_{split}.json",
        detections=_DETECTIONS,
    ),
    "coco_wholebody": _Layout(
        kind="adult",
        splits=("train", "val"),
        images="{split}2017",
        file_name="{number:012d}.jpg",
        annotations="annotations/coco_wholebody_{split}_v1.0.json",
        detections=_DETECTIONS,
    ),
    "mpii": _Layout(
        kind="adult",
        splits=("train", "val"),
        images="images",
        file_name="{number:09d}.jpg",
        annotations="annotations/mpii_{split}.json",
    ),
    "ap10k": _Layout(
        kind="quadruped",
        splits=("train", "val"),
        images="data",
        file_name="{number:012d}.jpg",
        annotations="annotations/ap10k-{split}-split1.json",
    ),
    "syrip": _Layout(
        kind="infant",
        splits=("train_infant", "validate_infant"),
        images="images/{split}",
        file_name="{split}{number}.jpg",
        annotations="annotations/person_keypoints_{split}.json",
    ),
    "crowdpose": _Layout(
        kind="adult",
        splits=("train", "val"),
        images="images",
        file_name="{number:06d}.jpg",
        annotations="annotations/crowdpose_{split}.json",
    ),
}
_COCO_FILES: dict[DatasetName, type[CocoFile]] = {
    "coco": CocoFile,
    "coco_wholebody": WholeBodyFile,
    "ap10k": Ap10kFile,
    "syrip": SyripFile,
    "crowdpose": CrowdPoseFile,
}
OF_INCUBATORS: tuple[DatasetName, ...] = ("coco", "coco_wholebody", "syrip")
"""Formats in which incubators are written: with adults as bodies of few points, as COCO has people who are partly in a
picture, or, as SyRIP, with the infant alone."""

_RECEIPT = "synthetic.json"


def write_dataset(
    name: DatasetName,
    root: str | Path,
    num_train: int,
    num_val: int,
    image_size: tuple[int, int] = (256, 256),
    seed: int = 0,
    progress: Progress | None = None,
    scenes: SceneName = "usual",
) -> Path:
    """Renders and writes a dataset; equal arguments give equal bytes, on any machine with the same library versions.

    The annotation files come after the pictures and ``synthetic.json``, which holds the settings, comes last: a folder
    without it is not whole. A folder that holds the same set already is left as it is.

    Args:
        name: whose format and layout.
        root: folder of the dataset, made if missing.
        num_train: training pictures.
        num_val: validation pictures; their subjects are not in the training pictures.
        image_size: (height, width), px.
        seed: names the set; each dataset draws its own pictures from it.
        progress: called after each picture.
        scenes: what they show; an incubator is for the formats of :data:`OF_INCUBATORS`.

    Returns:
        ``root`` as a path.

    Raises:
        DatasetError: the name is unknown, a number is out of range, or ``root`` holds something else.
    """
    if name not in get_args(DatasetName):
        raise DatasetError(f"no synthetic form of dataset {name!r}.{choices(name, get_args(DatasetName))}")
    if scenes == "incubator" and name not in OF_INCUBATORS:
        raise DatasetError(
            f"dataset {name} has no incubators; choose {', '.join(OF_INCUBATORS[:-1])} or {OF_INCUBATORS[-1]}."
        )
    if (
        not (0 <= num_train < _FIRST_VAL and 0 <= num_val < _FIRST_VAL)
        or not all(32 <= side <= _MOST_PX for side in image_size)
        or seed < 0
    ):
        raise DatasetError(
            f"num_train {num_train}, num_val {num_val}, image_size {image_size} and seed {seed}: the numbers must be "
            f"from 0 to {_FIRST_VAL - 1}, the picture's sides from 32 to {_MOST_PX} pixels and the seed not negative."
        )
    root = Path(root)
    settings = SynthSettings(
        dataset=name, num_train=num_train, num_val=num_val, image_size=image_size, seed=seed, scenes=scenes
    )
    if _is_there(root, settings):
        return root
    layout = _LAYOUTS[name]
    rows = MpiiRows()
    written = 0
    for split, native_split, count in zip(_SPLITS, layout.splits, (num_train, num_val), strict=True):
        document = _COCO_FILES[name](f"synthetic {name}", f"{name}-{seed}-") if name in _COCO_FILES else None
        folder = root / layout.images.format(split=native_split)
        folder.mkdir(parents=True, exist_ok=True)
        for number in _numbers(split, count):
            scene = _scene(settings, layout, split, number)
            file_name = layout.file_name.format(split=native_split, number=number)
            (folder / file_name).write_bytes(encode_jpeg(scene))
            if document is None:
                rows.add(split, file_name, scene)
            else:
                document.add(number, file_name, scene)
            written += 1
            if progress is not None:
                progress(written, num_train + num_val)
        content: Json = rows.json_rows(split) if document is None else document.document()
        write_atomically(root / layout.annotations.format(split=native_split), json.dumps(content).encode())
        if layout.detections is not None and split == "val":
            write_atomically(root / layout.detections, json.dumps(detections(content, _own_seed(settings))).encode())
    if name == "mpii":
        write_atomically(root / "mpii_human_pose_v1_u12_1.mat", rows.mat_bytes())
        write_atomically(root / "annotations/mpii_gt_val.mat", rows.evaluation_bytes("val"))
    write_atomically(root / _RECEIPT, (settings.model_dump_json(indent=2) + "\n").encode())
    return root


def scene_of(settings: SynthSettings, split: Literal["train", "val"], position: int) -> tuple[str, Scene]:
    """File name and scene of the ``position``-th picture of a split, as :func:`write_dataset` renders it."""
    layout = _LAYOUTS[settings.dataset]
    number = _numbers(split, position + 1)[position]
    native_split = layout.splits[_SPLITS.index(split)]
    file_name = layout.file_name.format(split=native_split, number=number)
    return file_name, _scene(settings, layout, split, number)


def encode_jpeg(scene: Scene) -> bytes:
    """The picture as JPEG bytes of quality :data:`JPEG_QUALITY`."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return data.tobytes()


def _numbers(split: str, count: int) -> range:
    first = 1 if split == "train" else _FIRST_VAL + 1
    return range(first, first + count)


def _scene(settings: SynthSettings, layout: _Layout, split: str, number: int) -> Scene:
    count = settings.num_train if split == "train" else settings.num_val
    first = 0 if split == "train" else _FIRST_VAL
    subjects = range(first, first + max(8, count // 2))
    kind = layout.kind if settings.scenes == "usual" else settings.scenes
    return render(kind, _own_seed(settings), number, settings.image_size, subjects)


def _own_seed(settings: SynthSettings) -> int:
    datasets = get_args(DatasetName)
    return settings.seed * len(datasets) + datasets.index(settings.dataset)


def _is_there(root: Path, settings: SynthSettings) -> bool:
    """Whether the same set is there already.

    Raises:
        DatasetError: something else is.
    """
    receipt = root / _RECEIPT
    if receipt.is_file():
        if {"scenes": "usual", **read_yaml(receipt)} == settings.model_dump(mode="json"):
            return True
        raise DatasetError(f"{root} holds a synthetic set made with other settings; name a new folder or remove it.")
    if (root / "annotations").exists():
        raise DatasetError(f"{root} holds annotations that are not a whole synthetic set; name a new folder.")
    return False
