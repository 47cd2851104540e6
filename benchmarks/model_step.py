"""What does one training step of the network cost, next to transformers, to a dense model and to the matrix products?

``dense`` takes one dense model forward and backward: ours, Hugging Face's of the same size, and the limit, which is
the time that the step's arithmetic takes at the rate of the model's own matrix products measured alone. ``experts``
takes ViTPose++ with six experts on a batch mixed over six datasets: ours, the dense model with six heads, and the
published way, in which every expert and every head runs on every sample. ``methods`` takes the losses of every way to
share across six skeletons on such a batch, in float32 under bfloat16 autocast as they are trained, next to heads alone.

Contenders run in turn, round after round; medians over rounds are printed. On a CPU time is that of the process on one
thread, which other jobs on the machine disturb little; ``--threads`` above 1 takes wall time, and so does a GPU. No
stochastic depth, random images, gradients thrown away.

    python benchmarks/model_step.py dense [--preset vitpose-base] [--batch 4] [--rounds 5] [--device cuda]
    python benchmarks/model_step.py experts [--preset vitpose-base] [--batch 12]
    python benchmarks/model_step.py methods [--preset vitpose-base] [--batch 12]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.sharing import MethodConfig
from posecore.methods.staged import StagedMethod
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import Mlp, VitConfig
from posecore.models.cost import model_cost
from posecore.models.groups import Group
from posecore.models.pose_model import PoseModel, build_model
from posecore.skeletons.library import load_skeleton

SKELETONS = {
    "coco": "coco17",
    "aic": "aic14",
    "mpii": "mpii16",
    "ap10k": "ap10k17",
    "apt36k": "ap10k17",
    "coco_wholebody": "coco_wholebody133",
}
"""The six datasets of ViTPose++, in its order."""


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: what it is.
        step: runs it once.
        seconds: turns the measured time into that of a training step.
    """

    name: str
    step: Callable[[], object]
    seconds: Callable[[float], float] = lambda measured: measured


@dataclass(frozen=True)
class Bench:
    """Where and how long things run.

    Attributes:
        device: of the models.
        batch: crops per step.
        rounds: how often every contender runs, after one round to warm up.
        threads: of a CPU.
    """

    device: torch.device
    batch: int
    rounds: int
    threads: int

    def run(self, title: str, contenders: Sequence[Contender], flops: float) -> None:
        """Measures in turn and prints medians; the first contender is ours."""
        measured: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for round_ in range(self.rounds + 1):
            for contender in contenders:
                began = self._now()
                contender.step()
                taken = contender.seconds(self._now() - began)
                if round_:
                    measured[contender.name].append(taken)
        ours = measured[contenders[0].name]
        print(f"\n{title}\n{'':34}{'ms/crop':>10}{'TFLOP/s':>10}{'ours takes':>12}   rounds")
        for name, times in measured.items():
            shares = sorted(mine / other for mine, other in zip(ours, times, strict=True))
            median = statistics.median(times)
            print(
                f"{name:34}{median / self.batch * 1e3:10.1f}{flops * self.batch / median / 1e12:10.3f}"
                f"{statistics.median(shares):11.2f}x   {shares[0]:.2f} – {shares[-1]:.2f}",
                flush=True,
            )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.device.type == "cpu" and self.threads == 1 else time.perf_counter()

    def images(self, size: tuple[int, int]) -> Tensor:
        """Random bfloat16 crops."""
        return torch.randn(self.batch, 3, *size, device=self.device, dtype=torch.bfloat16)


def architecture(preset: str, expert_share: float = 0.0) -> ModelConfig:
    """A preset without stochastic depth."""
    backbone = {"preset": preset, "drop_path": 0.0, "expert_share": expert_share}
    return ModelConfig.model_validate({"backbone": backbone})


def pose_model(config: ModelConfig, datasets: Sequence[str], device: torch.device) -> PoseModel:
    """A fresh model with bfloat16 weights, in training mode."""
    skeletons = {dataset: load_skeleton(SKELETONS[dataset]) for dataset in datasets}
    with device:
        return build_model(config, skeletons).to(torch.bfloat16).train()


def train_step(model: nn.Module, heatmaps: Callable[[], Sequence[Tensor]]) -> None:
    """Forward and backward; gradients are dropped."""
    sum(maps.float().square().mean() for maps in heatmaps()).backward()
    for parameter in model.parameters():
        parameter.grad = None


