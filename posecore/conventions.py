"""How boxes become crops and crops become points: what labels mean, and what a head was trained under.

The two are kept apart, since one cannot know the other: a dataset says what its *labels* mean
(:class:`LabelConventions`), and a model how each of its *heads* was trained (:class:`HeadConventions`), whatever data
it meets. Together they decide how crops are cut (:class:`Conventions`).
"""

from typing import Any, Literal

from pydantic import ConfigDict, SerializerFunctionWrapHandler, ValidationInfo, model_serializer, model_validator

from posecore.config import Config
from posecore.nearest import choices

STORED = {"stored": True}
"""Validation context of what was written earlier: definitions that still said how heads were trained are read."""


class LabelConventions(Config):
    """What the boxes and bodies of a dataset mean.

    Attributes:
        box_source: ``bbox``, or ``center_scale`` where the dataset gives a centre and a scale (MPII).
        clip_boxes: clip ground-truth boxes to the image first, as the published COCO loader does.
        padded: boxes have their margin already and are cropped as they are, such as the frame of a fixed camera.
        half_bodies: whether a body has an upper and a lower half that could be cropped alone.
    """

    model_config = ConfigDict(extra="allow")

    box_source: Literal["bbox", "center_scale"] = "bbox"
    clip_boxes: bool = True
    padded: bool = False
    half_bodies: bool = True

    @model_validator(mode="before")
    @classmethod
    def _halves(cls, values: Any, info: ValidationInfo) -> Any:
        """``half_body_min_keypoints: null``, as definitions used to say that these bodies have no halves."""
        name = "half_body_min_keypoints"
        if (
            isinstance(values, dict)
            and name in values
            and values[name] is None
            and not (info.context or {}).get("stored")
        ):
            return {key: value for key, value in values.items() if key != name} | {"half_bodies": False}
        return values

    @model_validator(mode="after")
    def _refuse_more(self, info: ValidationInfo) -> "LabelConventions":
        more = [*(self.model_extra or {})]
        moved = [name for name in more if name in HeadConventions.model_fields]
        if moved and not (info.context or {}).get("stored"):
            raise ValueError(
                f"{moved[0]} is of the model, not of the labels; leave it out here, and give it in the run file, under "
                "conventions of the model, if it is not to be the preset's."
            )
        if strange := [name for name in more if name not in moved]:
            raise ValueError(f"{strange[0]} is no convention of labels.{choices(strange[0], type(self).model_fields)}")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says nothing: manifests written before there was such a field keep their digest."""
        values: dict[str, Any] = write(self)
        for name in ("padded", "half_bodies"):
            if values[name] == type(self).model_fields[name].default:
                del values[name]
        return values


class HeadConventions(Config):
    """How a head was trained, and must be read.

    Attributes:
        codec: ``udp`` (unit is the distance between pixel centres) or ``msra`` (integer-centred, quarter offset).
        padding: the box is enlarged by this factor.
        flip_shift: shift the mirrored heatmap by one column in the flip test.
        half_body_min_keypoints: half-body augmentation applies above this many labelled points; None switches it off.
        center_jitter: whether the published pipeline jitters the box centre in training.
    """

    codec: Literal["udp", "msra"] = "udp"
    padding: float = 1.25
    flip_shift: bool = False
    half_body_min_keypoints: int | None = 8
    center_jitter: bool = True

    def on(self, labels: LabelConventions) -> "Conventions":
        """This head on data with other labels."""
        values = {name: getattr(self, name) for name in HeadConventions.model_fields}
        if labels.padded:
            values["padding"] = 1.0
        if not labels.half_bodies:
            values["half_body_min_keypoints"] = None
        return Conventions(**values, box_source=labels.box_source, clip_boxes=labels.clip_boxes)


class Conventions(HeadConventions):
    """How crops of some data are cut for a head.

    Attributes:
        box_source: see :class:`LabelConventions`.
        clip_boxes: likewise.
    """

    box_source: Literal["bbox", "center_scale"] = "bbox"
    clip_boxes: bool = True

    @property
    def head(self) -> HeadConventions:
        """Those of the head, whatever the labels."""
        return HeadConventions(**{name: getattr(self, name) for name in HeadConventions.model_fields})

    @property
    def reading(self) -> dict[str, object]:
        """What a trained head cannot do without: other values cost accuracy without any error."""
        return {"codec": self.codec, "flip_shift": self.flip_shift, "padding": self.padding}
