"""MINI-RGBD: twelve rendered infants, one text file of joints per frame."""

import math
import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.files import read_text, relative_path, source_file
from posecore.formats.reader import ReaderOfParts, Source
from posecore.formats.values import Refusal, area_of_box, box_around, sequence
from posecore.schema import DepthImage, FloatArray, Instance, Record, Reject

IMAGE_HEIGHT, IMAGE_WIDTH = 480, 640
BOX_MARGIN = 0.1
"""The box is the points' extent plus this share of its longer side all around: crown and hands lie outside."""

_JOINTS_2D = re.compile(r"^syn_joints_2Ddep_(\d{5})\.txt$")


class MiniRgbdReader(ReaderOfParts):
    """Reads ``MINI-RGBD_web``: a folder per sequence with ``rgb/``, ``depth/``, ``joints_2Ddep/`` and ``joints_3D/``.

    A sequence is one infant, so it is the subject and the video. Joints are known by the id in their line's last
    column, not by their order. The files do not say what is hidden: a joint inside the image counts as seen, one
    outside as labelled but not visible. ``keypoints_3d`` is in metres, in the camera's frame. A frame
    without its depth picture is read without depth.

    Options:
        depth_metres_per_unit: what a pixel value of 1 in ``depth/`` stands for; default 0.001.
        sequences: folder names of the split, such as ``["11", "12"]``; all folders if not stated.
    """

    options: ClassVar[frozenset[str]] = frozenset({"sequences", "depth_metres_per_unit"})

    def parts(self, source: Source) -> list[str]:
        """The sequences, in the order of their names or as listed."""
        top = source_file(source, source.annotations)
        listed = source.options.get("sequences")
        if listed is not None:
            return list(map(str, sequence(listed, "reader option sequences")))
        return sorted(path.name for path in top.iterdir() if path.is_dir())

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """The frames of one sequence."""
        metres_per_unit = _metres_per_unit(source)
        folder = relative_path(source.annotations, part)
        joints = source_file(source, f"{folder}/joints_2Ddep")
        frames = sorted(match[1] for path in joints.iterdir() if (match := _JOINTS_2D.match(path.name)))
        if not frames:
            raise DatasetError(f"{source.dataset} {source.split}: {folder}/joints_2Ddep holds no joint files.")
        for frame in frames:
            where = f"{folder}/joints_2Ddep/syn_joints_2Ddep_{frame}.txt"
            try:
                yield _record(source, folder, part, frame, where, metres_per_unit)
            except Refusal as refusal:
                yield refusal.reject(source, where, f"{part}/{frame}")


def _metres_per_unit(source: Source) -> float:
    value = source.options.get("depth_metres_per_unit", 0.001)
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise DatasetError(
            f"{source.dataset} {source.split}: reader option depth_metres_per_unit is {value!r}, not a positive number."
        )
    return float(value)


def _record(source: Source, folder: str, name: str, frame: str, where: str, metres_per_unit: float) -> Record:
    num_keypoints = source.skeleton.num_keypoints
    places = _table(read_text(source, where), num_keypoints)
    keypoints = np.zeros((num_keypoints, 3), np.float32)
    keypoints[:, :2] = places[:, :2]
    inside = (places[:, :2] >= -0.5).all(1) & (places[:, 0] < IMAGE_WIDTH - 0.5) & (places[:, 1] < IMAGE_HEIGHT - 0.5)
    keypoints[:, 2] = np.where(inside, 2, 1)
    bbox = box_around(keypoints, BOX_MARGIN)
    three_d = relative_path(folder, "joints_3D", f"syn_joints_3D_{frame}.txt")
    has_three_d = (source.root / three_d).exists()
    depth = relative_path(folder, "depth", f"syn_{frame}_depth.png")
    source_id = f"{name}/{frame}"
    instance = Instance(
        id=source_id,
        bbox_xywh=bbox,
        keypoints=keypoints,
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        keypoints_3d=_table(read_text(source, three_d), num_keypoints) if has_three_d else None,
        subject_id=name,
        track_id=name,
    )
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=source_id,
        image=relative_path(source.images, name, "rgb", f"syn_{frame}.png"),
        width=IMAGE_WIDTH,
        height=IMAGE_HEIGHT,
        instances=[instance],
        license=source.license,
        video_id=name,
        frame_index=int(frame),
        depth=DepthImage(image=depth, metres_per_unit=metres_per_unit) if (source.root / depth).exists() else None,
    )


def _table(content: str, num_keypoints: int) -> FloatArray:
    """(K, 3) float32 from K lines of three numbers and the joint's id, in the order of the ids."""
    table = np.zeros((num_keypoints, 3), np.float32)
    missing = set(range(num_keypoints))
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            *values, joint = (float(cell) for cell in line.split())
        except ValueError:
            raise Refusal("not-a-number", f"line {number} is {line[:60]!r}, not four numbers.") from None
        if len(values) != 3 or joint not in missing or not all(map(math.isfinite, values)):
            raise Refusal(
                "bad-joint", f"line {number} is {line[:60]!r}, not three finite numbers and a joint id not seen before."
            )
        missing.remove(int(joint))
        table[int(joint)] = values
    if missing:
        raise Refusal(
            "wrong-length", f"{len(missing)} of {counted(num_keypoints, 'joint')} are missing, first {min(missing)}."
        )
    return table
