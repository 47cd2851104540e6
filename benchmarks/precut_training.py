"""Does a model that learns from pictures cut beforehand judge as well as one that learns from the images themselves?

Renders bodies as a COCO download, trains a small model on the very same crops in the same order, once cut from the
images and once from pictures of the bodies that were cut beforehand at the scale of training, and judges both on crops
of the images themselves. So few images are learned by heart, which is all that so few steps can do; asked is whether a
model that never saw the images' own pixels knows the bodies there as well. Prints the average precision for several
seeds, and how far the crops of the first steps differ.

    python benchmarks/precut_training.py [--steps 500] [--seeds 5]
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.precut import PrecutSettings, write_precut
from posecore.methods.batch import to_device
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, model_for
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset

NAME, INPUT_SIZE, BATCH = "coco", (64, 64), 16
AUGMENT = {"half_body_probability": 0, "rotation_probability": 0.2, "scale_factor": 0.25}


def rendered(folder: Path, count: int, seed: int) -> ShardStore:
    """A split of rendered images of 256 pixels."""
    definition = load_dataset(NAME)
    root = write_dataset(NAME, folder / f"raw-{seed}", count, seed, (256, 256))
    job = ingest_job(definition, "train", root, folder / f"shards-{seed}", IngestSettings())
    ingest(job, read_split(definition, "train", root))
    return open_store(job.folder)


def loader_of(store: ShardStore, pictures: str, seed: int) -> Loader:
    """Of the training crops."""
    values = {"mixture": {"entries": [{"name": NAME}]}, "pictures": pictures, "augment": AUGMENT}
    config = parse_config(values, LoadingConfig, "benchmark")
    return Loader({NAME: store}, config, input_size=INPUT_SIZE, seed=seed, global_batch=BATCH)


def trained(store: ShardStore, pictures: str, steps: int, seed: int) -> PoseModel:
    """A small model after so many steps."""
    torch.manual_seed(seed)
    architecture = {"backbone": {"preset": "vit-micro"}, "head": {"kind": "classic", "channels": 32}}
    config = ModelConfig.model_validate({**architecture, "input_size": INPUT_SIZE})
    model = model_for(config, {NAME: store.manifest.definition})
    method = SupervisedHeads(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    iterator = iter(loader_of(store, pictures, seed))
    for crops in islice(iterator, steps):
        optimizer.zero_grad()
        method(to_device(crops, torch.device("cpu")))[f"loss/{NAME}"].backward()
        optimizer.step()
    iterator.close()
    return model


def differing(store: ShardStore) -> float:
    """Mean absolute difference of the crops' pixels, of 255."""
    both = [islice(loader_of(store, pictures, 0), 4) for pictures in ("whole", "precut")]
    pairs = zip(*both, strict=True)
    return float(np.mean([np.abs(one.images.astype(int) - other.images).mean() for one, other in pairs]))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        store = rendered(Path(name), options.pictures, 0)
        assert isinstance(store.location, Path)
        write_precut(store.location, PrecutSettings(input_size=INPUT_SIZE).terms(store))
        share = (store.precut.sizes.prod(axis=1) / 256**2).mean()
        print(f"pictures of {share:.0%} of an image's pixels; crops differ by {differing(store):.2f} of 255\n")
        print(f"{'seed':6}{'whole':>10}{'precut':>10}{'difference':>12}")
        for seed in range(options.seeds):
            found = []
            for pictures in ("whole", "precut"):
                model = trained(store, pictures, options.steps, seed)
                found.append(evaluate_store(model, store, InferenceSettings(num_threads=1))["AP"])
            print(f"{seed:<6}{found[0]:10.3f}{found[1]:10.3f}{found[1] - found[0]:+12.3f}", flush=True)


if __name__ == "__main__":
    main()
