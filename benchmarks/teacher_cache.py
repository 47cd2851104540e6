"""What does reading a teacher's stored answers save in a training step, and what do they cost on disk and to make?

Renders people once and ingests them, stores the answers of a fresh teacher to all crops and their mirror images, and
then trains the student for a few steps in three ways: with labels alone, with the teacher asked in every step, and with
its stored answers read. Steps include making the batch. The ways run in turn, round after round; medians over rounds,
and for the ratios median and range of each round's own. Time is that of the process on one thread, which other jobs on
the machine disturb little. Weights are random: what they say does not matter here.

    python benchmarks/teacher_cache.py --folder /tmp/teacher_cache [--teacher rtmpose-m --student rtmpose-t --rounds 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import mirrored_only
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.loading.training_crops import crop_terms
from posecore.methods.batch import to_device
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.supervised import SupervisedHeads
from posecore.methods.teacher_cache import AnswerJob, store_answers
from posecore.models.architecture import ModelConfig
from posecore.models.cost import model_cost
from posecore.models.pose_model import PoseModel, model_for
from posecore.models.saving import save_model
from posecore.models.sources import ModelFolder
from posecore.schema import CropBatch
from posecore.shards.answers import AnswerManifest, AnswerStore, AnswerTerms
from posecore.shards.store import ShardStore, open_store
from posecore.synth.writers import write_dataset

NAME = "coco"
CPU = torch.device("cpu")
FLIPS = mirrored_only(0.5)


def split(folder: Path, images: int) -> ShardStore:
    """Rendered people, ingested once."""
    root = folder / f"data_{images}"
    if not root.exists():
        write_dataset(NAME, root, images, 1, (256, 256), seed=0)
    definition = load_dataset(NAME)
    ingest(
        ingest_job(definition, "train", root, folder / root.name, IngestSettings()),
        read_split(definition, "train", root),
    )
    return open_store(folder / root.name / NAME / "train")


def model(preset: str, store: ShardStore) -> PoseModel:
    definition = store.manifest.definition
    config = ModelConfig.model_validate({"backbone": preset, "input_size": (256, 192)})
    torch.manual_seed(0)
    return model_for(config, {NAME: definition}).eval()


def stored(folder: Path, store: ShardStore, student: PoseModel, config: DistillationConfig) -> AnswerManifest:
    """Asks the teacher for everything, anew."""
    lesson = Distillation(student, config.teacher.outline(), config).lesson_terms()[NAME]
    crops = crop_terms(store, FLIPS, None, student.input_size, student.conventions[NAME], "labelled")
    return store_answers(
        AnswerJob(
            terms=AnswerTerms(lesson=lesson, crops=crops, precision="float16"),
            teacher=config.teacher,
            store=str(store.location),
            folder=folder,
            code=str(time.time_ns()),
        )
    )


def crops(store: ShardStore, student: PoseModel, batch: int, answers: Path | None) -> Iterator[CropBatch]:
    """Endless; one batch is cut ahead, on one thread."""
    mixture = MixtureConfig(entries=(MixtureEntry(name=NAME),), shuffle_window=1)
    return iter(
        Loader(
            {NAME: store},
            LoadingConfig(mixture=mixture, augment=FLIPS, num_threads=1),
            input_size=student.input_size,
            seed=0,
            global_batch=batch,
            conventions=student.conventions,
            answers=None if answers is None else {NAME: AnswerStore(answers)},
        )
    )


def training(method: nn.Module, batches: Iterator[CropBatch]) -> Callable[[], None]:
    """One step: batch, losses, gradients."""
    method.train()

    def step() -> None:
        sum(method(to_device(next(batches), CPU)).values()).backward()
        method.zero_grad()

    return step


def process_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compared(contenders: Mapping[str, Callable[[], object]], reference: str, per: int, rounds: int) -> None:
    """Prints ms per crop and the ratio to a reference of every contender."""
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(1000 * process_seconds(work) / per)
    print("\n| | ms/crop | takes | rounds |\n|---|--:|--:|--:|")
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, times[reference], strict=True)]
        shown = f"{statistics.median(values):.2f} | {statistics.median(ratios):.2f}"
        print(f"| {name} | {shown} | {min(ratios):.2f} – {max(ratios):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="data, shards and answers; may be used again")
    parser.add_argument("--teacher", default="rtmpose-m")
    parser.add_argument("--student", default="rtmpose-t")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = split(options.folder, options.images)
    teacher, student = model(options.teacher, store), model(options.student, store)
    source = ModelFolder.at(save_model(teacher, options.folder / options.teacher))
    weight = None if options.student.startswith("rtmpose") else 1e-3
    config = DistillationConfig(teacher=source, feature_weight=weight)
    gmacs = [model_cost(one.config, {NAME: 17}).macs / 1e9 for one in (teacher, student)]
    print(f"teacher {options.teacher} {gmacs[0]:.2f} GMACs, student {options.student} {gmacs[1]:.2f} GMACs per crop")

    folder = options.folder / f"answers_{options.teacher}_{options.student}"
    began = time.process_time()
    manifest = stored(folder, store, student, config)
    seconds = time.process_time() - began
    count = manifest.num_crops
    print(
        f"stored {count} answers: outputs {manifest.outputs_shape}, features {manifest.features_shape}, "
        f"{manifest.size_bytes / count / 1000:.1f} kB and {1000 * seconds / count:.1f} ms each"
    )

    def batches(answers: Path | None = None) -> Iterator[CropBatch]:
        return crops(store, student, options.batch, answers)

    cached = config.model_copy(update={"answers": {NAME: str(folder)}})
    compared(
        {
            "labels alone": training(SupervisedHeads(model(options.student, store)), batches()),
            "teacher asked": training(config.build(model(options.student, store)), batches()),
            "answers read": training(cached.build(model(options.student, store)), batches(folder)),
        },
        reference="teacher asked",
        per=options.batch,
        rounds=options.rounds,
    )
    few = 64 // options.batch
    plain, reading = batches(), batches(folder)
    compared(
        {
            "batches without answers": lambda: list(islice(plain, few)),
            "batches with answers": lambda: list(islice(reading, few)),
        },
        reference="batches without answers",
        per=few * options.batch,
        rounds=options.rounds,
    )


if __name__ == "__main__":
    main()
