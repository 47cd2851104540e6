"""The labelled bodies of an ingested split as arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from posecore.schema import Instance
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
        """Reads the records of a split, corrections included; their images are not touched.

        Raises:
            IntegrityError: stored bytes are not what was written.
        """
        table = store.instances
        wanted = (table["num_labelled"].to_numpy() > 0) & ~table["is_crowd"].to_numpy()
        rows = np.flatnonzero(wanted)
        image_rows = table["image_row"].to_numpy()
        places = table["instance_index"].to_numpy()
        num_keypoints = store.manifest.definition.skeleton.num_keypoints
        points = np.zeros((len(rows), num_keypoints, 3))
        absent = np.zeros((len(rows), num_keypoints), np.bool_)
        read: tuple[int, list[Instance]] = (-1, [])  # instances of an image are neighbours, so its record is read once
        for number, row in enumerate(rows.tolist()):
            if read[0] != image_rows[row]:
                read = (int(image_rows[row]), store.read_record(int(image_rows[row])).instances)
            instance = read[1][places[row]]
            points[number] = instance.keypoints
            absent[number, list(instance.absent)] = True
        return cls(rows=rows, keypoints=points[:, :, :2], labelled=(points[:, :, 2] > 0) & ~absent)
