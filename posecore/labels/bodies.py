"""The labelled bodies of an ingested split as arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from posecore.schema import KeypointState
from posecore.shards.store import ShardStore


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledBodies:
    """Bodies with at least one labelled point, crowds left out.

    Attributes:
        rows: (N,) rows of ``index.parquet``.
        keypoints: (N, K, 2) x, y in image pixels; anything where not labelled.
        labelled: (N, K) whether a point has a place, seen or not.
    """

    rows: Int[np.ndarray, " N"]
    keypoints: Float[np.ndarray, "N K 2"]
    labelled: Bool[np.ndarray, "N K"]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def from_store(cls, store: ShardStore) -> "LabelledBodies":
        """The bodies of a split from its index, corrections included; no record is opened."""
        table = store.instances
        rows = np.flatnonzero((table["num_labelled"].to_numpy() > 0) & ~table["is_crowd"].to_numpy())
        state = store.labels.state(rows)
        labelled = (state == KeypointState.OCCLUDED) | (state == KeypointState.VISIBLE)
        return cls(rows=rows, keypoints=store.labels.keypoints(rows).astype(np.float64), labelled=labelled)
