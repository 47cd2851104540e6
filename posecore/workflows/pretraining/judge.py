"""How well a masked autoencoder fills in what it cannot see."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.methods.batch import denormalise, to_device
from posecore.methods.masked_autoencoder import MaskedAutoencoder
from posecore.schema import CropBatch
from posecore.shards.store import open_store
from posecore.viz.reconstruction import Reconstruction

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ReconstructionJudge:
    """Judges a masked autoencoder on ingested splits, cropped without chance, hiding the same patches every time.

    Every rank judges everything: under ZeRO-3 the ranks hold the weights together and must call them equally often.

    Attributes:
        stores: name of the set to the location of its ingested split.
        unlabelled: what was cropped in training; whole bodies or the widest part of whole images are judged.
        num_threads: decoding threads.
    """

    stores: Mapping[str, str]
    unlabelled: UnlabelledConfig
    num_threads: int

    def __call__(self, method: nn.Module, step: int) -> Mapping[str, float]:
        """Mean squared error of hidden patches as ``<set>/masked_error``; 1 is a guess of every patch's mean colour."""
        assert isinstance(method, MaskedAutoencoder), type(method)
        return {f"{name}/masked_error": self.error(method, name) for name in self.stores}

    @torch.no_grad()
    def error(self, method: MaskedAutoencoder, name: str) -> float:
        """Mean squared error of the hidden patches of one set."""
        device = next(method.parameters()).device
        losses = [float(sum(method(to_device(batch, device)).values())) for batch in self._batches(method, name)]
        return float(np.mean(losses))

    def pictures(self, method: MaskedAutoencoder, name: str, count: int) -> list[Reconstruction]:
        """Crops of one set as they are, as the model sees them, and as it fills them in."""
        device = next(method.parameters()).device
        rows: list[Reconstruction] = []
        for batch in self._batches(method, name):
            on_device = to_device(batch, device)
            seen = method.reconstruct(on_device.images, torch.cat([group.seeds for group in on_device.groups]))
            masked, restored = (_pixels(images) for images in seen)
            rows += zip(batch.images, masked, restored, strict=True)
            if len(rows) >= count:
                break
        return rows[:count]

    def _batches(self, method: MaskedAutoencoder, name: str) -> Iterator[CropBatch]:
        whole = {"least_area": 1.0, "aspect_distortion": 1.0, "flip_probability": 0.0}
        loader = Loader(
            {name: open_store(self.stores[name])},
            LoadingConfig(
                mixture=MixtureConfig(entries=(MixtureEntry(name=name),)),
                unlabelled=self.unlabelled.model_copy(update=whole),
                num_threads=self.num_threads,
            ),
            input_size=method.model.input_size,
            seed=0,
            global_batch=_BATCH,
        )
        return islice(loader, loader.sampler.steps_per_epoch)


def _pixels(images: torch.Tensor) -> NDArray[np.uint8]:
    return denormalise(images).cpu().numpy()
