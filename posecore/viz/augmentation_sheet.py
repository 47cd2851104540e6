"""What training will see: crops of an ingested split, each plain and then as several passes augment it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.image_header import MAX_PIXELS
from posecore.loading.augment import AugmentConfig
from posecore.loading.crop import CropPlan
from posecore.loading.randomness import Redrawn
from posecore.loading.samples import SampleCache
from posecore.loading.training_crops import TrainingCrops
from posecore.schema import Instance, KeypointState
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Skeleton
from posecore.viz.gallery import write_gallery
from posecore.viz.overlay import draw_instances

_CACHE_BYTES = 64 << 20
_NOTHING = AugmentConfig(
    flip_probability=0, half_body_probability=0, scale_factor=0, rotation_probability=0, center_jitter="off"
)


def write_augmentation_sheet(
    store: ShardStore,
    augment: AugmentConfig,
    input_size: tuple[int, int],
    out_dir: str | Path,
    *,
    num_instances: int = 8,
    num_passes: int = 7,
    seed: int = 0,
) -> Path:
    """Writes ``index.html`` and ``contact_sheet.png``: a row per instance, plain first, then one crop per pass.

    The crops are those a run with this seed makes of a mixture entry that has the dataset's name. Points are drawn on
    them; a disc is seen, a ring occluded.

    Args:
        store: the split.
        augment: the augmentation.
        input_size: (height, width) of the crops.
        out_dir: folder, made if missing.
        num_instances: how many to show at most, spread evenly over the split.
        num_passes: how many augmented crops to show of each.
        seed: of the run.

    Returns:
        Path of ``index.html``.

    Raises:
        ConfigError: the augmentation does not fit the skeleton.
        DatasetError: the split has nothing to train on.
    """
    name = store.manifest.definition.name
    plain = TrainingCrops(name, store, _NOTHING, input_size, seed)
    augmented = TrainingCrops(name, store, augment, input_size, seed)
    total = len(augmented.instances.rows)
    if not total:
        raise DatasetError(
            f"{store.location}: no instance has a box and a labelled point, so there is nothing to crop."
        )
    chosen = np.unique(np.linspace(0, total - 1, min(num_instances, total)).round().astype(int)).tolist()
    pictures = _pictures(store, plain, augmented, chosen, num_passes, input_size)
    title = f"{store.manifest.definition.title}: {store.manifest.split}, augmented"
    return write_gallery(pictures, out_dir, title, columns=1 + num_passes)


def _pictures(
    store: ShardStore,
    plain: TrainingCrops,
    augmented: TrainingCrops,
    chosen: list[int],
    num_passes: int,
    input_size: tuple[int, int],
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    cache, redrawn = SampleCache({plain.name: store}, _CACHE_BYTES, MAX_PIXELS), Redrawn()
    skeleton = plain.definition.skeleton
    for instance in chosen:
        for number_of_pass in range(-1, num_passes):
            pixels = np.empty((*input_size, 3), np.uint8)
            crops = plain if number_of_pass < 0 else augmented
            plan = crops.plan(np.array([instance]), np.array([max(number_of_pass, 0)]), redrawn)
            image_row = int(crops.instances.image_rows[instance])
            crops.cut(plan, [0], cache.get((plain.name, image_row)), redrawn, [pixels])
            turn = plan.region.rotation[0]
            what = "plain" if number_of_pass < 0 else f"pass {number_of_pass}, turned by {turn:.0f}°"
            yield _drawn(pixels, plan, skeleton), f"instance {plan.rows[0]}, {what}"


def _drawn(pixels: NDArray[np.uint8], plan: CropPlan, skeleton: Skeleton) -> NDArray[np.uint8]:
    (state,), (points,) = plan.state, plan.keypoints_crop
    flags = np.zeros(len(state), np.float32)
    flags[state == KeypointState.OCCLUDED] = 1
    flags[state == KeypointState.VISIBLE] = 2
    keypoints = np.concatenate([points, flags[:, None]], axis=1)
    height, width = pixels.shape[:2]
    body = Instance(id="", bbox_xywh=(0.0, 0.0, width, height), keypoints=keypoints, area=1.0, area_rule="box")
    return draw_instances(pixels, [body], skeleton, boxes=False)
