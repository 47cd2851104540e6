"""Damaged inputs, format by format, and what became of each; see ``benchmarks/faults.py``.

A subject is a small healthy input, a call that reads it, and an oracle: an answer that differs from the healthy one is
right only if the damage is a legal change of the file, which a second, small parser must confirm value by value.
"""

import contextlib
import csv
import io
import json
import math
import random
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import h5py
import numpy as np
import yaml
from PIL import Image

from benchmarks.damaged_images import damaged
from posecore.config import load_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import PoseCoreError
from posecore.formats.reader import Source
from posecore.ingest.job import IngestSettings
from posecore.ingest.source_image import Unusable, read_source_image
from posecore.models.saving import load_model, save_model
from posecore.schema import Record, Reject, record_to_json
from posecore.shards.store import open_store
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.synth.writers import write_dataset
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from posecore.training.loop import TrainingConfig
from tests.support.checkpoints import load_checkpoint
from tests.support.tiny_store import write_store
from tests.support.tiny_training import tiny_model, tiny_training

VERDICTS = ("harmless", "refused well", "raw traceback", "hang", "silently wrong")
LIMIT_S = 20.0
LIMIT_BYTES = 4 << 30
JUNK = (None, True, -1, 0, 1.5, 1e308, 10**30, float("nan"), "", "x", "../x", [], {}, [[]], {"id": []})


@dataclass(frozen=True)
class Subject:
    """A file that is damaged.

    Attributes:
        path: the file.
        read: reads what it is part of; refuses by an error of ours, else returns something with ``==``.
        right: whether another answer is what the damaged bytes say; None if none can be.
        values: whether to put other values into its JSON, beside damaging its bytes.
    """

    path: Path
    read: Callable[[], Any]
    right: Callable[[bytes, Any], bool] | None = None
    values: bool = False


@dataclass
class Tally:
    """What became of the damaged files of one subject."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    examples: list[str] = field(default_factory=list)


def campaign(name: str, subject: Subject, count: int, seed: int) -> Tally:
    """Damages one subject ``count`` times; the file is whole again afterwards."""
    generator = random.Random(f"{seed} {name}")
    healthy = subject.path.read_bytes()
    expected = subject.read()
    tally = Tally()
    try:
        for number in range(count):
            data = _replaced(healthy, generator) if subject.values and number % 2 else damaged(healthy, generator)
            if data == healthy:
                data = healthy[:-1]
            subject.path.write_bytes(data)
            verdict, said = _judge(subject, data, expected)
            tally.counts[verdict] += 1
            if verdict in VERDICTS[2:]:
                tally.examples.append(f"{name} {number}: {verdict}: {said}")
    finally:
        subject.path.write_bytes(healthy)
    return tally


def _judge(subject: Subject, data: bytes, expected: Any) -> tuple[str, str]:
    try:
        with _limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = subject.read()
    except TimeoutError:
        return "hang", f"more than {LIMIT_S:g} s"
    except PoseCoreError as error:
        said = str(error)
        return ("refused well", "") if said and len(said) < 2000 else ("raw traceback", f"no sentence: {said[:100]!r}")
    except Exception as error:
        return "raw traceback", f"{type(error).__name__}: {str(error)[:200]}"
    if answer == expected:
        return "harmless", ""
    if _rejects(answer):
        return "refused well", ""
    try:
        if subject.right is not None and subject.right(data, answer):
            refused = isinstance(answer, list) and any(map(_rejects, answer))
            return ("refused well" if refused else "harmless"), ""
    except Exception as error:  # what the second parser cannot read, ours should not have read either
        return "silently wrong", f"the second parser says {type(error).__name__}: {error}"
    return "silently wrong", str(answer)[:200]


def _rejects(answer: Any) -> bool:
    return isinstance(answer, tuple) and answer[:1] == ("rejected",)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Time by an alarm, memory by the system: a process that asks for more gets a MemoryError."""

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def _replaced(healthy: bytes, generator: random.Random) -> bytes:
    """One value of a JSON document, of any depth, is another."""
    document = json.loads(healthy)
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = generator.choice(keys)
        if isinstance(node[key], (dict, list)) and node[key] and generator.random() < 0.8:
            node = node[key]
            continue
        node[key] = generator.choice(JUNK)
        return json.dumps(document).encode()


