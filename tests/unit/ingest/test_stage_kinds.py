"""Stages of every kind, with options: what they are given, what becomes of what they leave, and how they fail."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import cv2
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import PrivateAttr

from posecore.errors import IngestError
from posecore.ingest.purity import assert_stage_is_pure
from posecore.ingest.run import ingest
from posecore.schema import Record, Reject
from posecore.shards.store import open_store
from posecore.stages import ImageStage, ModelStage, Picture, TableStage, reject_image, reject_instance
from posecore.stages.load import BUILT_IN, load_stages
from tests.support.small_split import SKELETON, definition, job, picture, records

HERE = __name__
CALLS = count()
BUILT = count()
OPTIONS: dict[str, dict[str, object]] = {
    "keep_subjects": {"subjects": ["s1"]},
    "filter": {"images": "width > 3"},
    "set_fields": {"pattern": r"(?P<n>\d)", "video_id": "{n}"},
    "box_from_points": {},
    "orient": {},
    "resize": {"longer_side_px": 32},
    "blur_faces": {},
    "scale_depth": {},
}


class ShortBoxes(TableStage):
    """Takes out boxes lower than ``least_px``, and moves the others."""

    least_px: float
    move_px: float = 0.0
    may_lose = True

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        short = pl.col("bbox_h") < self.least_px
        return images.with_columns(
            reject_reason=pl.when(pl.col("source_id") == "3").then(pl.lit("third"))
        ), instances.with_columns(
            bbox_x=pl.col("bbox_x") + self.move_px,
            reject_reason=pl.when(short).then(pl.lit("short-box")),
            reject_detail=pl.format("the box is {} px high.", pl.col("bbox_h")),
        )


class Shrink(ImageStage):
    """Halves pictures and annotations; leaves alone whose id is in ``keep``."""

    keep: tuple[str, ...] = ()

    def __call__(self, given: Picture) -> Picture | Reject | tuple[Picture, Sequence[Reject]]:
        record = given.record
        if record.source_id in self.keep:
            return given
        if record.source_id == "2":
            return reject_image(record, "second", "the second is not wanted.")
        pixels = cv2.imdecode(np.frombuffer(given.data, np.uint8), cv2.IMREAD_UNCHANGED)
        data = cv2.imencode(".png", pixels[::2, ::2])[1].tobytes()
        halved = [
            replace(
                item,
                bbox_xywh=tuple(side / 2 for side in item.bbox_xywh),
                keypoints=item.keypoints * np.array([0.5, 0.5, 1], np.float32),
                segmentation=None,
            )
            for item in record.instances
        ]
        crowds = [item for item in halved if item.is_crowd]
        left = replace(record, instances=[item for item in halved if not item.is_crowd])
        return replace(given, data=data, record=left), [reject_instance(record, item, "crowd", "c.") for item in crowds]


class Count(ModelStage):
    """Writes down how many pictures came with this one, and that it was built once."""

    _built: int = PrivateAttr(0)

    def set_up(self) -> None:
        self._built += 1

    def __call__(self, pictures: Sequence[Picture]) -> list[Picture]:
        assert self._built == 1
        return [
            replace(item, record=replace(item.record, extras={**item.record.extras, "seen": item.record.width}))
            for item in pictures
        ]


class Builds(ModelStage):
    """Counts how often it is built."""

    def set_up(self) -> None:
        next(BUILT)

    def __call__(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        return pictures


class Fails(ImageStage):
    """Raises where it is told to."""

    at: str

    def __call__(self, given: Picture) -> Picture:
        if given.record.source_id == self.at:
            raise KeyError("no such thing")
        return given


class Counts(ImageStage):
    """Not pure: numbers its calls."""

    def __call__(self, given: Picture) -> Picture:
        return replace(given, record=replace(given.record, extras={"call": next(CALLS)}))


class Scribbles(ImageStage):
    """Not pure: writes on what it is given."""

    def __call__(self, given: Picture) -> Picture:
        given.record.extras["seen"] = True
        return given


class MeanBox(TableStage):
    """Not pure: looks at all images it happens to be given."""

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        return images, instances.with_columns(bbox_x=pl.col("image_row").cast(pl.Float64).mean())


class Forgets(TableStage):
    """Leaves rows out without a word."""

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        return images.head(2), instances.filter(pl.col("image_row") < 2)


def entry(kind: type, **options: object) -> dict[str, object]:
    return {"stage": f"{HERE}:{kind.__name__}", "options": options}


def test_a_table_stage_changes_columns_and_takes_rows_out_with_a_reason(tmp_path):
    stages = ["check_instances", entry(ShortBoxes, least_px=31.0, move_px=0.5)]
    source = records(tmp_path / "raw", 6)
    source[0].instances[0].bbox_xywh = (4.0, 5.0, 20.0, 31.0)
    source[5].instances[1].bbox_xywh = (4.0, 5.0, 20.0, 31.0)
    manifest = ingest(job(tmp_path / "raw", tmp_path / "out", stages=stages), source)
    assert manifest.rejects == {"third": 1, "short-box": 5}
    assert next(c for c in manifest.stages if c.stage.endswith("ShortBoxes")).instances_rejected == 7
    store = open_store(tmp_path / "out" / "tiny" / "train")
    assert store.images["key"].to_pylist() == ["0", "1", "2", "4", "5"]
    assert store.instances["instance_id"].to_pylist() == ["0-a", "5-b"]
    assert store.instances["bbox_x"].to_pylist() == [4.5, 4.5]
    rows = pq.read_table(tmp_path / "out" / "tiny" / "train" / "quarantine.parquet").to_pylist()
    assert {(row["source"], row["instance_id"], row["detail"]) for row in rows if row["instance_id"] == "1-b"} == {
        ("images/1.jpg", "1-b", "the box is 30.0 px high.")
    }


def test_an_image_stage_changes_pictures_and_points_and_the_source_stays_known(tmp_path):
    stages = [entry(Shrink, keep=["4"]), "drop_images_without_instances", entry(Count)]
    source = records(tmp_path / "raw", 6)
    plain = open_store(ingested(tmp_path / "plain", tmp_path / "raw", source, []))
    manifest = ingest(job(tmp_path / "raw", tmp_path / "out", max_loss=0.7, stages=stages), source)
    assert manifest.rejects == {"second": 1, "crowd": 3}
    store = open_store(tmp_path / "out" / "tiny" / "train")
    store.verify()
    assert store.images["key"].to_pylist() == ["0", "1", "3", "4", "5"]
    assert store.images["width"].to_pylist() == [32, 32, 32, 64, 32]
    originals = dict(zip(plain.images["key"].to_pylist(), plain.images["digest"].to_pylist(), strict=True))
    kept = dict(zip(store.images["key"].to_pylist(), store.images["source_digest"].to_pylist(), strict=True))
    assert kept == {key: None if key == "4" else originals[key] for key in kept}
    first = store.read_sample(0)
    assert first.image_bytes.startswith(b"\x89PNG")
    assert first.record.instances[0].keypoints[0].tolist() == [2.5, 3, 2]
    assert first.record.extras == {"seen": 32}
    assert first.record.source_digest == originals["0"]


def ingested(out, root, source, stages):
    item = job(root, out, stages=stages)
    ingest(item, source)
    return item.folder


def test_options_make_other_shards_and_unknown_ones_are_refused_by_name(tmp_path):
    def digest(**options):
        return ingest(job(tmp_path / "raw", tmp_path / "out", stages=[entry(ShortBoxes, **options)]), source).digest

    source = records(tmp_path / "raw", 2)
    assert digest(least_px=1.0) == digest(least_px=1.0) != digest(least_px=1.0, move_px=1.0)
    with pytest.raises(IngestError, match=r"stage .*ShortBoxes: options.*least.*Extra inputs"):
        digest(least_px=1.0, least=2)
    with pytest.raises(IngestError, match=r"options.*least_px.*required"):
        digest()
    with pytest.raises(IngestError, match="is a function and has no option strength"):
        load_stages(definition(stages=[{"stage": "check_instances", "options": {"strength": 1}}]))
    with pytest.raises(IngestError, match=r"resources.*num_gpu.*Extra inputs"):
        load_stages(definition(stages=[{**entry(Count), "resources": {"num_gpu": 1}}]))


def test_a_stage_listed_twice_counts_twice(tmp_path):
    stages = [entry(ShortBoxes, least_px=1.0), entry(ShortBoxes, least_px=2.0)]
    manifest = ingest(job(tmp_path / "raw", tmp_path / "out", stages=stages), records(tmp_path / "raw", 2))
    labels = [count.stage for count in manifest.stages if "ShortBoxes" in count.stage]
    assert labels == [f"{HERE}:ShortBoxes", f"{HERE}:ShortBoxes#2"]
    assert len({manifest.code[label].digest for label in labels}) == 2


def test_a_model_is_built_once_for_all_shards_and_not_at_all_for_kept_ones(tmp_path):
    item = job(tmp_path / "raw", tmp_path / "out", images_per_shard=2, stages=[entry(Builds)])
    source = records(tmp_path / "raw", 6)
    before = next(BUILT)
    ingest(item, source)
    assert next(BUILT) == before + 2
    ingest(item, source)
    assert next(BUILT) == before + 3


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() & OPTIONS.keys()))
def test_stages_travel_to_other_processes(name):
    (stage,) = load_stages(definition(stages=[{"stage": name, "options": OPTIONS[name]}]))
    again = pickle.loads(pickle.dumps(stage))
    assert (again.label, again.resources) == (stage.label, stage.resources)
    assert again.work.model_dump() == stage.work.model_dump()


def test_a_failing_stage_is_named_with_options_record_file_and_line(tmp_path):
    item = job(tmp_path / "raw", tmp_path / "out", stages=[entry(Fails, at="1")])
    with pytest.raises(
        IngestError,
        match=r"stage .*Fails \(options \{\"at\":\"1\"\}\) failed at images/1\.jpg in .*test_stage_kinds\.py, "
        r"line \d+: KeyError: 'no such thing'",
    ):
        ingest(item, records(tmp_path / "raw", 3))


def test_rows_that_vanish_without_a_reason_are_an_error(tmp_path):
    item = job(tmp_path / "raw", tmp_path / "out", stages=[entry(Forgets)])
    with pytest.raises(IngestError, match="did not return the images it was given"):
        ingest(item, records(tmp_path / "raw", 3))


def some(tmp_path) -> tuple[list[Record], list[bytes]]:
    return records(tmp_path, 5), [picture(number) for number in range(5)]


@pytest.mark.parametrize("kind", [(ShortBoxes, {"least_px": 1.0}), (Shrink, {}), (Count, {})])
def test_pure_stages_are_pure(tmp_path, kind):
    source, pictures = some(tmp_path)
    (stage,) = load_stages(definition(stages=[entry(kind[0], **kind[1])]))
    if kind[0] is Count:
        (stage,) = load_stages(definition(stages=[entry(Count)]))
    for one in (stage, kind[0](**kind[1])):
        assert_stage_is_pure(one, source, SKELETON, pictures)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Counts, "asked again"), (Scribbles, "changed the record of images/0.jpg"), (MeanBox, "among fewer others")],
)
def test_impure_stages_are_found(tmp_path, kind, said):
    source, pictures = some(tmp_path)
    (stage,) = load_stages(definition(stages=[entry(kind)]))
    for one in (stage, kind()):
        with pytest.raises(IngestError, match=said):
            assert_stage_is_pure(one, source, SKELETON, pictures)