def matrix_products(config: ModelConfig, bench: Bench) -> tuple[Callable[[], None], float]:
    """The four layers of one block on the batch's tokens, and their arithmetic in FLOPs."""
    backbone = config.backbone
    assert isinstance(backbone, VitConfig)
    rows, width = bench.batch * config.feature_size[0] * config.feature_size[1], backbone.embed_dim
    shapes = [(width, 3 * width), (width, width), (width, backbone.hidden_dim), (backbone.hidden_dim, width)]
    options = {"device": bench.device, "dtype": torch.bfloat16}
    pairs = [(torch.randn(rows, k, **options), torch.randn(n, k, **options)) for k, n in shapes]

    def multiply() -> None:
        for _ in range(3):
            for x, weight in pairs:
                nn.functional.linear(x, weight)

    return multiply, 3 * sum(2.0 * rows * k * n for k, n in shapes)


def compare_dense(preset: str, bench: Bench) -> None:
    """Ours, Hugging Face's and the limit."""
    config = architecture(preset)
    flops = 3 * model_cost(config, {"coco": 17}).flops
    images = bench.images(config.input_size)
    ours = pose_model(config, ["coco"], bench.device)
    multiply, products = matrix_products(config, bench)
    group: list[Group] = [("coco", 0, bench.batch)]
    contenders = [Contender("posecore", lambda: train_step(ours, lambda: [ours(images, group)["coco"]]))]
    if config.head.kind == "classic":
        theirs = hugging_face(config, bench.device)
        contenders.append(
            Contender("peer: transformers", lambda: train_step(theirs, lambda: [theirs(images).heatmaps]))
        )
        autocast = hugging_face(config, bench.device).float()

        def cast_as_it_goes() -> None:
            with torch.autocast(bench.device.type, torch.bfloat16):
                heatmaps = autocast(images.float()).heatmaps
            train_step(autocast, lambda: [heatmaps])

        contenders.append(Contender("peer: transformers, autocast", cast_as_it_goes))
    contenders.append(
        Contender("limit: the products' own rate", multiply, lambda t: t * flops * bench.batch / products)
    )
    bench.run(f"{preset}, forward and backward, bfloat16, {bench.batch} crops", contenders, flops)


def hugging_face(config: ModelConfig, device: torch.device) -> nn.Module:
    """``VitPoseForPoseEstimation`` of the same size, bfloat16, in training mode."""
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    vit = config.backbone
    assert isinstance(vit, VitConfig)
    backbone = VitPoseBackboneConfig(
        image_size=list(config.input_size),
        patch_size=[vit.patch_size] * 2,
        hidden_size=vit.embed_dim,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.num_heads,
        mlp_ratio=int(vit.mlp_ratio),
        num_experts=1,
        part_features=0,
        layer_norm_eps=vit.layer_norm_eps,
        out_indices=[vit.depth],
    )
    with device:
        model = VitPoseForPoseEstimation(
            VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)
        )
    return model.to(torch.bfloat16).train()


class EveryExpertOnEverySample(nn.Module):
    """The feed-forward part as published: each expert on all rows, masked and summed.

    Restated from ViTAE-Transformer/ViTPose @ c050ed2, ``mmpose/models/backbones/vit_moe.py``.
    """

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x_BTD: Tensor, groups: Sequence[Group]) -> Tensor:
        """As :meth:`posecore.models.backbones.vit.Mlp.forward`."""
        hidden = nn.functional.gelu(self.mlp.fc1(x_BTD))
        own: Tensor | int = 0
        for task, start, stop in groups:
            rows = torch.arange(len(x_BTD), device=x_BTD.device)
            mask = ((rows >= start) & (rows < stop)).view(-1, 1, 1)
            own = own + self.mlp.experts[task](hidden) * mask
        assert isinstance(own, Tensor)
        return torch.cat([self.mlp.fc2(hidden), own], dim=-1)


def mixed_rows(batch: int) -> list[Group]:
    """Equally many rows of each of the six datasets."""
    size, rest = divmod(batch, len(SKELETONS))
    if rest:
        raise SystemExit(f"--batch {batch} is not a multiple of {len(SKELETONS)} datasets.")
    return [(name, size * i, size * (i + 1)) for i, name in enumerate(SKELETONS)]


