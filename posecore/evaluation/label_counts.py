"""What an ingested split has of the labels that protocols ask for."""

import numpy as np

from posecore.datasets.judgeable import LabelCounts
from posecore.shards.store import ShardStore


def label_counts(store: ShardStore) -> LabelCounts:
    """What the tables of an ingested split say; heads and crowding of tables that do not tell are taken to be there."""
    instances, images = store.instances, store.images
    labelled = (instances["num_labelled"].to_numpy() > 0) & ~instances["is_crowd"].to_numpy()
    heads = np.ones(len(labelled), np.bool_)
    if "head_bbox_xyxy" in instances.column_names:
        heads = instances["head_bbox_xyxy"].is_valid().to_numpy()
    without = images["crowd_index"].null_count if "crowd_index" in images.column_names else 0
    return LabelCounts(
        images=store.num_images,
        labelled=int(labelled.sum()),
        with_head=int((labelled & heads).sum()),
        without_crowd_index=int(without),
    )
