"""One picture that shows what the synthetic bodies look like, plain and with their labels."""

import numpy as np
from numpy.typing import NDArray

from posecore.schema import Instance
from posecore.skeletons.library import load_skeleton
from posecore.synth.landmarks import AP10K_17, COCO_17
from posecore.synth.masks import mask_box
from posecore.synth.scene import Body, Kind, render
from posecore.viz.encoded import contact_sheet
from posecore.viz.overlay import draw_instances

_ROWS: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    ("adult", "coco17", COCO_17),
    ("infant", "coco17", COCO_17),
    ("quadruped", "ap10k17", AP10K_17),
)


def synthetic_sheet(seed: int = 0, columns: int = 6, cell_px: int = 144) -> NDArray[np.uint8]:
    """For each kind of body a row of pictures, and below it the same pictures with points, links, boxes and masks.

    Args:
        seed: names the set.
        columns: pictures per row.
        cell_px: side of a cell, px.

    Returns:
        (6 * cell_px, columns * cell_px, 3) uint8 RGB.
    """
    pictures: list[NDArray[np.uint8]] = []
    for kind, skeleton_name, names in _ROWS:
        skeleton = load_skeleton(skeleton_name)
        scenes = [render(kind, seed, index) for index in range(columns)]
        pictures += [scene.image for scene in scenes]
        for scene in scenes:
            bodies = [body for body in scene.bodies if body.role == "labelled"]
            instances = [_instance(body, names) for body in bodies]
            pictures.append(draw_instances(scene.image, instances, skeleton, masks=[body.mask for body in bodies]))
    return contact_sheet(pictures, columns=columns, cell_px=cell_px)


def _instance(body: Body, names: tuple[str, ...]) -> Instance:
    return Instance(
        id=str(body.subject),
        bbox_xywh=mask_box(body.mask),
        keypoints=body.keypoints(names),
        area=float(body.mask.sum()),
        area_rule="segment",
        category=body.category,
        category_id=body.category_id,
    )
