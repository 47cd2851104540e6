"""How well a masked autoencoder fills in what it cannot see."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posecore.evaluation.shares import Share, gathered, share_of
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.methods.batch import denormalise, to_device
from posecore.methods.masked_autoencoder import MaskedAutoencoder
from posecore.schema import Json
from posecore.shards.manifest import dataset_digests
from posecore.shards.store import open_store
from posecore.viz.reconstruction import Reconstruction

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ReconstructionJudge:
    """Judges a masked autoencoder on ingested splits, cropped without chance, hiding the same patches every time.

    The ranks of a training share the work; rank 0 knows the result.

    Attributes:
        stores: name of the set to the location of its ingested split.
        unlabelled: what was cropped in training; whole bodies or the widest part of whole images are judged.
        num_threads: decoding threads.
    """

    stores: Mapping[str, str]
    unlabelled: UnlabelledConfig
    num_threads: int

    def __call__(self, method: nn.Module, step: int) -> Mapping[str, float]:
        """On rank 0 the mean squared error of hidden patches as ``<set>/masked_error``.

        1 is a guess of every patch's mean colour.
        """
        assert isinstance(method, MaskedAutoencoder), type(method)
        errors: dict[str, float] = {}
        for name in self.stores:
            parts = gathered(self._losses(method, name, share_of(self._num_batches(method, name))))
            if parts is not None:
                errors[f"{name}/masked_error"] = float(np.mean([loss for part in parts for loss in part]))
        return errors

    def decided_by(self) -> dict[str, Json]:
        """See :class:`~posecore.workflows.train_step.Judge`."""
        return {"data": dataset_digests(self.stores), "crops": self.unlabelled.model_dump(mode="json")}

    def error(self, method: MaskedAutoencoder, name: str) -> float:
        """Mean squared error of the hidden patches of one set, found by this process alone."""
        return float(np.mean(self._losses(method, name, Share(0, self._num_batches(method, name), 0))))

    @torch.no_grad()
    def _losses(self, method: MaskedAutoencoder, name: str, share: Share) -> list[float]:
        """Of each of a rank's own batches."""
        device = next(method.parameters()).device
        own = share.stop - share.start
        batches = islice(self._loader(method, name, share.start), own + share.idle)
        return [float(sum(method(to_device(batch, device)).values())) for batch in batches][:own]

    def pictures(self, method: MaskedAutoencoder, name: str, count: int) -> list[Reconstruction]:
        """Crops of one set as they are, as the model sees them, and as it fills them in."""
        device = next(method.parameters()).device
        rows: list[Reconstruction] = []
        for batch in islice(self._loader(method, name), self._num_batches(method, name)):
            on_device = to_device(batch, device)
            seen = method.reconstruct(on_device.images, torch.cat([group.seeds for group in on_device.groups]))
            masked, restored = (_pixels(images) for images in seen)
            rows += zip(batch.images, masked, restored, strict=True)
            if len(rows) >= count:
                break
        return rows[:count]

    def _num_batches(self, method: MaskedAutoencoder, name: str) -> int:
        return self._loader(method, name).sampler.steps_per_epoch

    def _loader(self, method: MaskedAutoencoder, name: str, start: int = 0) -> Loader:
        whole = {"least_area": 1.0, "aspect_distortion": 1.0, "flip_probability": 0.0}
        return Loader(
            {name: open_store(self.stores[name])},
            LoadingConfig(
                mixture=MixtureConfig(entries=(MixtureEntry(name=name),)),
                unlabelled=self.unlabelled.model_copy(update=whole),
                num_threads=self.num_threads,
            ),
            input_size=method.model.input_size,
            seed=0,
            global_batch=_BATCH,
            start_step=start,
        )


def _pixels(images: torch.Tensor) -> NDArray[np.uint8]:
    return denormalise(images).cpu().numpy()
