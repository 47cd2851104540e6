"""Whether a stage is a pure function: a helper for people's own tests, and what ``posecore datasets check`` asks."""

import copy
from collections.abc import Sequence
from typing import TypeAlias

from posecore.datasets.definition import StageResources
from posecore.errors import IngestError
from posecore.ingest.staging import run_on_annotations, run_on_pictures, wants_pictures
from posecore.ingest.tally import Tally
from posecore.schema import Json, Record, record_to_json
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.load import LoadedStage
from posecore.stages.protocol import ModelStage, Picture, Stage
from posecore.stages.records import RecordStage
from posecore.tables.records import to_annotations

_Given: TypeAlias = tuple[Record, bytes, bytes | None]
_Files: TypeAlias = tuple[bytes, bytes | None]
_Answers: TypeAlias = dict[str, tuple[_Files | None, bytes | None, list[dict[str, Json]]]]
"""By source id: pictures, record as JSON, and what was taken out; None for an image that was."""


def assert_stage_is_pure(
    stage: LoadedStage | Stage | RecordStage,
    records: Sequence[Record],
    skeleton: Skeleton,
    pictures: Sequence[bytes] = (),
    depths: Sequence[bytes | None] = (),
) -> None:
    """Returns if a stage says the same of the same images again, in another order, and among fewer others.

    Args:
        stage: one of :func:`~posecore.stages.load.load_stages`, or a stage or function as it was written.
        records: some of a dataset's, with ids of their own; of a single one little can be told.
        skeleton: of the dataset.
        pictures: the file of each record's image, for stages that see pictures.
        depths: the file of each one's depth picture, if there are any.

    Raises:
        IngestError: it does not, it changed what it was given, or it fails; names the first image.
    """
    if not isinstance(stage, LoadedStage):
        name = type(stage).__name__ if isinstance(stage, Stage) else stage.__name__
        stage = LoadedStage(name, stage, stage.resources if isinstance(stage, Stage) else StageResources())
    none = [b""] * len(records)
    given = list(zip(records, pictures or none, depths or [None] * len(records), strict=True))
    if isinstance(stage.work, ModelStage):
        stage.work.set_up()
    half = (len(given) + 1) // 2
    first = _answers(stage, given, skeleton)
    others = {
        "again": _answers(stage, given, skeleton),
        "in another order": _answers(stage, given[::-1], skeleton),
        "among fewer others": _answers(stage, given[:half], skeleton) | _answers(stage, given[half:], skeleton),
    }
    for how, answers in others.items():
        for record in records:
            if answers[record.source_id] != first[record.source_id]:
                raise IngestError(
                    f"stage {stage.label} says something else of {record.image} when it is asked {how}: make it a "
                    "function of the record and its options alone."
                )


def _answers(stage: LoadedStage, given: Sequence[_Given], skeleton: Skeleton) -> _Answers:
    if not given:
        return {}
    tally = Tally([stage.label])
    answers: _Answers = {record.source_id: (None, None, []) for record, _, _ in given}
    if wants_pictures(stage):
        asked = [Picture(data=data, record=copy.deepcopy(record), depth=depth) for record, data, depth in given]
        before = [record_to_json(picture.record) for picture in asked]
        for picture in run_on_pictures(stage, asked, tally, skeleton):
            files = (picture.data, picture.depth)
            answers[picture.record.source_id] = (files, record_to_json(picture.record), [])
        for picture, text in zip(asked, before, strict=True):
            if record_to_json(picture.record) != text:
                raise IngestError(
                    f"stage {stage.label} changed the record of {picture.record.image} that it was given; a picture's "
                    "record is replaced by another (dataclasses.replace), never changed."
                )
    else:
        annotations = to_annotations([record for record, _, _ in given], skeleton.num_keypoints)
        of = (given[0][0].dataset, given[0][0].split)
        for record in run_on_annotations([stage], annotations, tally, skeleton, of):
            answers[record.source_id] = (None, record_to_json(record), [])
    for row in tally.rejects():
        answers[row["source_id"]][2].append(row)
    return answers
