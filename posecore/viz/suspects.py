"""Suspicious labels as pictures: each body that has one, its label ringed."""

from collections.abc import Iterator, Sequence
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.image_header import MAX_PIXELS
from posecore.labels.suspects import Suspect
from posecore.loading.crop import decode_image
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath
from posecore.viz.gallery import write_gallery
from posecore.viz.overlay import draw_instances

_RING = (255, 0, 60)
_LEAST_SIDE_PX = 320
_MARGIN = 0.15


def write_suspect_gallery(
    folder: str | AnyPath, store: ShardStore, suspects: Sequence[Suspect], title: str, num_bodies: int
) -> AnyPath:
    """Writes ``index.html`` and ``contact_sheet.png`` of the bodies with the worst labels.

    Args:
        folder: made if missing.
        store: the split that was checked.
        suspects: worst first; those of one body share a picture.
        title: heading.
        num_bodies: how many bodies to show at most.

    Returns:
        Path of ``index.html``.
    """
    return write_gallery(suspect_pictures(store, suspects, num_bodies), folder, title)


def suspect_pictures(
    store: ShardStore, suspects: Sequence[Suspect], num_bodies: int
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """A picture, (H, W, 3) uint8 RGB, and a caption for each of the bodies with the worst labels.

    Args:
        store: the split that was checked.
        suspects: worst first; those of one body share a picture.
        num_bodies: how many bodies at most.
    """
    by_body: dict[int, list[Suspect]] = {}
    for suspect in suspects:
        by_body.setdefault(suspect.row, []).append(suspect)
    skeleton = store.manifest.definition.skeleton
    for row, found in islice(by_body.items(), num_bodies):
        sample = store.read_sample(int(store.instances["image_row"][row].as_py()))
        instance = sample.record.instances[int(store.instances["instance_index"][row].as_py())]
        image = decode_image(sample.image_bytes, MAX_PIXELS, f"{store.location}: sample {sample.key}")
        canvas = draw_instances(image, [instance], skeleton)
        points = instance.keypoints[[suspect.point for suspect in found], :2]
        caption = [f"{sample.record.image} · instance {instance.id}"]
        caption += [f"{skeleton.names[s.point]}: {s.reason} ({s.score:.3g})" for s in found]
        yield _closeup(canvas, instance.keypoints, points), "\n".join(caption)


def _closeup(
    canvas: NDArray[np.uint8], keypoints: NDArray[np.float32], points: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The part of the image that shows the labelled points, enlarged to be seen, with rings."""
    height, width = canvas.shape[:2]
    labelled = keypoints[keypoints[:, 2] > 0, :2]
    low, high = labelled.min(axis=0), labelled.max(axis=0)
    margin = _MARGIN * max(float((high - low).max()), 20.0)
    left, top = np.floor(np.clip(low - margin, 0, (width - 1, height - 1))).astype(int).tolist()
    right, bottom = np.ceil(np.clip(high + margin, (left + 1, top + 1), (width, height))).astype(int).tolist()
    part = canvas[top:bottom, left:right]
    factor = max(1.0, _LEAST_SIDE_PX / max(part.shape[:2]))
    shown = cv2.resize(part, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    for x, y in (points - (left, top)) * factor:
        if np.isfinite((x, y)).all():
            cv2.circle(shown, (round(float(x)), round(float(y))), 14, (255, 255, 255), 5, cv2.LINE_AA)
            cv2.circle(shown, (round(float(x)), round(float(y))), 14, _RING, 3, cv2.LINE_AA)
    return np.asarray(shown, np.uint8)
