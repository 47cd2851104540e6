"""Synthetic infants with depth, laid out as MINI-RGBD is: a folder per infant with pictures, depth and joints."""

from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from posecore.errors import DatasetError
from posecore.schema import FloatArray
from posecore.synth.scene import Body, render
from posecore.synth.writers import Progress

_SIZE = (480, 640)
_TRAIN_SEQUENCES, _TEST_SEQUENCES = range(1, 11), range(11, 13)
_MILLIMETRES = 1000.0

_Mixture: TypeAlias = tuple[tuple[str, float], ...]


def _sided(name: str) -> tuple[_Mixture, _Mixture]:
    return ((f"left_{name}", 1.0),), ((f"right_{name}", 1.0),)


def _between(first: str, second: str, share: float) -> _Mixture:
    return (first, 1.0 - share), (second, share)


_JOINTS: tuple[_Mixture, ...] = (
    (("pelvis", 1.0),),
    *_sided("hip"),
    _between("pelvis", "thorax", 0.25),
    *_sided("knee"),
    _between("pelvis", "thorax", 0.5),
    *_sided("ankle"),
    _between("pelvis", "thorax", 0.75),
    *(_between(f"{side}_big_toe", f"{side}_small_toe", 0.5) for side in ("left", "right")),
    _between("thorax", "upper_neck", 0.5),
    *(_between("thorax", f"{side}_shoulder", 0.5) for side in ("left", "right")),
    (("upper_neck", 1.0),),
    *_sided("shoulder"),
    *_sided("elbow"),
    *_sided("wrist"),
    *_sided("middle_finger1"),
    (("nose", 1.0),),
)
"""The 25 joints in the order of their ids, from landmarks of our bodies; those of the trunk are between two of them."""


def write_minirgbd(
    root: str | Path, num_train: int, num_val: int, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Renders and writes sequences of infants; equal arguments give equal bytes.

    Frames are dealt out in turn to ten training and two test sequences, an infant each. Depth is in millimetres. There
    is no ``joints_3D``, as our camera has no perspective, and no body model.

    Args:
        root: folder of the dataset, new or empty.
        num_train: frames of the sequences 01 to 10, at least one each.
        num_val: frames of the sequences 11 and 12, likewise.
        seed: names the set.
        progress: called after each frame.

    Returns:
        ``root`` as a path.

    Raises:
        DatasetError: the folder holds something, or a number is too small.
    """
    root = Path(root)
    if num_train < len(_TRAIN_SEQUENCES) or num_val < len(_TEST_SEQUENCES) or seed < 0:
        raise DatasetError(
            f"num_train {num_train}, num_val {num_val} and seed {seed}: each of ten training and two test sequences "
            "needs a frame, and the seed must not be negative."
        )
    if root.is_dir() and any(root.iterdir()):
        raise DatasetError(f"{root} is not empty; name a new folder.")
    written = 0
    for sequences, count in ((_TRAIN_SEQUENCES, num_train), (_TEST_SEQUENCES, num_val)):
        for number in range(count):
            sequence, frame = sequences[number % len(sequences)], number // len(sequences)
            _write_frame(root / "MINI-RGBD_web" / f"{sequence:02d}", seed, sequence, frame)
            written += 1
            if progress is not None:
                progress(written, num_train + num_val)
    return root


def _write_frame(folder: Path, seed: int, sequence: int, frame: int) -> None:
    scene = render("infant", seed, 100_000 * sequence + frame, _SIZE, range(sequence, sequence + 1))
    joints = joints_of(scene.bodies[0]).tolist()
    lines = (f"{x:.3f} {y:.3f} {depth * _MILLIMETRES:.1f} {joint}\n" for joint, (x, y, depth) in enumerate(joints))
    depth_mm = np.rint(scene.depth * _MILLIMETRES).clip(0, 65535).astype(np.uint16)
    files = {
        f"rgb/syn_{frame:05d}.png": _png(cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)),
        f"depth/syn_{frame:05d}_depth.png": _png(depth_mm),
        f"joints_2Ddep/syn_joints_2Ddep_{frame:05d}.txt": "".join(lines).encode(),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def joints_of(body: Body) -> FloatArray:
    """(25, 3) x, y in image pixels and distance in metres of MINI-RGBD's joints."""
    values = np.concatenate([body.points[:, :2], body.depth[:, None]], axis=1)
    place = {name: index for index, name in enumerate(body.names)}
    return np.array([sum(values[place[name]] * share for name, share in mixture) for mixture in _JOINTS], np.float32)


def _png(pixels: np.ndarray) -> bytes:
    _, data = cv2.imencode(".png", pixels)
    return data.tobytes()
