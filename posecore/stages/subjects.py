"""Who may be in the shards: stages that keep or take out the bodies of listed subjects, pictures included."""

from functools import cached_property
from typing import Any, ClassVar

import polars as pl
from pydantic import InstanceOf, field_validator

from posecore.stages.declared_file import DeclaredFile
from posecore.stages.protocol import DETAIL, REASON, TableStage


class _ListedSubjects(TableStage):
    """What the two have in common.

    Attributes:
        subjects: their ids, or a declared file with one a line.
        bodies_only: take out annotations alone, although the pictures still show those bodies.
    """

    may_lose: ClassVar[bool] = True

    subjects: tuple[str, ...] | InstanceOf[DeclaredFile]
    bodies_only: bool = False

    @field_validator("subjects", mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        if isinstance(value, DeclaredFile) or (
            isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
        ):
            return value
        raise ValueError('a list of texts such as ["07", s12], or a file with one a line, under `files`.')

    @cached_property
    def _listed(self) -> pl.Series:
        names = self.subjects.lines() if isinstance(self.subjects, DeclaredFile) else self.subjects
        return pl.Series(sorted(set(names)), dtype=pl.String)

    def _is_listed(self) -> pl.Expr:
        return pl.col("subject_id").is_in(self._listed.implode()).fill_null(False)

    def _taken_out(
        self, images: pl.DataFrame, instances: pl.DataFrame, unwanted: pl.Expr, reason: str, said: pl.Expr
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        marked = instances.with_columns(
            pl.when(unwanted).then(pl.lit(reason)).alias(REASON),
            pl.format("subject {} {}.", pl.col("subject_id").fill_null("without a name"), said).alias(DETAIL),
        )
        if self.bodies_only:
            return images, marked
        rows = marked.filter(pl.col(REASON).is_not_null()).group_by("image_row", maintain_order=True).first()
        found = images.select(image_row=pl.int_range(pl.len(), dtype=pl.Int64)).join(
            rows.select("image_row", REASON, DETAIL), "image_row", how="left", maintain_order="left"
        )
        return images.with_columns(found[REASON], found[DETAIL]), instances


class KeepSubjects(_ListedSubjects):
    """Takes out every image that shows a body of a subject who is not listed, or is not named (``subject-not-listed``).

    Crowd regions are nobody's: they and images without bodies stay.
    """

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns the rows of listed subjects."""
        unwanted = ~self._is_listed() & ~pl.col("is_crowd")
        return self._taken_out(images, instances, unwanted, "subject-not-listed", pl.lit("is not among those to keep"))


class DropSubjects(_ListedSubjects):
    """Takes out every image that shows a body of a listed subject (``subject-listed``), such as a withdrawn consent.

    Attributes:
        reasons: subject to why it is listed; told with what is taken out.
    """

    reasons: dict[str, str] = {}

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns the rows of all others."""
        reason = pl.col("subject_id").replace_strict(self.reasons, default=None, return_dtype=pl.String)
        said = pl.format("is among those to take out{}", pl.coalesce(pl.format(": {}", reason), pl.lit("")))
        return self._taken_out(images, instances, self._is_listed(), "subject-listed", said)