def compare_experts(preset: str, bench: Bench) -> None:
    """Ours, dense, and the published way."""
    datasets = list(SKELETONS)
    groups = mixed_rows(bench.batch)
    config = architecture(preset, expert_share=0.25)
    images = bench.images(config.input_size)
    ours = pose_model(config, datasets, bench.device)
    dense = pose_model(architecture(preset), datasets, bench.device)
    published = pose_model(config, datasets, bench.device)
    for block in published.backbone.blocks:
        block.mlp = EveryExpertOnEverySample(block.mlp)
    contenders = [
        Contender("posecore, six experts", lambda: train_step(ours, lambda: list(ours(images, groups).values()))),
        Contender("dense, six heads", lambda: train_step(dense, lambda: list(dense(images, groups).values()))),
        Contender(
            "peer: published, all on all",
            lambda: train_step(published, lambda: list(published(images, groups, "mixed").values())),
        ),
    ]
    cost = model_cost(config, {name: load_skeleton(SKELETONS[name]).num_keypoints for name in datasets})
    bench.run(
        f"{preset} with six experts, forward and backward, bfloat16, {bench.batch} crops of six datasets",
        contenders,
        3 * cost.flops,
    )


def compare_methods(preset: str, bench: Bench) -> None:
    """The losses of every method, forward and backward; the rate counts the arithmetic of heads alone."""
    alone = {"heads_from": 0.0, "backbone_from": 0.0, "prototypes_until": 1.0, "self_supervision_from": 1.0}
    methods: dict[str, object] = {
        "heads": "heads",
        "experts": "experts",
        "prototypes, no self-supervision": {"kind": "prototypes", "weights": "balanced", "stages": alone},
        "prototypes": {"kind": "prototypes", "weights": "balanced", "stages": alone | {"self_supervision_from": 0.0}},
    }
    config = architecture(preset)
    skeletons = {dataset: load_skeleton(name) for dataset, name in SKELETONS.items()}
    batch = labelled_batch(config, bench)
    contenders = []
    for name, values in methods.items():
        method_config = TypeAdapter(MethodConfig).validate_python(values)
        with bench.device:
            method = method_config.build(build_model(method_config.architecture(config), skeletons)).train()
        if isinstance(method, StagedMethod):
            method.begin_step(0, 1)

        def step(method: nn.Module = method) -> None:
            with torch.autocast(bench.device.type, torch.bfloat16):
                terms = method(batch)
            sum(terms.values()).backward()
            for parameter in method.parameters():
                parameter.grad = None

        contenders.append(Contender(name, step))
    cost = model_cost(config, {name: skeleton.num_keypoints for name, skeleton in skeletons.items()})
    bench.run(f"{preset}, six skeletons, {bench.batch} crops", contenders, 3 * cost.flops)


def labelled_batch(config: ModelConfig, bench: Bench) -> DeviceBatch:
    """Random crops of six datasets with every point labelled somewhere."""
    height, width = config.input_size
    groups = []
    for dataset, start, stop in mixed_rows(bench.batch):
        shape = (stop - start, load_skeleton(SKELETONS[dataset]).num_keypoints)
        places = torch.rand(*shape, 2, device=bench.device) * torch.tensor([width, height], device=bench.device)
        groups.append(
            DeviceGroup(
                dataset=dataset,
                start=start,
                stop=stop,
                keypoints_crop=places,
                weights=torch.ones(shape, device=bench.device),
                scale=torch.tensor([[float(width), float(height)]], device=bench.device).expand(stop - start, 2),
                seeds=torch.arange(start, stop, device=bench.device),
            )
        )
    return DeviceBatch(images=bench.images(config.input_size).float(), groups=tuple(groups))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("question", choices=["dense", "experts", "methods"])
    parser.add_argument("--preset", default="vitpose-base")
    parser.add_argument("--batch", type=int, help="crops per step; 4, 12 and 12 by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = options.batch or {"dense": 4, "experts": 12, "methods": 12}[options.question]
    bench = Bench(torch.device(options.device), batch, options.rounds, options.threads)
    compare = {"dense": compare_dense, "experts": compare_experts, "methods": compare_methods}[options.question]
    compare(options.preset, bench)


if __name__ == "__main__":
    main()
