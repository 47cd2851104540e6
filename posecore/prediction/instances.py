"""What goes into a prediction and what comes out: boxes on an image, and the bodies found in them."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from posecore.errors import PredictionError
from posecore.geometry import MAX_REACH, boxes_beyond_reach
from posecore.models.uncertainty import PointUncertainty
from posecore.schema import Json

if TYPE_CHECKING:
    import polars as pl

NO_TRACK = -1
"""Track id of an instance that was not tracked."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Where the bodies of one image are.

    Attributes:
        bbox_xywh: (N, 4) float64, x, y of the upper left corner, width, height, in 0-based image pixels. A box may
            reach beyond the image.
        scores: (N,) confidence of a detector; None for boxes that are right by definition, each of which is answered
            exactly once. Answers to detected boxes that turn out to be the same body are reduced to the best.
    """

    bbox_xywh: Float[np.ndarray, "N 4"]
    scores: Float[np.ndarray, " N"] | None = None

    def __len__(self) -> int:
        return len(self.bbox_xywh)

    @classmethod
    def whole(cls, image_size: tuple[int, int]) -> "Boxes":
        """One box around an image of this (height, width)."""
        height, width = image_size
        return cls(np.array([[0.0, 0.0, width, height]]))

    def check(self, image_size: tuple[int, int], where: str) -> None:
        """Returns if every box can be cropped.

        Args:
            image_size: (height, width) of the image.
            where: what the message calls the image.

        Raises:
            PredictionError: a box has a value that is not finite, has no extent, lies wholly outside the image, or is
                absurdly large beside it.
        """
        height, width = image_size
        x, y, w, h = np.moveaxis(self.bbox_xywh, -1, 0)
        finite = np.isfinite(self.bbox_xywh).all(axis=1)
        with np.errstate(invalid="ignore"):
            extended = (w > 0) & (h > 0)
            inside = (x < width) & (y < height) & (x + w > 0) & (y + h > 0)
        for bad, problem in (
            (~finite, "is not finite"),
            (~extended, "has no width or no height"),
            (~inside, f"lies outside the image of {width}x{height} pixels"),
            (
                boxes_beyond_reach(self.bbox_xywh, image_size),
                f"reaches more than {MAX_REACH:g} times the image's longer side beyond {width}x{height} pixels",
            ),
        ):
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                shown = ", ".join(f"{value:g}" for value in self.bbox_xywh[row])
                raise PredictionError(
                    f"{where}: box {row} ({shown}) {problem}; a box is x, y, width, height in pixels of its image."
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePrediction:
    """The bodies found in one image by one head; N is 0 where there was no box.

    Attributes:
        head: the dataset whose points these are.
        keypoints: (N, K, 2) float64 x, y in 0-based pixels of the image as stored (EXIF orientation ignored).
        keypoint_scores: (N, K) confidence of each point, usually the heatmap's maximum.
        scores: (N,) confidence of each body: its box's score × the mean of its keypoint scores above the threshold.
        bbox_xywh: (N, 4) the boxes that were cropped; around each body's points, where whole pictures were looked at.
        box_scores: (N,) their confidence; 1 where none was given.
        box_rows: (N,) which of the given boxes each body answers.
        track_ids: (N,) number of the body through a video, :data:`NO_TRACK` where there was no tracking.
        points: K names, in the order of the points.
        uncertainty: how sure the points are; None of a model that was not calibrated and has learned no covariances.
    """

    head: str
    keypoints: Float[np.ndarray, "N K 2"]
    keypoint_scores: Float[np.ndarray, "N K"]
    scores: Float[np.ndarray, " N"]
    bbox_xywh: Float[np.ndarray, "N 4"]
    box_scores: Float[np.ndarray, " N"]
    box_rows: Int[np.ndarray, " N"]
    track_ids: Int[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, np.int64))
    points: tuple[str, ...] = ()
    uncertainty: PointUncertainty | None = None

    def __post_init__(self) -> None:
        if len(self.track_ids) != len(self.scores):
            object.__setattr__(self, "track_ids", np.full(len(self.scores), NO_TRACK, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def with_tracks(self, track_of_box: NDArray[np.int64]) -> "ImagePrediction":
        """The same bodies, numbered by the tracks of the given boxes."""
        return replace(self, track_ids=track_of_box[self.box_rows])

    def with_keypoints(self, keypoints: Float[np.ndarray, "N K 2"]) -> "ImagePrediction":
        """The same bodies with other, for instance smoothed, places of their points."""
        return replace(self, keypoints=keypoints)

    def to_coco(self, image_id: int | str) -> list[dict[str, Json]]:
        """One entry of COCO's results format per body, with ``bbox``, ``box_score`` and, if tracked, ``track_id``.

        Of a calibrated model also ``radii``, pixels, null where there is no point.

        Args:
            image_id: COCO's number of the image, or a name for it.
        """
        radii = self.sure().get("radius")
        triplets = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=2)
        return [
            {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": values,
                "score": score,
                "bbox": box,
                "box_score": box_score,
                **({} if track == NO_TRACK else {"track_id": track}),
                **(
                    {}
                    if radii is None
                    else {"radii": [None if np.isnan(each) else each for each in radii[row].tolist()]}
                ),
            }
            for row, (values, score, box, box_score, track) in enumerate(
                zip(
                    triplets.reshape(len(self), 3 * self.keypoints.shape[1]).tolist(),
                    self.scores.tolist(),
                    self.bbox_xywh.tolist(),
                    self.box_scores.tolist(),
                    self.track_ids.tolist(),
                    strict=True,
                )
            )
        ]

    def to_frame(self) -> "pl.DataFrame":
        """A row per body and point: ``body``, ``track``, ``body_score``, ``point``, ``x``, ``y``, ``score``.

        Of a calibrated model also ``sigma_x``, ``sigma_y``, ``rho``, ``visible`` and ``radius``, null where not known.
        """
        import polars as pl

        count, num_points = self.keypoint_scores.shape
        tracks = [None if track == NO_TRACK else track for track in self.track_ids.tolist()]
        return pl.DataFrame(
            {
                "body": np.repeat(np.arange(count), num_points),
                "track": pl.Series(np.repeat(np.array(tracks, object), num_points).tolist(), dtype=pl.Int64),
                "body_score": np.repeat(self.scores, num_points),
                "point": pl.Series(list(self.points or map(str, range(num_points))) * count, dtype=pl.String),
                "x": self.keypoints[..., 0].reshape(-1),
                "y": self.keypoints[..., 1].reshape(-1),
                "score": self.keypoint_scores.reshape(-1),
                **{name: pl.Series(values.reshape(-1), nan_to_null=True) for name, values in self.sure().items()},
            }
        )

    def sure(self) -> dict[str, NDArray[np.float64]]:
        """By column of a table, (N, K) numbers of :attr:`uncertainty`, NaN where not known; none without it."""
        if self.uncertainty is None:
            return {}
        found = self.uncertainty
        columns = {"sigma_x": found.sigma[..., 0], "sigma_y": found.sigma[..., 1], "rho": found.rho}
        columns |= {"visible": found.visible, "radius": found.radius}
        return {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}

    def take(self, chosen: Bool[np.ndarray, " N"]) -> "ImagePrediction":
        """Some of the bodies."""
        rows = {name: getattr(self, name)[chosen] for name in _ROW_ARRAYS}
        sure = None if self.uncertainty is None else self.uncertainty.take(chosen)
        return replace(self, **rows, uncertainty=sure)


_ROW_ARRAYS = ("keypoints", "keypoint_scores", "scores", "bbox_xywh", "box_scores", "box_rows", "track_ids")