def subjects(folder: Path) -> dict[str, Subject]:
    """Healthy inputs of every format, written below a folder."""
    made = {**_annotations(folder), **_pictures(folder), **_shards(folder), **_trained(folder), **_settings(folder)}
    return dict(sorted(made.items()))


# Annotations -------------------------------------------------------------------------------------------------------


def _annotations(folder: Path) -> dict[str, Subject]:
    made: dict[str, Subject] = {}
    for name, pattern in (("coco", "annotations/*train*.json"), ("ap10k", "annotations/*train*.json")):
        root = folder / name
        write_dataset(name, root, num_train=3, num_val=1, image_size=(64, 64), seed=1)
        (path,) = root.glob(pattern)
        definition = load_dataset(name)
        split = next(iter(definition.splits))

        def read(definition: Any = definition, split: str = split, root: Path = root) -> list[Record | Reject]:
            return _comparable(read_split(definition, split, root))

        made[f"{name} JSON"] = Subject(path, read, _as_the_json_says, values=True)
    root = folder / "mpii"
    write_dataset("mpii", root, num_train=3, num_val=2, image_size=(64, 64), seed=1)
    mpii = load_dataset("mpii")
    made["MPII MAT"] = Subject(
        next(root.glob("*.mat")),
        lambda: [
            item
            for split in mpii.splits
            if mpii.splits[split].annotations.endswith(".mat")
            for item in _comparable(read_split(mpii, split, root))
        ],
    )
    made["DeepLabCut CSV"] = _deeplabcut(folder / "csv", "csv", ".csv", _as_the_csv_says)
    made["DeepLabCut HDF5"] = _deeplabcut(folder / "h5", "h5", ".h5", None)
    return made


def _deeplabcut(root: Path, table: str, suffix: str, right: Any) -> Subject:
    frames = root / "labeled-data" / "vid"
    frames.mkdir(parents=True)
    (root / "config.yaml").write_text("bodyparts: [nose, tail]\n")
    rows = ["scorer,Me,Me,Me,Me", "bodyparts,nose,nose,tail,tail", "coords,x,y,x,y"]
    values = np.arange(24, dtype=np.float64).reshape(6, 4) * 1.25 + 3
    rows += [f"labeled-data/vid/img{i:02d}.png," + ",".join(map(str, row)) for i, row in enumerate(values)]
    path = frames / "CollectedData_Me.csv"
    path.write_text("\n".join(rows) + "\n")
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        row = np.dtype([("index", "S64"), ("values_block_0", np.float64, (4,))])
        stored = np.zeros(6, row)
        stored["values_block_0"] = values
        stored["index"] = [f"labeled-data/vid/img{i:02d}.png" for i in range(6)]
        # With a checksum: HDF5 has none by default, and a flipped bit of a number is then a number.
        file.create_dataset("df_with_missing/table", data=stored, chunks=(6,), fletcher32=True)
    skeleton = Skeleton(name="rod", keypoints=tuple(Keypoint(name=n, union=f"rod_{n}") for n in ("nose", "tail")))
    source = Source(
        dataset="dlc", split="train", root=root, annotations="config.yaml", images="", skeleton=skeleton,
        area_rule="box", options={"table": table},
    )  # fmt: skip
    from posecore.formats.deeplabcut import DeepLabCutReader

    return Subject(path.with_suffix(suffix), lambda: _comparable(DeepLabCutReader().read(source)), right)


def _comparable(items: Iterator[Record | Reject]) -> list[Any]:
    return [json.loads(record_to_json(i)) if isinstance(i, Record) else ("rejected", i.reason, i.detail) for i in items]


