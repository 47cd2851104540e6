"""What records say of each instance besides its points: whose body it is, from where it was seen, how it lay."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from posecore.schema import Record
from posecore.shards.index import says_what_protocols_ask
from posecore.shards.store import ShardStore
from posecore.tables.extras import posture

Unit: TypeAlias = Literal["subject", "video", "image"]

NOT_STATED = "not stated"
"""Name of the group of instances of which the records say nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Traits:
    """One entry per instance, in the order of :class:`~posecore.evaluation.arrays.GroundTruth`; None: not stated.

    Attributes:
        subject: whose body it is.
        video: video of the frame.
        view: camera or view of the frame.
        posture: how the body lies or stands (:func:`~posecore.tables.extras.posture`).
        image: source id of the image.
    """

    subject: tuple[str | None, ...]
    video: tuple[str | None, ...]
    view: tuple[str | None, ...]
    posture: tuple[str | None, ...]
    image: tuple[str, ...]

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> "Traits":
        """Traits of all instances, crowds and unlabelled ones included."""
        rows = [(record, instance) for record in records for instance in record.instances]
        return cls(
            subject=tuple(instance.subject_id for _, instance in rows),
            video=tuple(record.video_id for record, _ in rows),
            view=tuple(record.view_id for record, _ in rows),
            posture=tuple(
                posture(instance.extras, record.extras, len(record.instances) == 1) for record, instance in rows
            ),
            image=tuple(record.source_id for record, _ in rows),
        )

    @classmethod
    def from_store(cls, store: ShardStore) -> "Traits":
        """Traits of an ingested split; entry i is row i of its ``index.parquet``.

        Raises:
            IntegrityError: stored bytes are not what was written; of splits whose index says less than is asked.
        """
        bodies = store.instances
        if not says_what_protocols_ask(bodies):
            return cls.from_records(store.read_record(row) for row in range(store.num_images))
        columns = {name: tuple(bodies[f"{name}_id"].to_pylist()) for name in ("subject", "video")}
        views = store.images["view_id"].take(bodies["image_row"])
        posture, image = (tuple(bodies[name].to_pylist()) for name in ("posture", "source_id"))
        return cls(**columns, view=tuple(views.to_pylist()), posture=posture, image=image)

    def __len__(self) -> int:
        return len(self.image)

    def units(self) -> list[tuple[Unit, str]]:
        """Per instance, what a bootstrap draws as one: its subject, else its video, else its image.

        Frames of one video are nearly equal whoever is in them, so where no subject is stated the video stands for it.
        """
        return [
            ("subject", subject) if subject is not None else ("video", video) if video is not None else ("image", image)
            for subject, video, image in zip(self.subject, self.video, self.image, strict=True)
        ]
