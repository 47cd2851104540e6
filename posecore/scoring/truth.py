"""What results are held against, whatever file it was published in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import read_split
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.traits import Traits
from posecore.formats.mpii import DERIVED_HEAD_BOXES
from posecore.schema import Record
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Annotations, and what is known of them besides.

    Attributes:
        origin: where they come from, for people.
        arrays: the annotations.
        traits: of the same instances.
        files: name of each image's file below the image folder, "" where not known.
        skeleton: names the points.
        left_out: what the file holds and no score counts, or counts otherwise, such as ``annotations without an image``
            → how many.
        ignored: regions by row of their image, each as (P, 2) corners of a polygon: nobody has labelled who is there.
        first_pixel: what the centre of the first pixel is called in the published form: 1 in MPII's.
    """

    origin: str
    arrays: GroundTruth
    traits: Traits
    files: tuple[str, ...]
    skeleton: Skeleton
    left_out: dict[str, int]
    ignored: Mapping[int, Sequence[NDArray[np.float64]]] = field(default_factory=dict)
    first_pixel: int = 0


def truth_of_definition(definition: DatasetDefinition, split: str, root: str | AnyPath) -> Truth:
    """The annotations as the definition's reader gives them; coordinates are float32 then.

    Raises:
        DatasetError: the split cannot be read.
    """
    records: list[Record] = []
    left_out: dict[str, int] = {}
    for item in read_split(definition, split, root):
        if isinstance(item, Record):
            records.append(item)
        elif item.outcome != "kept" or item.reason == DERIVED_HEAD_BOXES:
            left_out[item.reason] = left_out.get(item.reason, 0) + 1
    folder = definition.splits[split].images
    return Truth(
        origin=f"{definition.name} {split}",
        arrays=GroundTruth.from_records(records, definition.skeleton.num_keypoints),
        traits=Traits.from_records(records),
        files=tuple(record.image.removeprefix(f"{folder}/") for record in records),
        skeleton=definition.skeleton,
        left_out=left_out,
    )