def _as_the_json_says(data: bytes, answer: list[Any]) -> bool:
    """Every body that was read is one of the file's, number by number; none of the file's is unaccounted for."""
    document = json.loads(data.decode("utf-8-sig"))
    records = [item for item in answer if isinstance(item, dict)]
    rejects = [item for item in answer if not isinstance(item, dict)]
    stated = document["annotations"]
    read = 0
    for record in records:
        for body in record["instances"]:
            read += 1
            if not any(_same_body(body, entry) for entry in stated if isinstance(entry, dict)):
                return False
    images = [image for image in document["images"] if isinstance(image, dict)]
    placed = all(
        any(
            str(image.get("id")).removesuffix(".0") == record["source_id"]
            and record["image"].endswith(str(image.get("file_name")).rpartition("/")[2])
            and [record["width"], record["height"]] == [max(image.get(side, 0), 0) for side in ("width", "height")]
            for image in images
        )
        for record in records
    )
    return placed and (read == len(stated) or bool(rejects))


def _same_body(body: dict[str, Any], entry: dict[str, Any]) -> bool:
    if str(entry.get("id")).removesuffix(".0") != body["id"] or not _close(body["bbox_xywh"], entry.get("bbox")):
        return False
    stated = np.array(entry["keypoints"], float).reshape(-1, 3)
    stated[stated[:, 2] == 0] = 0
    return _close(np.ravel(body["keypoints"]).tolist(), stated.ravel().tolist())


def _close(read: list[float], stated: Any) -> bool:
    return isinstance(stated, list) and len(read) == len(stated) and bool(np.allclose(read, stated, rtol=1e-6))


def _as_the_csv_says(data: bytes, answer: list[Any]) -> bool:
    """Every number that was read stands in the row of its picture, at the place of its point."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=None)))
    order = {(rows[1][i], rows[2][i]): i for i in range(1, len(rows[1]))}
    body = [row for row in rows[3:] if any(row)]
    records = [item for item in answer if isinstance(item, dict)]
    for record in records:
        name = record["image"].rpartition("/")[2]
        named = [row for row in body if row[0].replace("\\", "/").rpartition("/")[2] == name]
        for points in (item["keypoints"] for item in record["instances"]):
            for part, (x, y, flag) in zip(("nose", "tail"), np.reshape(points, (-1, 3)), strict=True):
                cells = [[row[order[part, axis]] for axis in "xy"] for row in named]
                if flag and not any(_close([x, y], [float(c) for c in pair]) for pair in cells if all(pair)):
                    return False
    return len(records) == len(body) or len(records) < len(answer)


# Pictures ----------------------------------------------------------------------------------------------------------


def _pictures(folder: Path) -> dict[str, Subject]:
    folder.mkdir(parents=True, exist_ok=True)
    grid = np.add.outer(np.arange(60), np.arange(80))[..., None] * np.array([1, 2, 3])
    pixels = (grid % 251 + np.random.default_rng(0).integers(0, 5, grid.shape)).astype(np.uint8)
    made = {}
    for suffix in ("png", "jpg"):
        path = folder / f"picture.{suffix}"
        path.write_bytes(cv2.imencode(f".{suffix}", pixels)[1].tobytes())

        def read(path: Path = path) -> Any:
            image = read_source_image(path, 80, 60, IngestSettings(decode="full"))
            if isinstance(image, Unusable):
                return "rejected", image.reason
            decoded = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
            return image.width, image.height, None if decoded is None else decoded.tobytes()

        right = _as_pillow_sees if suffix == "jpg" else None
        made["JPEG" if suffix == "jpg" else "PNG"] = Subject(path, read, right)
    return made


def _as_pillow_sees(data: bytes, answer: Any) -> bool:
    """JPEG has no checksum: other coefficients are another picture, which a second decoder must open whole as well."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.size == answer[:2] and answer[2] is not None
    except (OSError, SyntaxError, ValueError):
        return False


# Shards ------------------------------------------------------------------------------------------------------------


