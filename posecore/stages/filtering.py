"""A stage that keeps the images and bodies of which a condition is true."""

from functools import cached_property
from typing import ClassVar, Self

import polars as pl
from pydantic import model_validator

from posecore.stages.expression import parse_condition
from posecore.stages.frames import keypoints_of
from posecore.stages.protocol import DETAIL, REASON, TableStage

_IMAGE = pl.Schema(
    dict.fromkeys(("source_id", "image", "license", "video_id", "view_id"), pl.String())
    | dict.fromkeys(("width", "height"), pl.Int32())
    | {"frame_index": pl.Int64(), "metres_per_unit": pl.Float64(), "num_instances": pl.Int64()}
)
_INSTANCE = pl.Schema(
    dict.fromkeys(("id", "area_rule", "category", "subject_id", "track_id"), pl.String())
    | dict.fromkeys(("bbox_x", "bbox_y", "bbox_w", "bbox_h", "area"), pl.Float64())
    | {"category_id": pl.Int64(), "is_crowd": pl.Boolean(), "num_keypoints": pl.Int32(), "num_labelled": pl.Int64()}
    | {f"image.{name}": kind for name, kind in _IMAGE.items()}
)


class Filter(TableStage):
    """Takes out what a condition is not true of (``filtered``); where it is missing, it is not true.

    Attributes:
        images: condition on columns of images, and ``num_instances``.
        instances: condition on columns of instances, ``num_labelled``, and ``image.`` with a column of images.
    """

    may_lose: ClassVar[bool] = True

    images: str | None = None
    instances: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images is None and self.instances is None:
            raise ValueError("give a condition: images, instances or both.")
        _ = self._on_images, self._on_instances
        return self

    @cached_property
    def _on_images(self) -> pl.Expr | None:
        return None if self.images is None else parse_condition(self.images, _IMAGE)

    @cached_property
    def _on_instances(self) -> pl.Expr | None:
        return None if self.instances is None else parse_condition(self.instances, _INSTANCE)

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns the rows, those taken out marked."""
        rows = instances["image_row"].to_numpy()
        counts = pl.Series(rows).value_counts(name="num_instances").rename({"": "image_row"})
        told = (
            images.with_columns(image_row=pl.int_range(pl.len(), dtype=pl.Int64))
            .join(counts, "image_row", how="left", maintain_order="left")
            .select(pl.col("num_instances").fill_null(0).cast(pl.Int64), *(set(_IMAGE) - {"num_instances"}))
        )
        about = told[rows].rename(lambda name: f"image.{name}")
        flags = keypoints_of(instances)[:, :, 2]
        bodies = instances.select(name for name in _INSTANCE if name in instances.columns).with_columns(
            *about.iter_columns(), num_labelled=pl.Series((flags > 0).sum(axis=1), dtype=pl.Int64)
        )
        return _marked(images, told, self._on_images, self.images), _marked(
            instances, bodies, self._on_instances, self.instances
        )


def _marked(frame: pl.DataFrame, told: pl.DataFrame, condition: pl.Expr | None, text: str | None) -> pl.DataFrame:
    if condition is None:
        return frame
    true = told.select(condition.fill_null(False).alias(REASON))[REASON]
    if len(true) != frame.height:  # a condition on constants alone
        true = pl.Series([bool(true[0])] * frame.height, dtype=pl.Boolean)
    return frame.with_columns(
        pl.when(~true).then(pl.lit("filtered")).alias(REASON), pl.lit(f"not true of it: {text}").alias(DETAIL)
    )
