"""Every example of docs/stages.md, run on real pictures: checked, ingested, and proved from the sources."""

import importlib
import io
import re
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import posecore.datasets
from posecore import cli
from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.ingest.verify_source import verify_source
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.schema import DepthImage, Record
from posecore.shards.store import open_store
from posecore.skeletons.library import load_skeleton
from posecore.stages.load import BUILT_IN
from tests.support.small_split import write_annotations
from tests.support.tiny_detector import save_tiny_detector

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "stages.md").read_text()
SUPPORT = Path(__file__).resolve().parents[2] / "support"
_BLOCK = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [yaml.safe_load(match["body"]) for match in _BLOCK.finditer(PAGE) if match["language"] == "yaml"]
DEFINITION = {
    "name": "ward",
    "title": "Photographs",
    "reader": "tests.support.small_split:TinyReader",
    "skeleton": "coco17",
    "license": {"id": "CC-BY-4.0"},
    "area_rule": "annotated",
    "splits": {"all": {"annotations": "all.json"}},
}
PICTURES = ("000000000139", "000000109313", "000000126107", "000000136334", "000000153797", "000000181303")
TURNED = "000000136334"


def stages_of(example: dict[str, Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry["stage"] for entry in example["stages"]]


def photographs(samples: Path, root: Path) -> list[Record]:
    """Six of COCO's pictures under names of subjects; one is shown upright by EXIF alone, and one lies there twice."""
    coco = read_split(load_dataset("coco"), "val", samples / "coco")
    real = [item for item in coco if isinstance(item, Record) and Path(item.image).stem in PICTURES]
    made = []
    for number, record in enumerate(sorted(real, key=lambda record: record.image)):
        data = (samples / "coco" / record.image).read_bytes()
        if Path(record.image).stem == TURNED:
            exif = Image.Exif()
            exif[0x0112] = 6
            file = io.BytesIO()
            Image.open(io.BytesIO(data)).save(file, "JPEG", exif=exif, quality=95)
            data = file.getvalue()
        made.append(replace(record, dataset="ward", split="all", image=f"s{number + 1:02}/cam1_{number:04}.jpg"))
        write(root / made[-1].image, data)
    smaller = cv2.resize(cv2.imread(str(root / made[4].image)), (400, 320), interpolation=cv2.INTER_AREA)
    twin = replace(made[4], source_id="999999", image="s05/cam1_0099.jpg", width=400, height=320, instances=[])
    write(root / twin.image, cv2.imencode(".jpg", smaller)[1].tobytes())
    write_annotations(root, [*made, twin], "all")
    return made


def thermal(samples: Path, root: Path) -> None:
    """Two of the pictures as a camera of 16 bits gives them, with depth in tenths of millimetres."""
    made = []
    for record in photographs(samples, root)[:2]:
        grey = cv2.imread(str(root / record.image), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
        names = [f"{record.source_id}_{kind}.png" for kind in ("thermal", "depth")]
        for name, pixels in zip(names, (29000 + 10 * grey, 10000 + 200 * grey), strict=True):
            cv2.imwrite(str(root / name), pixels.astype(np.uint16))
        made.append(replace(record, image=names[0], depth=DepthImage(image=names[1], metres_per_unit=0.0001)))
    write_annotations(root, made, "all")


def films(samples: Path, root: Path) -> None:
    """A film that shows each of three pictures for a second."""
    photographs(samples, root)
    shown = [cv2.resize(cv2.imread(str(path)), (320, 240)) for path in sorted(root.rglob("cam1_000[013].jpg"))]
    (root / "films").mkdir()
    with av.open(str(root / "films" / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(shown[number // 8], format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def packed(samples: Path, root: Path) -> None:
    """Labels and pictures in one file, as SLEAP has written it."""
    write(root / "labels.pkg.slp", (SUPPORT / "foreign" / "sleap" / "packed.pkg.slp").read_bytes())


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


DOWNLOADS = {"scale_range": thermal, "video_frames": films, "packed_frames": packed}
OUTCOMES = {
    "Halve": (7, 5, {}),
    "set_fields": (4, 0, {"subject-not-listed": 2, "subject-listed": 1, "filtered": 7}),
    "drop_pictures": (4, 0, {"no-labelled-keypoints": 7, "no-instances": 2, "picture-listed": 1}),
    "orient": (7, 7, {}),
    "scale_range": (2, 2, {}),
    "video_frames": (3, 3, {"duplicate-picture": 3}),
    "packed_frames": (4, 4, {"predicted-body": 1}),
    "deduplicate": (6, 0, {"duplicate-picture": 1}),
    "pseudo_label": (7, 0, {}),
    "blur_faces": (7, 6, {}),
    "detect": (7, 7, {}),
}
"""By a stage that one example alone is about: pictures that are left, those changed, and what was taken out."""


def subject_of(example: dict[str, Any]) -> str:
    names = [name.rpartition(":")[2] for name in stages_of(example)]
    if names == ["pseudo_label", "blur_faces"]:
        return "blur_faces"
    return next(name for name in ["detect", *OUTCOMES] if name in names)


def test_every_stage_has_an_example_and_every_example_a_test():
    assert set(BUILT_IN) == {name for example in EXAMPLES for name in stages_of(example) if ":" not in name}
    assert sorted(map(subject_of, EXAMPLES)) == sorted(OUTCOMES)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A random model that is sure of everything."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=SimpleHeadConfig(), input_size=(64, 48))
    model = build_model(config, {"coco": load_skeleton("coco17")}, {}).eval()
    torch.nn.init.ones_([tensor for name, tensor in model.named_parameters() if name.endswith("bias")][-1])
    folder = tmp_path_factory.mktemp("model") / "teacher"
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector"), {0: "face"})


@pytest.mark.samples
@pytest.mark.parametrize("example", EXAMPLES, ids=subject_of)
def test_examples_of_the_page(example, samples, teacher, detector, tmp_path, monkeypatch, capsys):
    root, datasets = tmp_path / "raw", tmp_path / "datasets"
    subject = subject_of(example)
    DOWNLOADS.get(subject, photographs)(samples, root)
    for match in _BLOCK.finditer(PAGE):
        if match["file"]:
            write(datasets / match["file"], match["body"].encode())
    write(datasets / "ward" / "withdrawn.txt", b"# asked for in spring\ns04\n")
    (datasets / "ward" / "teacher").symlink_to(teacher)
    (datasets / "ward" / "face_detector").symlink_to(detector)
    write(datasets / "ward" / "dataset.yaml", yaml.safe_dump({**DEFINITION, **example}).encode())
    monkeypatch.setenv("POSECORE_DATASETS", str(datasets))
    monkeypatch.setattr(posecore.datasets, "__path__", list(posecore.datasets.__path__))
    assert cli.main(["datasets", "check", "ward", "--root", str(root)]) == 0, capsys.readouterr().out
    if subject == "Halve":
        own = importlib.import_module("posecore.datasets.ward.test_stages")
        own.test_halve_is_pure(root)
    of = ingest_job(load_dataset("ward"), "all", root, tmp_path / "out", IngestSettings())
    manifest = ingest(of)
    report = verify_source(of)
    assert (manifest.num_images, report.num_changed, manifest.rejects) == OUTCOMES[subject]
    assert not report.num_different, str(report)
    for name in [name for name in sys.modules if name.startswith("posecore.datasets.ward")]:
        del sys.modules[name]
    store = open_store(of.folder)
    store.verify()
    for sample in map(store.read_sample, range(store.num_images)):
        pixels = cv2.imdecode(np.frombuffer(sample.image_bytes, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (pixels.dtype, pixels.shape[:2]) == (np.uint8, (sample.record.height, sample.record.width))