def _shards(folder: Path) -> dict[str, Subject]:
    store = write_store(folder / "store", "people", [1, 2, 1])
    location = Path(str(store.location))

    def samples() -> Any:
        opened = open_store(location)
        read = [opened.read_sample(row) for row in range(opened.num_images)]
        return [(s.key, s.image_bytes, record_to_json(s.record), s.masks.state.tobytes()) for s in read]

    def tables() -> Any:
        opened = open_store(location)
        return opened.images.to_pylist(), opened.instances.to_pylist()

    def manifest() -> Any:
        return open_store(location).manifest.model_dump(mode="json")

    (tar,) = location.glob("*.tar")
    return {
        "shard tar": Subject(tar, samples),
        "images.parquet": Subject(location / "images.parquet", tables),
        "index.parquet": Subject(location / "index.parquet", tables),
        "manifest.json": Subject(location / "manifest.json", manifest, values=True),
    }


# Checkpoints and models --------------------------------------------------------------------------------------------


def _trained(folder: Path) -> dict[str, Subject]:
    tiny_training(LocalContext(folder / "run"), TorchEngineConfig(), steps=2, checkpoint_every=2)
    (checkpoint,) = (folder / "run" / "checkpoints").iterdir()

    def state() -> Any:
        read, progress = load_checkpoint(checkpoint)
        return {n: t.numpy().tobytes() for n, t in read.weights.items()}, read.optimizer_steps, progress

    save_model(tiny_model(), folder / "model")

    def model() -> Any:
        loaded = load_model(folder / "model")
        return {n: t.numpy().tobytes() for n, t in loaded.state_dict().items()}, loaded.card.model_dump(mode="json")

    def card(data: bytes, answer: Any) -> bool:
        return _agrees(json.loads(data)["card"], answer[1]) and answer[0] == weights

    weights = model()[0]
    made = {
        f"checkpoint {path.name}": Subject(path, state, values=path.suffix == ".json")
        for path in sorted(checkpoint.iterdir())
        if path.is_file()
    }
    made["model.safetensors"] = Subject(folder / "model" / "model.safetensors", model)
    made["model.json"] = Subject(folder / "model" / "model.json", model, card, values=True)
    return made


# Settings ----------------------------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict[str, Subject]:
    run = folder / "training.yaml"
    run.write_text(
        "# a run\nsteps: 1400\nglobal_batch: 32\nseed: 7\noptimizer: {lr: 2.0e-3, weight_decay: 0.05}\n"
        "schedule:\n  kind: cosine\n  warmup_steps: 30\nengine: {kind: deepspeed, zero_stage: 2, precision: bf16}\n"
        "checkpoint_every: 700\nprogress: false\n"
    )
    definition = folder / "definition" / "dataset.yaml"
    definition.parent.mkdir(parents=True)
    definition.write_text(
        "name: rods\ntitle: Rods\nreader: posecore.formats.coco:CocoReader\nlicense: {id: CC0-1.0}\n"
        "skeleton:\n  name: rod\n  keypoints:\n"
        "    - {name: nose, union: rod_nose}\n    - {name: tail, union: rod_tail}\n"
        "splits:\n  train: {annotations: train.json, images: pictures}\nmax_loss: 0.25\n"
    )
    return {
        "run file YAML": Subject(
            run, lambda: load_config(run, TrainingConfig).model_dump(mode="json"), _as_the_yaml_says
        ),
        "dataset.yaml": Subject(
            definition, lambda: load_dataset(definition).model_dump(mode="json"), _as_the_yaml_says
        ),
    }


def _as_the_yaml_says(data: bytes, answer: Any) -> bool:
    return _agrees(yaml.safe_load(data), answer)


def _agrees(stated: Any, read: Any) -> bool:
    """Whether everything a document states is what was read; what it leaves out has its default."""
    if isinstance(stated, dict):
        return isinstance(read, dict) and all(str(k) in read and _agrees(v, read[str(k)]) for k, v in stated.items())
    if isinstance(stated, list):
        return isinstance(read, list) and len(stated) == len(read) and all(map(_agrees, stated, read))
    if isinstance(stated, str) and isinstance(read, (int, float)) and not isinstance(read, bool):
        with contextlib.suppress(ValueError):  # YAML reads 5e-4 as text
            return math.isclose(float(stated), read)
    if isinstance(stated, (int, float)) and isinstance(read, float) and not isinstance(stated, bool):
        return math.isclose(stated, read)
    return bool(stated == read)
