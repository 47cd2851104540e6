"""A stage that makes boxes of points."""

import orjson
import polars as pl
from pydantic import Field

from posecore.formats.values import area_of_box, box_around
from posecore.stages.extras import ANNOTATED_BOX
from posecore.stages.frames import keypoints_of
from posecore.stages.protocol import TableStage


class BoxFromPoints(TableStage):
    """Gives bodies the box around their labelled points, enlarged; the box that was there goes into the extras.

    An area that is that of the box follows it. Crowd regions, and bodies with fewer labelled points, keep their box.

    Attributes:
        margin: added on every side, as a share of the longer side of the points' extent.
        min_side_px: least width and height.
        min_points: labelled points that are enough for a box.
        only_missing: where the box that is there has an extent, it stays.
    """

    margin: float = Field(default=0.25, ge=0)
    min_side_px: float = Field(default=1.0, gt=0)
    min_points: int = Field(default=1, ge=1)
    only_missing: bool = False

    def __call__(self, images: pl.DataFrame, instances: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns the rows with other boxes."""
        keypoints = keypoints_of(instances)
        wanted = ((keypoints[:, :, 2] > 0).sum(axis=1) >= self.min_points) & ~instances["is_crowd"].to_numpy()
        if self.only_missing:
            extent = instances.select((pl.col("bbox_w") > 0) & (pl.col("bbox_h") > 0))["bbox_w"]
            wanted &= ~extent.fill_null(False).to_numpy()
        columns = ("bbox_x", "bbox_y", "bbox_w", "bbox_h", "area", "area_rule", "extras")
        rows = instances.select(columns).rows()
        for row in wanted.nonzero()[0].tolist():
            *before, area, rule, extras = rows[row]
            box = box_around(keypoints[row], self.margin, self.min_side_px)
            kept = {**(orjson.loads(extras) if extras else {}), ANNOTATED_BOX: before}
            new_area = area_of_box(rule, box[2], box[3]) if rule.startswith("box") else area
            rows[row] = (*box, new_area, rule, orjson.dumps(kept))
        made = pl.DataFrame(rows, instances.select(columns).schema, orient="row")
        return images, instances.with_columns(made.iter_columns())
