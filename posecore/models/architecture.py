"""What a model is made of: the architecture as configuration, and the card that travels with the weights."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from posecore.codecs.codec import Codec
from posecore.codecs.scene import SceneReading
from posecore.config import Config
from posecore.conventions import Conventions, HeadConventions
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.geometry import CropConvention
from posecore.models.backbones.door import BackboneConfig
from posecore.models.bounds import MAX_HEADS, MAX_INPUT_PX, MAX_PATCH_PX
from posecore.models.head import Head, Surroundings
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.heads.door import HeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.presets import PRESETS, Preset, preset_of
from posecore.models.uncertainty import HeadUncertainty
from posecore.nearest import choices
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton

SIMCC_CONVENTIONS = HeadConventions(codec="msra")
"""Under which SimCC heads are published, whatever the dataset (open-mmlab/mmpose @ 759b39c, ``TopdownAffine``)."""

_HEAD: TypeAdapter[Head] = TypeAdapter(HeadConfig)

Side: TypeAlias = Annotated[int, Field(gt=0, le=MAX_INPUT_PX)]


class ModelConfig(Config):
    """An architecture.

    ``backbone`` may be a preset's name, ``{preset: name, field: other value}``, or all fields of a backbone. With a
    preset, every other field left out is the preset's too.

    Attributes:
        backbone: images to features.
        head: decoder of every dataset.
        input_size: (height, width) of the crops in pixels.
        heatmap_sigma: spread of the target Gaussian in heatmap pixels; 2 belongs to 64×48 maps, 3 to 96×72. Of a
            published preset it grows with the maps, if ``input_size`` is given and this is not.
        blur_kernel: side of the blur in UDP decoding, in heatmap pixels; 11 belongs to 64×48 maps, 17 to 96×72;
            likewise.
        blur_border: what that blur sees beyond the map; ``zero`` for Sapiens.
        conventions: how heads are trained and read; a field left out is the preset's, or what the kind of head wants.
        conventions_of: by dataset, where a head's are not these; what is left out of one is taken from ``conventions``.
        shared_heads: dataset to the dataset whose head it uses; both must have the same skeleton points.
        embedding: embedding head and prototypes, a second way to every dataset's heatmaps; None for none.
    """

    backbone: BackboneConfig
    head: HeadConfig = ClassicHeadConfig()
    input_size: tuple[Side, Side] = (256, 192)
    heatmap_sigma: float = Field(default=2.0, gt=0, le=MAX_PATCH_PX)
    blur_kernel: int = Field(default=11, gt=0, le=MAX_PATCH_PX)
    blur_border: Literal["mirror", "zero"] = "mirror"
    conventions: HeadConventions = HeadConventions()
    conventions_of: dict[str, HeadConventions] = {}
    shared_heads: dict[str, str] = {}
    embedding: EmbeddingConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset, backbone = _named_preset(values.get("backbone"))
        resolved = {**preset, **values}
        if backbone is not None:
            resolved["backbone"] = backbone
        if "input_size" in values and preset:
            resolved |= grown(preset, values)
        crop = _only_crop(resolved.get("head"))
        if crop is not None:
            preset = {**preset, "conventions": HeadConventions(codec=crop), "conventions_of": {}}
        resolved["conventions"] = common = _plain(preset.get("conventions")) | _plain(values.get("conventions"))
        of_preset, own = (_plain(each.get("conventions_of")) for each in (preset, values))
        resolved["conventions_of"] = {
            name: common | _plain(of_preset.get(name)) | _plain(own.get(name)) for name in {**of_preset, **own}
        }
        return resolved

    @model_validator(mode="after")
    def _check(self) -> Self:
        multiple = self.backbone.size_multiple
        if any(side % multiple for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of {multiple}, as the backbone needs.")
        if self.head.crop is not None:
            self._refuse_other_conventions(self.head.crop)
        has_maps = self.head.crop is None or (self.head.whole_scenes and self.head.upsampling > 1)
        if has_maps and 2 * self.heatmap_sigma > min(self.heatmap_size):
            height, width = self.heatmap_size
            raise ValueError(
                f"heatmap_sigma {self.heatmap_sigma:g} does not fit maps of {height}×{width} pixels (h×w), which "
                f"input_size {self.input_size} gives: a Gaussian would be as wide as the map; lower it, or leave it "
                "out with a preset, whose spread follows the map."
            )
        if self.head.whole_scenes and self.takes_depth:
            raise ValueError(
                f"backbone.depth_input: a {self.head.kind} head is of whole pictures, which are shown without depth; "
                "leave it out."
            )
        if self.embedding is not None and self.head.whole_scenes:
            raise ValueError(
                f"embedding: prototypes know of one body, and a {self.head.kind} head finds all of a picture; take a "
                "classic head, or leave the embedding out."
            )
        if self.embedding is not None and self.embedding.upsampling != self.head.upsampling:
            raise ValueError(
                f"embedding needs a head whose heatmaps are {counted(self.embedding.upsampling, 'time')} as large as "
                f"its input, such as classic; those of {self.head.kind} are not."
            )
        return self

    @property
    def feature_size(self) -> tuple[int, int]:
        """(height, width) of the backbone's features."""
        height, width = (side // self.backbone.stride for side in self.input_size)
        return height, width

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the heatmaps in pixels."""
        height, width = (side * self.head.upsampling for side in self.feature_size)
        return height, width

    @property
    def takes_depth(self) -> bool:
        """Whether depth may be given besides the picture."""
        return self.backbone.takes_depth

    @property
    def whole_scenes(self) -> bool:
        """Whether it finds all bodies of a whole picture, and no box is needed."""
        return self.head.whole_scenes

    def with_depth(self) -> "ModelConfig":
        """The same, taking depth besides the picture.

        Raises:
            ConfigError: the backbone has no form that does, or the head is of whole pictures.
        """
        if self.whole_scenes:
            raise ConfigError(
                f"depth_input: a {self.head.kind} head is of whole pictures, shown without depth; leave it out."
            )
        return self.model_copy(update={"backbone": self.backbone.with_depth()})

    def _refuse_other_conventions(self, crop: CropConvention) -> None:
        for name, conventions in {"": self.conventions, **self.conventions_of}.items():
            if conventions.codec != crop or conventions.flip_shift:
                field = f"conventions_of.{name}" if name else "conventions"
                raise ValueError(
                    f"{field} says codec {conventions.codec} and flip_shift {str(conventions.flip_shift).lower()}, but "
                    f"a {self.head.kind} head reads {crop} crops and shifts nothing; set {crop} and false, or neither."
                )

    def of_head(self, *names: str) -> HeadConventions:
        """How a head is trained and read.

        Args:
            names: of the head, and of the dataset whose definition it goes by; the first that is known decides.
        """
        return next((self.conventions_of[name] for name in names if name in self.conventions_of), self.conventions)

    def states(self, head: str) -> bool:
        """Whether the configuration says of a head what its preset, or a head of that kind, does not."""
        preset = preset_of(self.backbone)
        published = type(self).model_validate(
            {"backbone": preset or self.backbone, **({} if preset else {"head": self.head})}
        )
        return self.of_head(head) != published.of_head(head)

    def codec(self, conventions: Conventions) -> Codec:
        """How targets are drawn and outputs decoded under a model's conventions."""
        surroundings = Surroundings(
            self.input_size, self.heatmap_size, self.heatmap_sigma, self.blur_kernel, self.blur_border
        )
        return self.head.codec(conventions.codec, surroundings)


class ModelCard(Config):
    """Everything about a model but its weights; stored beside them as ``model.json``.

    Attributes:
        architecture: what to build.
        skeletons: per dataset, whose points the head of that dataset predicts.
        conventions: per dataset, how crops were cut and how heatmaps must be decoded.
        licenses: per dataset or parent model, its licence id.
        lineage: where the weights come from: run, datasets' digests, parent; filled in by the job that trained them.
        uncertainty: what held-out splits have shown of how sure its answers are; of other weights nothing is kept.
    """

    architecture: ModelConfig
    skeletons: dict[str, Skeleton] = Field(max_length=MAX_HEADS)
    conventions: dict[str, Conventions] = Field(max_length=MAX_HEADS)
    licenses: dict[str, str] = {}
    lineage: dict[str, Json] = {}
    uncertainty: tuple[HeadUncertainty, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if missing := self.skeletons.keys() - self.conventions.keys():
            raise ValueError(f"conventions has nothing for {min(missing)!r}, which is among the skeletons.")
        for dataset, conventions in self.conventions.items():
            crop = self.architecture.codec(conventions).crop
            if conventions.codec != crop:
                raise ValueError(
                    f"conventions.{dataset}.codec is {conventions.codec}, but a {self.architecture.head.kind} head "
                    f"reads {crop} crops; set it to {crop}."
                )
        return self

    def points_of(self, head: str, union_names: Sequence[str]) -> list[str]:
        """The names by which a head calls points that are known by these."""
        skeleton = self.skeletons[head]
        return [skeleton.names[skeleton.union_names.index(name)] for name in union_names]

    def heeded(self, head: str, reading: SceneReading) -> SceneReading:
        """What a head goes by of how whole pictures are to be read; the rest, which changes nothing, as by default."""
        codec = self.architecture.codec(self.conventions[head])
        return SceneReading(**{name: getattr(reading, name) for name in codec.reads})

    def uncertainty_of(self, head: str, flip_test: bool, path: str, reading: SceneReading) -> HeadUncertainty | None:
        """What is known of how sure a head's answers are; None where nothing was fitted to answers made in this way."""
        if not self.uncertainty or head not in self.conventions:
            return None
        wanted = (head, flip_test, path, self.heeded(head, reading))
        return next((each for each in self.uncertainty if each.made_by == wanted), None)


def _named_preset(backbone: Any) -> tuple[Preset, dict[str, Any] | None]:
    """The preset that a backbone names, and the backbone's fields with changes; nothing and None where it names none.

    Raises:
        ValueError: there is no such preset.
    """
    changes = {"preset": backbone} if isinstance(backbone, str) else backbone
    if not isinstance(changes, Mapping) or "preset" not in changes:
        return {}, None
    name = changes["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"no backbone preset is called {name!r}.{choices(name, PRESETS)}")
    preset = PRESETS[name]
    fields = preset["backbone"].model_dump() | {key: item for key, item in changes.items() if key != "preset"}
    return preset, fields


def grown(preset: Preset, values: Mapping[str, Any]) -> dict[str, Any]:
    """Spread and blur of a published preset at another input size: 3 and 17 at 384×288, as HRNet was published.

    Args:
        preset: with an input size, a spread and a blur of its own; nothing is said of others.
        values: fields of a :class:`ModelConfig`; where they have a spread, nothing is said.
    """
    if not {"heatmap_sigma", "blur_kernel", "input_size"} <= preset.keys() or "heatmap_sigma" in values:
        return {}
    try:
        factor = float(values["input_size"][0]) / preset["input_size"][0]
        kernel = 2 * round((max(3.0, preset["blur_kernel"] * factor) - 1) / 2) + 1
    except (TypeError, ValueError, LookupError, OverflowError):
        return {}  # no size, and refused with the other fields
    return {"heatmap_sigma": max(1.0, preset["heatmap_sigma"] * factor), "blur_kernel": kernel}


def _only_crop(head: Any) -> CropConvention | None:
    """The one convention that a head reads, of its fields or of the head; None where there is no such head."""
    try:
        return None if head is None else _HEAD.validate_python(head).crop
    except ValidationError:
        return None


def _plain(conventions: Any) -> dict[str, Any]:
    """Stated fields, of a mapping or of a configuration.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(conventions, HeadConventions):
        return conventions.model_dump(include=set(HeadConventions.model_fields))
    if conventions is None:
        return {}
    if not isinstance(conventions, Mapping):
        raise ValueError(f"conventions are fields with values, and those by dataset likewise, not {conventions!r}.")
    return dict(conventions)
