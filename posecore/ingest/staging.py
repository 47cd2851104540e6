"""Running the stages of a shard: what each is given, what it took out, and one sentence when it fails.

Stages that look at annotations run before any picture is read, whatever it costs to read one; from the first stage on
that wants pictures, all have them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import orjson
import polars as pl
import pyarrow as pa

from posecore.counting import counted
from posecore.errors import ImageHeaderError, IngestError, PoseCoreError, failing_line, said
from posecore.image_header import image_size
from posecore.ingest.tally import Tally
from posecore.schema import Record, Reject
from posecore.shards.digests import content_digest, file_digest
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.extras import OF_STAGES
from posecore.stages.load import LoadedStage
from posecore.stages.protocol import DETAIL, REASON, ImageStage, ModelStage, Picture, SourceStage, Stage, TableStage
from posecore.stages.records import RecordStage, StageResult, are_usable, check_instances
from posecore.stages.rejects import reject_image
from posecore.storage import AnyPath
from posecore.tables.columns import IMAGE_COLUMNS, Annotations, instance_columns, keypoints_of, rejects_table
from posecore.tables.records import to_annotations, to_records

_Kept = TypeVar("_Kept", Record, Picture)
PictureAnswer: TypeAlias = Picture | Reject | tuple[Picture, Sequence[Reject]]


def wants_pictures(stage: LoadedStage) -> bool:
    """Whether a stage is given pictures, or makes them."""
    return isinstance(stage.work, (SourceStage, ImageStage, ModelStage))


def run_on_annotations(
    stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally, skeleton: Skeleton, of: tuple[str, str]
) -> list[Record]:
    """Passes the annotations of a shard through the stages that want no picture.

    Args:
        stages: table stages and functions of records, in order.
        annotations: of the shard.
        tally: counts what each stage was given and what it took out.
        skeleton: of the dataset.
        of: names of dataset and split.

    Raises:
        IngestError: a stage failed, or did not keep to its protocol; names it and the record or option.
    """
    held = _passed(stages, annotations, tally, skeleton, of)
    return held if isinstance(held, list) else to_records(held, *of)


def annotations_left(
    stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally, skeleton: Skeleton, of: tuple[str, str]
) -> Annotations:
    """As :func:`run_on_annotations`, in columns: records are made only where a stage wants them."""
    held = _passed(stages, annotations, tally, skeleton, of)
    return to_annotations(held, skeleton.num_keypoints) if isinstance(held, list) else held


def _passed(
    stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally, skeleton: Skeleton, of: tuple[str, str]
) -> Annotations | list[Record]:
    held: Annotations | list[Record] = annotations
    for stage in stages:
        if isinstance(stage.work, TableStage):
            if isinstance(held, list):
                held = to_annotations(held, skeleton.num_keypoints)
            held = _run_table_stage(stage, stage.work, held, tally, of)
            continue
        assert not wants_pictures(stage), stage
        if isinstance(held, Annotations):
            if stage.work is check_instances and are_usable(held):
                tally.enter_many(stage.label, held.images.num_rows, held.instances.num_rows)
                continue
            held = to_records(held, *of)
        held = [left for record in held if (left := run_on_record(stage, record, tally)) is not None]
    return held


def run_on_record(stage: LoadedStage, record: Record, tally: Tally) -> Record | None:
    """Passes a record through a stage that is a function; None if the stage rejected the image."""
    assert not isinstance(stage.work, Stage)
    work: RecordStage = stage.work
    tally.enter(stage.label, record)
    given = _Given.of(record)
    result: StageResult = _asked(stage, record.image, work, record)
    if isinstance(result, Reject):
        tally.reject_image(stage.label, result, record)
        return None
    kept, rejects = _taken_apart(stage, record.image, result, Record)
    given.check(stage, kept, rejects)
    for reject in rejects:
        tally.reject_instance(stage.label, reject)
    return kept


def run_on_pictures(
    stage: LoadedStage, pictures: Iterable[Picture], tally: Tally, skeleton: Skeleton
) -> Iterator[Picture]:
    """Passes pictures through one stage of any kind, in order; what it rejects is counted and does not come out.

    Raises:
        IngestError: as :func:`run_on_annotations`.
    """
    if isinstance(stage.work, ModelStage):
        yield from _run_model_stage(stage, stage.work, pictures, tally)
    elif isinstance(stage.work, TableStage):
        yield from _run_table_stage_on_pictures(stage, stage.work, list(pictures), tally, skeleton)
    else:
        work = stage.work
        for picture in pictures:
            if isinstance(work, ImageStage):
                tally.enter(stage.label, picture.record)
                given = _Given.of(picture.record)
                answer: PictureAnswer = _asked(stage, picture.record.image, work, picture)
                yield from _answered(stage, picture, given, answer, tally)
            else:
                record = run_on_record(stage, picture.record, tally)
                if record is not None:
                    yield replace(picture, record=record)


def run_source_stage(
    stage: LoadedStage, work: SourceStage, root: AnyPath, records: Sequence[Record], tally: Tally, max_pixels: int
) -> Iterator[Picture]:
    """The pictures of records whose files are none, in order; what it rejects is counted and does not come out.

    Raises:
        IngestError: as :func:`run_on_annotations`.
    """
    answers = iter(_asked(stage, records[0].image, work, root, records, max_pixels))
    digests: dict[str, str] = {}
    for record in records:
        tally.enter(stage.label, record)
        answer = _asked(stage, record.image, next, answers, None)
        if answer is None:
            raise IngestError(f"stage {stage.label} said nothing of {record.image}; it owes each record an answer.")
        if isinstance(answer, Reject):
            tally.reject_image(stage.label, answer, record)
            continue
        made, _ = _taken_apart(stage, record.image, answer, Picture)
        _Given.of(record).check(stage, made.record, ())
        _check_depth(stage, made)
        file = work.source_file(record.image)
        assert file is not None, record
        if file not in digests:
            digests = {file: file_digest(root / file)}  # the last one: neighbours are often of one file
        problem = _measured(stage, record, made, digests[file])
        if isinstance(problem, Reject):
            tally.reject_image(stage.label, problem, record)
        else:
            yield problem


def _run_model_stage(
    stage: LoadedStage, work: ModelStage, pictures: Iterable[Picture], tally: Tally
) -> Iterator[Picture]:
    batch: list[Picture] = []

    def done() -> Iterator[Picture]:
        for picture in batch:
            tally.enter(stage.label, picture.record)
        givens = [_Given.of(picture.record) for picture in batch]
        answers = _asked(stage, f"{batch[0].record.image} and {len(batch) - 1} more", work, batch)
        if not isinstance(answers, Sequence) or len(answers) != len(batch):
            gave = counted(len(answers), "answer") if isinstance(answers, Sequence) else "no list of answers"
            raise IngestError(f"stage {stage.label} gave {gave} to {counted(len(batch), 'picture')}.")
        for picture, given, answer in zip(batch, givens, answers, strict=True):
            yield from _answered(stage, picture, given, answer, tally)

    for picture in pictures:
        batch.append(picture)
        if len(batch) == stage.resources.batch_size:
            yield from done()
            batch = []
    if batch:
        yield from done()


@dataclass(frozen=True, slots=True)
class _Given:
    """What a stage may not change of a record, and the bodies that it must account for."""

    identity: tuple[object, ...]
    image: str
    bodies: frozenset[str]
    said: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, record: Record) -> "_Given":
        depth = None if record.depth is None else record.depth.image
        identity = (record.dataset, record.split, record.source_id, record.image, record.source_digest, depth)
        said = {("", key) for key in OF_STAGES & record.extras.keys()} if record.extras else set()
        said |= {(body.id, key) for body in record.instances if body.extras for key in OF_STAGES & body.extras.keys()}
        return cls(identity, record.image, frozenset(body.id for body in record.instances), frozenset(said))

    def check(self, stage: LoadedStage, kept: Record, rejects: Sequence[Reject]) -> None:
        """Raises an :class:`IngestError` if a stage did what it may not."""
        now = _Given.of(kept)
        if now.identity != self.identity:
            raise IngestError(
                f"stage {stage.label} changed what names {self.image}; dataset, split, source_id, image, source_digest "
                "and the place of the depth picture are not a stage's to change."
            )
        unsaid = {key for owner, key in self.said - now.said if not owner or owner in now.bodies}
        if unsaid:
            raise _taken_away(stage, min(unsaid), self.image)
        lost = self.bodies - {body.id for body in kept.instances} - {reject.instance_id for reject in rejects}
        if lost:
            raise IngestError(
                f"stage {stage.label} lost instance {min(lost)} of {self.image} without a word; return the record "
                "together with a Reject of each body that is taken out (reject_instance)."
            )
        if len({body.id for body in kept.instances}) < len(kept.instances):
            raise IngestError(f"stage {stage.label} left two instances of the same id in {self.image}.")


def _check_depth(stage: LoadedStage, picture: Picture) -> None:
    named = picture.record.depth is not None
    if named != (picture.depth is not None):
        what = (
            "without its depth picture, which its record names; return the picture together with its depth"
            if named
            else "with a depth picture that its record does not name; leave depth as None"
        )
        raise IngestError(f"stage {stage.label} returned {picture.record.image} {what}.")


def _taken_away(stage: LoadedStage, key: str, image: str) -> IngestError:
    return IngestError(
        f"stage {stage.label} took {key} from the extras of {image}, which a stage before it wrote; add to extras, or "
        f"list {stage.label} before that stage."
    )


def _taken_apart(stage: LoadedStage, image: str, answer: Any, kind: type[_Kept]) -> tuple[_Kept, Sequence[Reject]]:
    """What is kept, and what was taken out of it, of an answer that is no reject of the image."""
    if isinstance(answer, kind):
        return answer, ()
    match answer:
        case (kept, rejects) if isinstance(kept, kind) and all(isinstance(reject, Reject) for reject in rejects):
            return kept, rejects
    name = kind.__name__
    raise IngestError(
        f"stage {stage.label} returned {type(answer).__name__} for {image}; it owes a {name}, a Reject, or a {name} "
        "and the Rejects of its instances."
    )


def _answered(
    stage: LoadedStage, picture: Picture, given: _Given, answer: PictureAnswer, tally: Tally
) -> Iterator[Picture]:
    if isinstance(answer, Reject):
        tally.reject_image(stage.label, answer, picture.record)
        return
    kept, rejects = _taken_apart(stage, given.image, answer, Picture)
    given.check(stage, kept.record, rejects)
    _check_depth(stage, kept)
    for reject in rejects:
        tally.reject_instance(stage.label, reject)
    if kept.data != picture.data:
        problem = _changed(stage, picture, kept)
        if isinstance(problem, Reject):
            tally.reject_image(stage.label, problem, picture.record)
            return
        kept = problem
    yield kept


def _changed(stage: LoadedStage, before: Picture, after: Picture) -> Picture | Reject:
    source = before.record.source_digest or content_digest(before.data)
    return _measured(stage, before.record, after, source)


def _measured(stage: LoadedStage, before: Record, made: Picture, source_digest: str) -> Picture | Reject:
    """A picture that a stage made, with its own size, and with the digest of the file it came from."""
    try:
        size = image_size(made.data)
    except ImageHeaderError as error:
        return reject_image(before, "not-an-image", f"stage {stage.label} made of {before.image}: {error}")
    described = replace(made.record, width=size.width, height=size.height, source_digest=source_digest, digest="")
    return replace(made, record=described)


def _run_table_stage(
    stage: LoadedStage, work: TableStage, held: Annotations, tally: Tally, of: tuple[str, str]
) -> Annotations:
    tally.enter_many(stage.label, held.images.num_rows, held.instances.num_rows)
    images, instances = _frame(held.images), _frame(held.instances)
    first = held.images["image"][0].as_py() if held.images.num_rows else "none"
    where = f"{counted(held.images.num_rows, 'image')} from {first}"
    answer = _asked(stage, where, work, images, instances)
    if not isinstance(answer, tuple) or len(answer) != 2:
        name = type(answer).__name__
        raise IngestError(f"stage {stage.label} returned {name}; it owes two frames, images and instances.")
    done_images, done_instances = answer
    for before, after, kind, keys in (
        (images, done_images, "images", ["source_id", "image", "depth_image", "source_digest"]),
        (instances, done_instances, "instances", ["image_row", "id"]),
    ):
        missing = [key for key in keys if not isinstance(after, pl.DataFrame) or key not in after.columns]
        if missing or not before.select(keys).equals(after.select(keys)):
            raise IngestError(
                f"stage {stage.label} did not return the {kind} it was given, in their order; a table stage takes rows "
                f"out by giving them a {REASON}, and leaves {', '.join(keys)} as they are."
            )
        unknown = set(after.columns) - set(before.columns) - {REASON, DETAIL}
        if unknown:
            raise IngestError(
                f"stage {stage.label} made the column {min(unknown)} of {kind}, which nobody would read; there are "
                f"{', '.join(before.columns)}, {REASON} and {DETAIL}. What has no column goes into extras."
            )
        for name in (REASON, DETAIL):
            if name in after.columns and after[name].dtype not in (pl.String, pl.Null):
                given_kind = after[name].dtype
                raise IngestError(f"stage {stage.label} gave {name} of {kind} as {given_kind}; it is a text or null.")
        _refuse_taken_extras(stage, before, after, where)
    lost_image, lost_instance = _marked(done_images), _marked(done_instances)
    image_rows = instances["image_row"].to_numpy()
    with_image = lost_image[image_rows]
    sources = done_images.select("image", "source_id").with_columns(image_row=pl.int_range(pl.len(), dtype=pl.Int64))
    alone = done_instances.filter(pl.Series(lost_instance & ~with_image))
    named = alone.join(sources, "image_row", maintain_order="left").rename({"id": "instance_id"})
    rows = [row for frame in (done_images, named) for row in _reasons(frame)]
    rejects = [Reject(dataset=of[0], split=of[1], outcome="lost", **row) for row in rows]
    tally.reject_rows(stage.label, rejects_table(rejects))
    tally.lose_instances(stage.label, int(with_image.sum()))
    kept_images = done_images.filter(pl.Series(~lost_image))
    place = (~lost_image).cumsum() - 1
    kept_instances = done_instances.filter(pl.Series(~(lost_instance | with_image)))
    kept_rows = pl.Series("image_row", place[kept_instances["image_row"].to_numpy()], pl.Int64)
    num_keypoints = keypoints_of(held.instances).shape[1]
    try:
        return Annotations(
            _table(kept_images, IMAGE_COLUMNS),
            _table(kept_instances.with_columns(kept_rows), instance_columns(num_keypoints)),
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, pl.exceptions.PolarsError) as error:
        raise IngestError(f"stage {stage.label} left a column of another type or without a value: {error}.") from None


def _refuse_taken_extras(stage: LoadedStage, before: pl.DataFrame, after: pl.DataFrame, where: str) -> None:
    if "extras" not in after.columns or before["extras"].equals(after["extras"], null_equal=True):
        return
    for given, left in zip(before["extras"], after["extras"], strict=True):
        said = OF_STAGES & orjson.loads(given).keys() if given else OF_STAGES & set()
        if unsaid := said - (orjson.loads(left).keys() if left else set()):
            raise _taken_away(stage, min(unsaid), where)


def _run_table_stage_on_pictures(
    stage: LoadedStage, work: TableStage, pictures: list[Picture], tally: Tally, skeleton: Skeleton
) -> Iterator[Picture]:
    if not pictures:
        return
    first = pictures[0].record
    held = to_annotations([picture.record for picture in pictures], skeleton.num_keypoints)
    left = _run_table_stage(stage, work, held, tally, (first.dataset, first.split))
    picture_of = {picture.record.source_id: picture for picture in pictures}
    for record in to_records(left, first.dataset, first.split):
        picture = picture_of[record.source_id]
        yield replace(picture, record=replace(record, depth=picture.record.depth))


def _asked(stage: LoadedStage, where: str, work: Callable[..., Any], *given: Any) -> Any:
    try:
        return work(*given)
    except PoseCoreError as error:
        raise IngestError(f"stage {stage.label} at {where}: {error}") from error
    except Exception as error:
        options = stage.work.model_dump_json() if isinstance(stage.work, Stage) else "none"
        raise IngestError(
            f"stage {stage.label} (options {options}) failed at {where}{failing_line(error)}: {said(error)}."
        ) from error


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return frame.select(schema.names).to_arrow().cast(schema)


def _marked(frame: pl.DataFrame) -> Any:
    if REASON not in frame.columns:
        return pl.Series([False] * frame.height, dtype=pl.Boolean).to_numpy()
    return frame[REASON].is_not_null().to_numpy()


def _reasons(frame: pl.DataFrame) -> Iterator[dict[str, str]]:
    """What :class:`~posecore.schema.Reject` says of each row that is taken out, dataset and split excepted."""
    if REASON not in frame.columns:
        return
    detail = pl.col(DETAIL).fill_null("") if DETAIL in frame.columns else pl.lit("")
    instance = ["instance_id"] if "instance_id" in frame.columns else []
    said = frame.filter(pl.col(REASON).is_not_null()).select(
        "source_id", *instance, reason=REASON, detail=detail, source="image"
    )
    yield from said.iter_rows(named=True)
