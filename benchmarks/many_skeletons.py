"""Does sharing across skeletons help? Six synthetic sets of very unequal size, one small backbone, equal steps.

    python -m benchmarks.many_skeletons --out results/many_skeletons --seeds 0 1 2

Every run is one line of ``results.jsonl`` and is not repeated when the command is given again; two processes may share
the folder with different ``--seeds``. The tables are printed at the end, or alone with ``--steps 0``. ``--pull`` prints
how hard each kind of loss term pulls at a fresh backbone.

Arms: ``single`` trains one model per set; ``heads``, ``experts`` and ``prototypes`` one model on all six, the last also
without cross-type self-supervision (``prototypes-alone``). ``<method>@large`` knows the three large sets only;
``<method>+new`` goes on from it with the three small ones added, their parts fresh, ``<method>+warm`` with their parts
copied by union names. What both lose of the large sets against ``<method>@large`` is forgetting.

Arms that look for reasons: ``prototypes-light`` takes the weights called balanced, a hundredth for heatmaps and a tenth
for contrast; ``heads-even`` draws equally often from every set; ``single-share`` trains a small set alone on as many
crops as the mixture draws from it; ``heads>heads`` and ``heads>prototypes`` go on from ``heads`` for two fifths of the
steps, the latter by the published stages. With prototypes, models are also judged by these alone and by the average of
both paths.

With ``--net larger`` the net has 5.1 M parameters and crops of 128×96. ``--sets`` takes some of the six. ``--start``
names a trained model with which all begin that would begin afresh.
"""

import argparse
import resource
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.rendered import LYING, NETS, Net
from benchmarks.repeated import Results, spread, trained
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.samples import UsableInstances
from posecore.methods.batch import to_device
from posecore.methods.sharing import MethodConfig
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import HeatmapPath, model_for
from posecore.models.warm_start import WarmStartConfig
from posecore.models.weights.initial import WeightsConfig
from posecore.shards.store import open_store
from posecore.synth.writers import write_dataset
from posecore.training.loop import TrainingConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker

PICTURES = {"coco": 2400, "mpii": 2800, "coco_wholebody": 1200, "ap10k": 310, "syrip": 200, "crowdpose": 120}
"""Training pictures; roughly 4000, 4000, 2000, 400, 200 and 200 labelled bodies."""
LARGE, SMALL = ("coco", "mpii", "coco_wholebody"), ("ap10k", "syrip", "crowdpose")
NUM_VAL = 150
METRIC = {name: "AP" for name in PICTURES} | {"mpii": "PCKh", "coco_wholebody": "body/AP"}
AUGMENT = {"half_body_probability": 0, "scale_factor": 0.15, "rotation_probability": 0.5, "rotation_degrees": 20}
PROTOTYPES = {
    "kind": "prototypes",
    "embedding": {"channels": 32, "dim": 32},
    "stages": "joint",
    "weights": {"contrast": 1e-3, "distance": 1e-4, "heatmap": 0.1, "self_supervision": 0.1},
    "momentum": 0.99,
}
METHODS: dict[str, Any] = {
    "heads": "heads",
    "experts": "experts",
    "prototypes": PROTOTYPES,
}
ALONE = PROTOTYPES | {
    "stages": {"heads_from": 0, "backbone_from": 0, "prototypes_until": 1, "self_supervision_from": 1}
}
LIGHT = PROTOTYPES | {"weights": "balanced"}
ON_TRAINED = PROTOTYPES | {"stages": "published"}
ALL_PARTS = WarmStartConfig()
FRESH_PARTS = WarmStartConfig(experts=False, points=False, prototypes=False)

Run = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Setup:
    """What all runs have in common.

    Attributes:
        stores: split and set to the location of the shards.
        net: the net.
        steps: of a run.
        batch: crops per step.
        start: a trained model that runs begin with which would begin afresh; None for none.
    """

    stores: Mapping[str, Mapping[str, str]]
    net: Net
    steps: int
    batch: int
    start: str | None = None


