#!/usr/bin/env python
"""What weights of a pose prior amount to, on a small real model that learns rendered infants.

The label loss and the prior pull at the same head; the table says how hard the prior pulls for every unit of the label
loss, for the published weight and for ours, while the model learns. Also: how many correct infant labels the
proportions of infants and of adults call odd.

    python benchmarks/pose_prior.py --steps 300
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.labels.bodies import LabelledBodies
from posecore.labels.plausibility import BodyScorer, learn_from_labels
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.methods.batch import DeviceBatch, to_device
from posecore.methods.expectation import expected_points
from posecore.methods.pose_manifold import ManifoldTraining, learn_manifold, save_manifold
from posecore.methods.pose_prior import PosePriorConfig, gradient_ratio
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, model_for
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset

PUBLISHED_WEIGHT = 1e-6
PUBLISHED_SHARPNESS = 500.0
CPU = torch.device("cpu")


def rendered(folder: Path, name: str, count: int) -> ShardStore:
    definition = load_dataset(name)
    root = write_dataset(name, folder / name, count, 0, (128, 128))
    job = ingest_job(definition, "train", root, folder / "shards", IngestSettings())
    ingest(job, read_split(definition, "train", root))
    return open_store(folder / "shards" / name / "train")


def published_ratio(method: SupervisedHeads, batch: DeviceBatch, sharp: bool) -> float:
    """SHIFT's objective: half the mean squared error plus 1e-6 times the mean energy of the bodies.

    Args:
        method: with a prior.
        batch: of one dataset.
        sharp: soft arg-max with its 500, else our expectation.
    """
    (group,) = batch.groups
    outputs = method.model(batch.images, batch.rows)[group.dataset]
    codec = method.codecs[group.dataset]
    points, confidence = expected_points(codec, outputs, group.scale)
    if sharp:
        points = soft_argmax(outputs) * (points.detach().abs().mean() / soft_argmax(outputs).detach().mean())
    prior = PUBLISHED_WEIGHT * method.prior.energies[group.dataset](points, confidence).mean()
    targets, weights = codec.encode(group.keypoints_crop, group.weights)
    label = 0.5 * ((outputs - targets) * weights[:, :, None, None]).square().mean()
    parameters = list(method.model.heads[group.dataset].parameters())
    norms = [
        torch.stack([g.square().sum() for g in torch.autograd.grad(term, parameters, retain_graph=True)]).sum().sqrt()
        for term in (prior, label)
    ]
    return float(norms[0] / norms[1])


def soft_argmax(maps: Tensor) -> Tensor:
    weights = (PUBLISHED_SHARPNESS * maps.flatten(2)).softmax(-1).unflatten(2, maps.shape[2:])
    rows, columns = (torch.arange(size, dtype=maps.dtype) for size in maps.shape[2:])
    return torch.stack([(weights.sum(2) * columns).sum(-1), (weights.sum(3) * rows).sum(-1)], dim=-1)


def small_model(store: ShardStore) -> PoseModel:
    torch.manual_seed(0)
    architecture = {"backbone": {"preset": "vit-micro"}, "head": {"kind": "classic", "channels": 32}}
    config = ModelConfig.model_validate({**architecture, "input_size": (64, 64)})
    definition = store.manifest.definition
    return model_for(config, {"syrip": definition})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        infants, adults = rendered(folder, "syrip", options.pictures), rendered(folder, "coco", options.pictures)
        skeleton = infants.manifest.definition.skeleton
        bodies = {"infants": LabelledBodies.from_store(infants), "adults": LabelledBodies.from_store(adults)}
        learned, files = {}, {}
        for who, of in bodies.items():
            half = slice(0, len(of) // 2)
            learned[who] = learn_from_labels(of.keypoints[half], of.labelled[half], skeleton, dataset=who)
            files[who] = learned[who].save(folder / f"{who}.json")
        rest = slice(len(bodies["infants"]) // 2, None)
        truth, known = bodies["infants"].keypoints[rest], bodies["infants"].labelled[rest]
        print(f"correct labels of {len(truth)} other infants\n")
        print("| proportions of | penalty of a bone, nats | bodies with plausibility < 0.05 | labels above 1.5 nats |")
        print("|---|---|---|---|")
        for who, statistics in learned.items():
            scorer = BodyScorer(statistics, skeleton)
            energies = scorer.point_energies(truth, known)
            odd = np.nanmean(scorer.plausibility(truth, known) < 0.05)
            flagged = np.nanmean(energies[~np.isnan(energies)] > 1.5)
            print(f"| {who} | {np.nanmean(scorer.penalties(truth, known).bones):.2f} | {odd:.1%} | {flagged:.1%} |")
        manifold = learn_manifold(
            bodies["infants"].keypoints, bodies["infants"].labelled, skeleton, ManifoldTraining(steps=200)
        )
        files["manifold"] = save_manifold(
            folder / "m.safetensors", manifold, dataset="infants", digest="", num_bodies=0
        )
        measure(infants, files, options.steps)


def measure(store: ShardStore, files: dict[str, Path], steps: int) -> None:
    model = small_model(store)
    methods = {
        name: SupervisedHeads(model, SupervisedConfig(prior=PosePriorConfig(source=str(path))))
        for name, path in files.items()
        if name != "adults"
    }
    plain = SupervisedHeads(model)
    loading = LoadingConfig(
        mixture=MixtureConfig(entries=(MixtureEntry(name="syrip"),)), augment=AugmentConfig(half_body_probability=0)
    )
    loader = Loader(
        {"syrip": store}, loading, input_size=(64, 64), seed=0, global_batch=32, conventions=model.conventions
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    print("\ngradient at the head: norm of the prior's over norm of the labels'\n")
    columns = [f"{name}, {what}" for name in methods for what in ("1e-6, arg-max 500", "1e-6", "ours")]
    print(f"| steps | label loss | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    iterator = iter(loader)
    for step, crops in enumerate(islice(iterator, steps + 1)):
        batch = to_device(crops, CPU)
        if step in (steps // 10, steps // 3, steps):
            loss = plain(batch)["loss/syrip"].item()
            cells = []
            for method in methods.values():
                cells += [published_ratio(method, batch, sharp=True), published_ratio(method, batch, sharp=False)]
                cells.append(gradient_ratio(method, batch, "syrip"))
            print(f"| {step} | {loss:.5f} | {' | '.join(f'{cell:.2g}' for cell in cells)} |", flush=True)
        optimizer.zero_grad()
        plain(batch)["loss/syrip"].backward()
        optimizer.step()
    iterator.close()


if __name__ == "__main__":
    main()
