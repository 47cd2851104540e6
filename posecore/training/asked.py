"""Models that a method asks and does not train, where weights are sharded: read by range, each rank its part."""

import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.finite import refuse_nonfinite
from posecore.models.pose_model import PoseModel
from posecore.models.saving import WEIGHTS_FILE, refuse_other_architecture, weights_digest
from posecore.models.sharded import Run, shape_of, weight_run
from posecore.models.sources import ModelFolder, other_file
from posecore.models.tensor_file import DTYPES
from posecore.storage import as_path
from posecore.training.checkpoint import tensors_in
from posecore.training.checkpoint_files import OldFileEntry, TensorEntry, VerifiedFile


@torch.no_grad()
def fill(model: PoseModel, source: ModelFolder) -> None:
    """Reads what this rank keeps of a model's weights from its folder, whose file is hashed before, a block at a time.

    Args:
        model: sharded or not; its tensors have memory. What the file holds beside them is left out.
        source: the folder.

    Raises:
        CheckpointError: there is no whole model in the folder, it is of another architecture, or not finite.
        IntegrityError: the weights are not those that were saved, or not the stated ones.
    """
    path, digest = as_path(source.source) / WEIGHTS_FILE, weights_digest(source.source)
    if source.sha256 not in (None, digest):
        raise other_file(source.source, digest, str(source.sha256))
    if not path.is_file():
        raise CheckpointError(f"{source.source} holds no whole model: {WEIGHTS_FILE} is missing.")
    file = VerifiedFile(path, OldFileEntry(num_bytes=path.stat().st_size, sha256=digest))
    entries = tensors_in(file)
    shapes = {name: shape_of(parameter) for name, parameter in model.named_parameters()}
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    shapes |= {name: tuple(buffer.shape) for name, buffer in buffers.items()}
    found = {name: entry.shape for name, entry in entries.items() if name in shapes}
    refuse_other_architecture(shapes, found, origin=str(path))
    for name, parameter in model.named_parameters():
        run = weight_run(parameter)
        if run is not None:
            _read(file, entries[name], run, name)
    for name, buffer in buffers.items():
        _read(file, entries[name], Run(0, buffer.view(-1)), name)
    file.close()


def _read(file: VerifiedFile, entry: TensorEntry, run: Run, name: str) -> None:
    dtype = DTYPES[entry.dtype]
    staged: Tensor = torch.empty(len(run.values), dtype=dtype)
    file.read_into(entry.offset + run.start * dtype.itemsize, staged.view(torch.uint8).numpy().data)
    refuse_nonfinite({name: staged}, str(file.path), "the training that wrote it went wrong; use another.")
    run.values.copy_(staged)