def prepare(out: Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Renders and ingests sets; split and set to the location of the shards."""
    locations: dict[str, dict[str, str]] = {"train": {}, "val": {}}
    for name in names:
        root = write_dataset(name, out / "data" / name, PICTURES[name], NUM_VAL, (192, 192))
        definition = load_dataset(name)
        for split in locations:
            job = ingest_job(definition, split, root, out / "shards", IngestSettings())
            ingest(job, read_split(definition, split, root))
            locations[split][name] = str(job.folder)
    return locations


def arms(results: Results, setup: Setup, seed: int) -> Iterator[tuple[str, Run]]:
    """Name and function of every run of one seed, parents before their children."""
    every, more = tuple(setup.stores["train"]), setup.steps * 2 // 5

    def run(names: Sequence[str], method: Any, steps: int = setup.steps, **more: Any) -> Run:
        return lambda folder: train_and_judge(folder, setup, names, method, seed, steps, **more)

    def going_on_from(arm: str, take: WarmStartConfig = ALL_PARTS) -> WeightsConfig:
        return WeightsConfig(source=str(results.folder(arm, seed) / "model"), take=take)

    for method, config in METHODS.items():
        yield method, run(every, config)
    yield "prototypes-alone", run(every, ALONE)
    for name in every:
        yield f"single:{name}", run((name,), "heads")
    yield "prototypes-light", run(every, LIGHT)
    yield "heads-even", run(every, "heads", even=True)
    shares = {name: len(UsableInstances.of(open_store(store)).rows) for name, store in setup.stores["train"].items()}
    for name in set(SMALL) & set(every):
        yield f"single-share:{name}", run((name,), "heads", round(setup.steps * shares[name] / sum(shares.values())))
    yield "heads>heads", run(every, "heads", more, weights=going_on_from("heads"))
    yield "heads>prototypes", run(every, ON_TRAINED, more, weights=going_on_from("heads"))
    for method, config in METHODS.items():
        yield f"{method}@large", run([name for name in LARGE if name in every], config)
        for suffix, take in (("new", FRESH_PARTS), ("warm", ALL_PARTS)):
            yield f"{method}+{suffix}", run(every, config, more, weights=going_on_from(f"{method}@large", take))


def train_and_judge(
    folder: Path,
    setup: Setup,
    names: Sequence[str],
    method: Any,
    seed: int,
    steps: int,
    weights: WeightsConfig | None = None,
    even: bool = False,
) -> dict[str, Any]:
    """Trains one model and judges it on every set it was trained on."""
    entries: list[dict[str, Any]] = [
        {"name": name, "augment": LYING if name == "syrip" else AUGMENT, "weight": 1.0 if even else None}
        for name in names
    ]
    mixture = {"entries": entries, "sampling": "explicit" if even else "natural"}
    loading = {"mixture": mixture, "num_threads": 1}
    training = {
        "steps": steps,
        "global_batch": setup.batch,
        "seed": seed,
        "optimizer": {"lr": setup.net.rate, "weight_decay": 0.05, "layer_decay": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": min(50, steps // 4)},
        "engine": {"kind": "torch", "precision": "bf16"},
        "checkpoint_every": steps,
    }
    worker = MultiDatasetWorker(
        model=parse_config(setup.net.model, ModelConfig, "model"),
        training=parse_config(training, TrainingConfig, "training"),
        loading=parse_config(loading, LoadingConfig, "loading"),
        stores={name: setup.stores["train"][name] for name in names},
        method=TypeAdapter(MethodConfig).validate_python(method),
        weights=weights or (None if setup.start is None else WeightsConfig(source=setup.start)),
    )
    model, seconds = trained(worker, folder)
    paths: tuple[HeatmapPath, ...] = ("regression",)
    if model.config.embedding is not None:
        paths = ("regression", "prototypes", "average")
    judged = {}
    for path in paths:
        settings = InferenceSettings(num_threads=1, flip_test=False, path=path)
        judged[path] = {
            name: evaluate_store(model, open_store(setup.stores["val"][name]), settings, head=name) for name in names
        }
    return {
        "metrics": judged.pop("regression"),
        "other_paths": judged,
        "step_s": seconds / steps,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def show_pull(stores: Mapping[str, str], net: Net, batch: int) -> None:
    """How hard each kind of loss term pulls at a fresh backbone in the first step: norms of gradients.

    Args:
        stores: name of each set to the location of its training shards.
        net: the net.
        batch: crops.
    """
    opened = {name: open_store(location) for name, location in stores.items()}
    entries = [{"name": name, "augment": LYING if name == "syrip" else AUGMENT} for name in opened]
    loading = parse_config({"mixture": {"entries": entries}, "num_threads": 1}, LoadingConfig, "loading")
    definitions = {name: store.manifest.definition for name, store in opened.items()}
    table = Table(
        title="first step from fresh weights: value of each kind of term, norm of its gradient at the backbone"
    )
    for column in ("weights", "term", "value", "gradient"):
        table.add_column(column)
    for title, config in (
        ("the arms'", PROTOTYPES),
        ("balanced", LIGHT),
        ("published", PROTOTYPES | {"weights": "published"}),
    ):
        torch.manual_seed(0)
        method_config = TypeAdapter(MethodConfig).validate_python(config)
        model = model_for(method_config.architecture(parse_config(net.model, ModelConfig, "model")), definitions)
        method = method_config.build(model).train()
        loader = Loader(
            opened, loading, input_size=model.input_size, seed=0, global_batch=batch, conventions=model.conventions
        )
        terms = method(to_device(next(iter(loader)), torch.device("cpu")))
        kinds: dict[str, list[Tensor]] = defaultdict(list)
        for name, term in terms.items():
            kinds[name.partition("/")[0]].append(term)
        for kind, of_kind in kinds.items():
            total = torch.stack(of_kind).sum()
            used = torch.autograd.grad(total, list(model.backbone.parameters()), retain_graph=True, allow_unused=True)
            norm = torch.cat(
                [gradient.flatten() for gradient in used if gradient is not None] or [torch.zeros(1)]
            ).norm()
            table.add_row(title, kind, f"{total.item():.1e}", f"{norm.item():.1e}")
    Console(width=120).print(table)


def show(results: Results) -> None:
    """Mean ± standard deviation over the seeds, one row per arm."""
    known = {name for row in results.rows() for name in row["metrics"]}
    table = Table(title="synthetic sets: primary metric in percent")
    for column in ("arm", "seeds", *PICTURES, "small sets", "step s"):
        table.add_column(column)
    by_arm: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    step_s: dict[str, list[float]] = defaultdict(list)
    for row in results.rows():
        arm = row["arm"].partition(":")[0]
        judged = {arm: row["metrics"]} | {f"{arm}, {path}": by for path, by in row.get("other_paths", {}).items()}
        for label, by_name in judged.items():
            step_s[label].append(row["step_s"])
            for name, metrics in by_name.items():
                value = metrics[METRIC[name]]
                by_arm[label][row["seed"]][name] = value if METRIC[name] == "PCKh" else 100 * value
    for arm, by_seed in by_arm.items():
        cells = [spread([by_seed[seed][name] for seed in by_seed if name in by_seed[seed]]) for name in PICTURES]
        whole = [values for values in by_seed.values() if known & set(SMALL) <= set(values)]
        small = spread([mean(values[name] for name in known & set(SMALL)) for values in whole])
        table.add_row(arm, str(len(by_seed)), *cells, small, f"{mean(step_s[arm]):.3f}")
    Console(width=160).print(table)


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="of every run; 0 prints what is there")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--net", choices=[*NETS], default="micro")
    parser.add_argument("--sets", nargs="+", choices=[*PICTURES], default=[*PICTURES])
    parser.add_argument("--start", help="a trained model to begin with; default: fresh weights")
    parser.add_argument("--arms", nargs="*", help="default: all")
    parser.add_argument("--pull", action="store_true", help="print how hard the loss terms pull at first, and end")
    options = parser.parse_args()
    results = Results(options.out)
    if options.pull:
        show_pull(prepare(options.out, options.sets)["train"], NETS[options.net], options.batch)
        return
    if options.steps:
        torch.set_num_threads(1)
        stores = prepare(options.out, options.sets)
        setup = Setup(stores, NETS[options.net], options.steps, options.batch, options.start)
        for seed in options.seeds:
            for arm, run in arms(results, setup, seed):
                if options.arms is None or arm.partition(":")[0] in options.arms:
                    results.once(arm, seed, run)
    show(results)


if __name__ == "__main__":
    main()
