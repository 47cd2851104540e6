"""The loss of every single label, pass after pass through a training: raw material of the label-noise check.

Losses are taken on un-augmented crops, by the model in evaluation mode, in a pass of their own. Those of the training
batches would cost nothing, but their augmentation moves the loss of a label more than learning does in an epoch, a
dataset of small weight is not gone through in every epoch, and a resumed run would have to find its place again. The
pass is a forward pass over the training set, about a third of an epoch of training.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.shares import gathered, share_of
from posecore.loading.evaluation import EvalCrops
from posecore.loading.samples import UsableInstances
from posecore.methods.batch import normalise, point_weights
from posecore.methods.losses import usual_loss
from posecore.models.pose_model import PoseModel
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath, as_path, write_atomically

_NAME = re.compile(r"step_(\d{9})\.npz")


def label_losses(
    model: PoseModel,
    store: ShardStore,
    head: str,
    settings: InferenceSettings,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """The loss of each label of a split: mean squared error of its heatmap, or divergence of its SimCC distributions.

    Args:
        model: in evaluation mode.
        store: the split.
        head: of the model, with the split's points.
        settings: batch size and decoding threads.
        rows: of ``index.parquet`` that are looked at; None for all that can be.

    Returns:
        (N, K), a row per row of ``index.parquet``; NaN where there is no label, or none within the crop.
    """
    device = model.device
    codec = model.codec(head)
    loss = usual_loss(codec)
    skeleton = store.manifest.definition.skeleton
    losses = np.full((len(store), skeleton.num_keypoints), np.nan, np.float32)
    crops = EvalCrops(
        store,
        head,
        model.input_size,
        batch_size=settings.batch_size,
        rows=rows,
        conventions=model.conventions[head].on(store.manifest.definition.conventions),
        num_threads=settings.num_threads,
        depth=model.takes_depth,
    )
    for batch in crops:
        (group,) = batch.groups
        depth = None if batch.depth is None else torch.from_numpy(batch.depth).to(device)
        outputs = model.predict(normalise(torch.from_numpy(batch.images).to(device)), head, depth=depth).float()
        points = torch.from_numpy(group.keypoints_crop).to(device)
        targets, weights = codec.encode(points, point_weights(torch.from_numpy(group.state)).to(device))
        values = loss.points(codec, outputs, targets)
        losses[group.rows] = torch.where(weights > 0, values, torch.nan).cpu().numpy()
    return losses


def save_label_losses(folder: str | AnyPath, step: int, losses: NDArray[np.float32], store: ShardStore) -> AnyPath:
    """Writes one pass as ``step_<number>.npz``, whole or not at all; a pass made again replaces the former."""
    buffer = io.BytesIO()
    np.savez(buffer, losses=losses, source=np.array(_source(store)))
    path = as_path(folder) / f"step_{step:09d}.npz"
    write_atomically(path, buffer.getvalue())
    return path


def read_label_losses(folder: str | AnyPath, store: ShardStore) -> NDArray[np.float32]:
    """(E, N, K) losses of all recorded passes in order of training.

    Args:
        folder: of :func:`save_label_losses`.
        store: the split they were recorded of.

    Raises:
        EvaluationError: there is no recording, or it is of another split.
    """
    passes = []
    for path in sorted(
        (path for path in as_path(folder).glob("step_*.npz") if _NAME.fullmatch(path.name)), key=lambda path: path.name
    ):
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            source, losses = str(content["source"]), content["losses"]
        if source != _source(store):
            raise EvaluationError(
                f"{path}: recorded on another state of the labels than {store.location} has; record them again."
            )
        passes.append(losses)
    if not passes:
        raise EvaluationError(f"{folder}: no recorded losses (step_*.npz); train with `label_check` in the run file.")
    return np.stack(passes)


@dataclass(frozen=True, kw_only=True)
class LabelLossRecorder:
    """Records a pass through every split, which the ranks of a training share; rank 0 writes.

    Attributes:
        stores: by head.
        folder: one folder per head is made in it.
        settings: batch size and decoding threads.
    """

    stores: Mapping[str, ShardStore]
    folder: str
    settings: InferenceSettings

    def __call__(self, model: PoseModel, step: int) -> None:
        """Records the losses that the model has after so many steps."""
        for head, store in self.stores.items():
            losses = self._shared(model, store, head)
            if losses is not None:
                save_label_losses(recording_folder(self.folder, head), step, losses, store)

    def _shared(self, model: PoseModel, store: ShardStore, head: str) -> NDArray[np.float32] | None:
        """The losses of all ranks' shares together, on rank 0."""
        rows, size = UsableInstances.of(store).rows.astype(np.int64), self.settings.batch_size
        share = share_of(-(-len(rows) // size))
        own = label_losses(model, store, head, self.settings, rows[share.start * size : share.stop * size])
        for _ in range(share.idle):
            label_losses(model, store, head, self.settings, rows[:size])
        parts = gathered(own)
        return None if parts is None else np.fmax.reduce(parts)  # no label is in two shares


def recording_folder(folder: str | AnyPath, head: str) -> AnyPath:
    """Where a recorder keeps the passes of one head."""
    return as_path(folder) / head


def _source(store: ShardStore) -> str:
    corrections = "" if store.corrections is None else store.corrections.digest
    return f"{store.manifest.digest} {corrections}".strip()
