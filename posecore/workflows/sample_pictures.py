"""Pictures of what a model in training says of a few bodies of a judged set, the same ones every time."""

from dataclasses import dataclass

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.lineage.store.sample_pictures import picture_path
from posecore.shards.store import ShardStore
from posecore.storage import as_path, write_atomically
from posecore.viz.close_ups import sample_cases
from posecore.viz.encoded import contact_sheet, encode_jpeg

_CELL_PX = 320


@dataclass(frozen=True, kw_only=True)
class SamplePictures:
    """Draws annotation and prediction side by side, into a file for each set and step.

    Attributes:
        folder: of the files; every node must see it.
        count: bodies of each set.
    """

    folder: str
    count: int = 6

    def __call__(self, name: str, step: int, store: ShardStore, truth: GroundTruth, predictions: Predictions) -> None:
        """See :class:`~posecore.workflows.periodic_evaluation.ShowSamples`."""
        cases = sample_cases(store, store.manifest.definition.skeleton, truth, predictions, self.count)
        if cases:
            sheet = contact_sheet([case.picture_rgb for case in cases], columns=3, cell_px=_CELL_PX)
            write_atomically(picture_path(as_path(self.folder), name, step), encode_jpeg(sheet))
