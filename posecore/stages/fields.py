"""A stage that says who, which video and which view, from other columns or from the name of the file."""

import string
from functools import cached_property
from typing import Self

import polars as pl
from pydantic import model_validator

from posecore.stages.frames import column_of
from posecore.stages.protocol import DETAIL, REASON, TableStage

_IMAGE_SOURCES = ("source_id", "image", "license", "video_id", "view_id", "frame_index")
_INSTANCE_SOURCES = ("id", "category", "subject_id", "track_id")


class SetFields(TableStage):
    """Fills fields in from templates such as ``{clinic}-{video_id}``.

    In braces stands a named group of ``pattern``, or another column: of the image, and for the fields of a body also of
    the body. Where a column is missing, so is the field.

    Attributes:
        pattern: regular expression, searched for in the path of the image. An image without it is taken out
            (``name-without-pattern``).
        video_id: template.
        view_id: template.
        frame_index: template of a whole number; an image where it is none is taken out (``no-frame-index``).
        subject_id: template; crowd regions get none.
        track_id: template; likewise.
    """

    pattern: str | None = None
    video_id: str | None = None
    view_id: str | None = None
    frame_index: str | None = None
    subject_id: str | None = None
    track_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self._of_images or self._of_instances):
            raise ValueError("give at least one of video_id, view_id, frame_index, subject_id, track_id.")
        for name, template in (self._of_images | self._of_instances).items():
            known = (*self._groups, *_IMAGE_SOURCES, *(_INSTANCE_SOURCES if name in self._of_instances else ()))
            try:
                used = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
            except ValueError as error:
                raise ValueError(f"{name}: {template!r} is not a template ({error}).") from None
            for field in used:
                if field not in known:
                    raise ValueError(f"{name}: {{{field}}} is none of {', '.join(known)}.")
        return self

    @cached_property
    def _of_images(self) -> dict[str, str]:
        given = {"video_id": self.video_id, "view_id": self.view_id, "frame_index": self.frame_index}
        return {name: template for name, template in given.items() if template is not None}

    @cached_property
    def _of_instances(self) -> dict[str, str]:
        given = {"subject_id": self.subject_id, "track_id": self.track_id}
        return {name: template for name, template in given.items() if template is not None}

    @cached_property
    def _groups(self) -> tuple[str, ...]:
        if self.pattern is None:
            return ()
        try:
            found = pl.Series([""]).str.extract_groups(self.pattern)
        except pl.exceptions.ComputeError as error:
            said = " ".join(str(error).split())
            raise ValueError(f"pattern: not a regular expression ({said}).") from None
        return tuple(field.name for field in found.dtype.fields if not field.name.isdigit())  # type: ignore[attr-defined]

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns the rows with the fields filled in."""
        told = images.select(pl.col(_IMAGE_SOURCES).cast(pl.String))
        reasons = [pl.lit(None, pl.String)]
        if self.pattern is not None:
            told = told.with_columns(images["image"].str.extract_groups(self.pattern).struct.unnest())
            reasons.append(_reason(~pl.col("image").str.contains(self.pattern), "name-without-pattern"))
        filled = {name: _filled(template, told) for name, template in self._of_images.items()}
        if "frame_index" in filled:
            stated = filled["frame_index"]
            filled["frame_index"] = stated.cast(pl.Int64, strict=False)
            reasons.append(_reason(pl.lit(filled["frame_index"].is_null() & stated.is_not_null()), "no-frame-index"))
        marks = told.with_columns(pl.coalesce(reasons).alias(REASON))[REASON]  # one per row, be it a constant
        of_bodies = told[instances["image_row"].to_numpy()].with_columns(
            instances[name].cast(pl.String) for name in _INSTANCE_SOURCES
        )
        bodies = {
            name: pl.select(pl.when(~instances["is_crowd"]).then(_filled(template, of_bodies)).alias(name))[name]
            for name, template in self._of_instances.items()
        }
        return images.with_columns(marks, **filled).with_columns(_DETAILS), instances.with_columns(**bodies)


_DETAILS = (
    pl.when(pl.col(REASON) == "name-without-pattern")
    .then(pl.lit("the pattern of set_fields is not in its path."))
    .otherwise(pl.lit("what set_fields makes its frame_index is not a whole number."))
    .alias(DETAIL)
)


def _reason(holds: pl.Expr, reason: str) -> pl.Expr:
    return pl.when(holds).then(pl.lit(reason))


def _filled(template: str, told: pl.DataFrame) -> pl.Series:
    parts: list[pl.Expr] = []
    for text, field, _, _ in string.Formatter().parse(template):
        parts += [pl.lit(text), *([pl.col(field)] if field is not None else [])]
    filled = told.select(pl.concat_str(parts).alias("filled"))["filled"]
    return filled if len(filled) == told.height else column_of(filled[0], told.height)
