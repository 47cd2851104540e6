"""What codecs of whole pictures share: outputs of a head become the bodies of a picture."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.codecs.grouping import GroupingConfig, SceneBodies
from posecore.config import Config
from posecore.geometry import CropConvention
from posecore.skeletons.skeleton import Skeleton


class SelectionConfig(Config):
    """Which of the bodies that a one-stage head proposes are answered.

    Attributes:
        max_bodies: most bodies of a picture; the surest stay.
        least_score: bodies with a lower score are none.
    """

    max_bodies: int = Field(default=50, gt=0)
    least_score: float = Field(default=0.1, ge=0, lt=1)


class SceneReading(Config):
    """How outputs of whole pictures are read; each codec goes by the part that is its own.

    Attributes:
        grouping: how points are put together to bodies.
        selection: which bodies are answered.
    """

    grouping: GroupingConfig = GroupingConfig()
    selection: SelectionConfig = SelectionConfig()

    @property
    def stated(self) -> str:
        """What is not as by default, such as ``peak_threshold 0.3``; nothing where all is."""
        said = [part.model_dump(exclude_defaults=True).items() for part in (self.grouping, self.selection)]
        return ", ".join(f"{name} {value}" for part in said for name, value in part)


class SceneCodec(Codec):
    """The protocol of codecs of whole pictures.

    Attributes:
        mirrored: whether outputs of the mirrored picture are averaged with those of the picture in a flip test; else
            there is none.
    """

    mirrored: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset(SceneReading.model_fields)

    @property
    def crop(self) -> CropConvention:
        """The affine map that pictures are fitted with."""
        return "udp"

    def bodies(
        self, outputs: Tensor, of_mirrored: Tensor | None, skeleton: Skeleton, reading: SceneReading
    ) -> list[SceneBodies]:
        """The bodies of n pictures, in the frame.

        Args:
            outputs: (n, …) of the head, float32.
            of_mirrored: those of the mirrored pictures, likewise; None without a flip test.
            skeleton: the head's.
            reading: how.
        """
        raise NotImplementedError
