"""The kinds of stages, one protocol each.

A stage is a class with its options as typed fields: what ``dataset.yaml`` gives under ``options`` is validated by them,
and an unknown option is refused by name. Whatever its kind, a stage is a pure function of what it is given and of its
options; one that needs chance draws it from the record's id. ``assert_stage_is_pure`` of
:mod:`posecore.ingest.purity` tries that.

A stage with a field ``skeleton: Skeleton = Field(exclude=True)`` is given the dataset's.

Besides these, a plain function ``record -> record | Reject | (record, rejects)`` is a stage without options.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from posecore.config import Config
from posecore.datasets.definition import StageResources
from posecore.schema import Record, Reject
from posecore.storage import AnyPath

if TYPE_CHECKING:
    import polars as pl

SKELETON = "skeleton"
"""Field of a stage that is no option: the dataset's skeleton."""

REASON, DETAIL = "reject_reason", "reject_detail"
"""Columns by which a table stage takes rows out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One image on its way into a shard.

    Attributes:
        data: the bytes of a JPEG or PNG file.
        record: its annotations, with its true width and height.
        depth: the bytes of its depth picture, if it has one.
    """

    data: bytes
    record: Record
    depth: bytes | None = None


class Stage(Config):
    """Base of all stages with options.

    Attributes:
        resources: what Ray reserves for it unless ``dataset.yaml`` says otherwise.
        may_lose: it takes out what it is told to: its losses are counted, but never stop an ingestion.
    """

    resources: ClassVar[StageResources] = StageResources()
    may_lose: ClassVar[bool] = False


class TableStage(Stage):
    """Columns in, columns out: sees the annotations of many images at once, and no picture."""

    def __call__(self, images: "pl.DataFrame", instances: "pl.DataFrame") -> "tuple[pl.DataFrame, pl.DataFrame]":
        """Returns the same rows in the same order, with other values.

        To take rows out, it gives them a reason: a text in the column ``reject_reason``, kebab-case, and a sentence for
        a person in ``reject_detail``; null keeps a row. Instances of an image that is taken out go with it.

        Args:
            images: of :data:`~posecore.tables.columns.IMAGE_COLUMNS`.
            instances: of :func:`~posecore.tables.columns.instance_columns`; ``image_row`` is the row of ``images``.
        """
        raise NotImplementedError


class SourceStage(Stage):
    """From what a download holds to pictures, where its files are none: frames of videos, pictures of a scanner.

    Annotations stay as they are up to it, and from it on stages are given pictures; there is one at most.
    """

    def source_file(self, image: str) -> str | None:
        """The file that the ``image`` of a record is read from, by its path below the download.

        None if it is a picture: that is read without the stage.
        """
        raise NotImplementedError

    def __call__(self, root: AnyPath, records: Sequence[Record], max_pixels: int) -> Iterator[Picture | Reject]:
        """Yields the picture of each record, in order, or a reject of it; neighbours are often of one file.

        Args:
            root: folder of the download.
            records: of which :meth:`source_file` names a file.
            max_pixels: a larger picture is rejected before it is decoded.
        """
        raise NotImplementedError


class ImageStage(Stage):
    """A picture in, a picture out: may change bytes, sizes and annotations together."""

    def __call__(self, picture: Picture) -> Picture | Reject | tuple[Picture, Sequence[Reject]]:
        """Returns the picture to go on with, a reject of it, or it with the rejects of instances it has lost.

        What was done to the bytes is told from the bytes: a changed picture keeps the digest of its source.
        """
        raise NotImplementedError


class ModelStage(Stage):
    """Pictures in, pictures out, batch by batch, by something that is dear to build: a detector, a teacher."""

    def set_up(self) -> None:
        """Builds what the stage needs; called once per process, before the first batch."""

    def __call__(self, pictures: Sequence[Picture]) -> Sequence[Picture | Reject | tuple[Picture, Sequence[Reject]]]:
        """Returns one answer per picture, in order, as :meth:`ImageStage.__call__` does."""
        raise NotImplementedError
