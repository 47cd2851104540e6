"""What a ``dataset.yaml`` may say: one dataset, its files, its skeleton, what its labels mean, how it is judged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from posecore.config import NAME_PATTERN, Config, digest_json
from posecore.conventions import LabelConventions
from posecore.datasets.partition import PartitionConfig, SubjectRule
from posecore.doors import Door
from posecore.schema import AreaRule, Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import read_list

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Of a dataset or a split: both become folders."""
StageName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*(:\w+)?$")]


_MAX_LIST_BYTES = 1 << 24
READER_PATTERN = r"^[\w.]+:\w+$"


class StageResources(Config):
    """What Ray reserves for a stage, and how its work is cut.

    Attributes:
        num_cpus: cores of each process.
        num_gpus: GPUs of each process; a fraction shares one.
        batch_size: pictures a model stage is given at a time.
        concurrency: processes at a time; None takes what the cluster has.
    """

    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=32, ge=1)
    concurrency: int | None = Field(default=None, ge=1)


class StageEntry(Config):
    """One stage as ``dataset.yaml`` lists it; a bare name is a stage without options.

    Attributes:
        stage: name of a built-in stage, of an entry point of the group ``posecore.stages``, or ``package.module:name``.
        options: of the stage.
        files: options whose value is a file, by name: its path from the folder of ``dataset.yaml``. Its content counts
            as the stage's code does.
        resources: what differs from those the stage asks for.
    """

    stage: StageName
    options: dict[str, Json] = {}
    files: dict[str, str] = {}
    resources: dict[str, Json] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if twice := self.options.keys() & self.files.keys():
            raise ValueError(f"{', '.join(sorted(twice))}: give it under options or under files, not under both.")
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"stage": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        if info.mode == "python":
            return write(self)
        # A stage without options is written as it was before there were any. Resources change no result.
        said = {"options": self.options, "files": self.files}
        said = {name: value for name, value in said.items() if value}
        return {"stage": self.stage, **said} if said else self.stage


class SplitDefinition(Config):
    """One split as the publisher lays it out.

    Attributes:
        annotations: annotation file or folder, relative to the dataset's root.
        images: image folder, relative to the root; "" if file names already are.
        use: what the publisher means it for.
        num_images: images the publisher (or a count) states, None if unknown.
        num_instances: instances likewise.
        detections: COCO-style list of detected person boxes, relative to the root, or None.
        options: reader options of this split only.
        reader: import path of its own reader, where it is in another form than the others, such as what came back of a
            labelling tool; ``reader_options`` are then not its own.
        partition: which part of the annotated pool the split is, where the publisher has not divided it.
    """

    annotations: str
    images: str = ""
    use: Literal["train", "eval", "any"] = "any"
    num_images: int | None = None
    num_instances: int | None = None
    detections: str | None = None
    options: dict[str, Json] = {}
    reader: Annotated[str, Field(pattern=READER_PATTERN)] | None = None
    partition: PartitionConfig | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(_without_none(write(self), "partition"), "reader")


class LicenseDefinition(Config):
    """Terms as far as stated.

    Attributes:
        id: SPDX identifier or a short own name.
        commercial_use: True, False, or None where nothing is stated.
        note: one sentence with the source of the statement.
    """

    id: str
    commercial_use: bool | None = None
    note: str = ""


PROTOCOLS = ("oks", "oks_per_category", "wholebody", "crowdpose", "aic", "pckh", "torso", "pck", "pixel")
"""Those that are built in; :mod:`posecore.evaluation.protocols` has them."""

PROTOCOLS_DOOR = Door("protocol", "posecore.metrics")
"""By which others come in."""


class EvaluationDefinition(Config):
    """The dataset's own protocol.

    Attributes:
        protocol: ``oks``, ``oks_per_category``, ``wholebody``, ``crowdpose``, ``aic``, ``pckh``, ``torso``, ``pck`` or
            ``pixel``; or one of your own by where its class lies, ``package.module:Class``.
        scale_rule: area that OKS divides by; None means the record's own area.
        options: further settings of the protocol.
    """

    protocol: str = "oks"
    scale_rule: AreaRule | None = None
    options: dict[str, Json] = {}

    @field_validator("protocol")
    @classmethod
    def _check_protocol(cls, protocol: str) -> str:
        if protocol not in PROTOCOLS and PROTOCOLS_DOOR.place(protocol) is None:
            raise ValueError(PROTOCOLS_DOOR.unknown(protocol, PROTOCOLS))
        return protocol

    @property
    def code(self) -> str | None:
        """Where the protocol's class lies, as ``package.module:Class``, if it is not built in."""
        return None if self.protocol in PROTOCOLS else PROTOCOLS_DOOR.place(self.protocol)


class DatasetDefinition(Config):
    """A ``dataset.yaml``, its skeleton resolved.

    Attributes:
        name: equals the folder's name; letters, digits, ``_``, ``.`` and ``-``, as those of the splits.
        title: as a person would call it.
        homepage: where to get it.
        reader: import path ``package.module:Class`` of the format's reader.
        skeleton: its points: the name of a skeleton, or a whole one as skeleton.yaml has it.
        subjects: where the subject's name is to be had, if annotations do not state it.
        license: terms.
        area_rule: how the OKS area is obtained.
        splits: by name.
        stages: what happens to annotations and pictures on their way into shards, in order (:mod:`posecore.stages`).
        max_loss: largest share of instances the stages may drop before ingestion stops.
        reader_options: options of the reader.
        conventions: what its boxes and bodies mean; how heads read them is the model's affair.
        evaluation: the official protocol.
        shares_images_with: other datasets known to hold the same images, with what is known of it.
        expected_flags: keypoint flags (COCO meaning) a whole download must contain; ``check`` reports the missing.
        folder: folder of the YAML; not part of the file.
    """

    name: Name
    title: str
    homepage: str = ""
    reader: Annotated[str, Field(pattern=READER_PATTERN)]
    skeleton: Skeleton
    subjects: SubjectRule | None = None
    license: LicenseDefinition
    area_rule: AreaRule = "box"
    splits: dict[Name, SplitDefinition]
    stages: tuple[StageEntry, ...] = (StageEntry(stage="check_instances"),)
    max_loss: float = 0.05
    reader_options: dict[str, Json] = {}
    conventions: LabelConventions = LabelConventions()
    evaluation: EvaluationDefinition = EvaluationDefinition()
    shares_images_with: dict[str, str] = {}
    expected_flags: tuple[int, ...] = (0, 1, 2)
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _read_subjects(cls, values: Any) -> Any:
        """Names of the subjects to judge on, from the file beside the YAML that a partition may give instead."""
        splits = values.get("splits") if isinstance(values, dict) else None
        if not isinstance(splits, dict):
            return values
        return values | {"splits": {name: _with_subjects(split, values) for name, split in splits.items()}}

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        parts: dict[str, dict[str, set[str]]] = {}
        for split in self.splits.values():
            if split.partition is not None:
                division = split.partition.model_dump_json(exclude={"part"})
                parts.setdefault(split.annotations, {}).setdefault(division, set()).add(split.partition.part)
        for annotations, divisions in parts.items():
            if len(divisions) > 1 and any(len(found) < 2 for found in divisions.values()):
                raise ValueError(
                    f"splits of {annotations} are divided in {len(divisions)} ways, and not each has its train and its "
                    "eval part, so parts of different divisions would overlap; give the parts that belong together "
                    "the same by, share, seed and force_frame_split."
                )
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(write(self), "subjects")

    @property
    def stage_labels(self) -> tuple[str, ...]:
        """What counts, rejects and messages call each stage: its name, numbered where it is listed again."""
        names = [entry.stage for entry in self.stages]
        again = [names[:place].count(name) for place, name in enumerate(names)]
        return tuple(f"{name}#{number + 1}" if number else name for name, number in zip(names, again, strict=True))

    def reader_of(self, split: str) -> str:
        """Import path of a split's reader."""
        return self.splits[split].reader or self.reader

    def options_of(self, split: str) -> dict[str, Json]:
        """What the reader of a split is told: ``reader_options`` and the split's own over them."""
        part = self.splits[split]
        return dict(part.options) if part.reader else {**self.reader_options, **part.options}

    def stage_files(self, entry: StageEntry) -> dict[str, Path]:
        """Where the files of a stage lie, by option."""
        return {name: self.folder / path for name, path in entry.files.items()}

    def digest(self) -> str:
        """SHA-256 over what changes shards, which is all but how they are judged, as 64 hexadecimal digits."""
        value: dict[str, Any] = self.model_dump(mode="json", exclude={"evaluation"})
        return digest_json(value)


def _without_none(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Values without a field that says nothing: definitions written before there was such a field keep their digest."""
    if values.get(name) is None:
        values.pop(name, None)
    return values


def _with_subjects(split: Any, values: Mapping[str, Any]) -> Any:
    partition = split.get("partition") if isinstance(split, dict) else None
    if not isinstance(partition, dict) or not isinstance(partition.get("subjects"), str):
        return split
    try:
        names = read_list(path := Path(values.get("folder", "")) / partition["subjects"], _MAX_LIST_BYTES)
    except OSError as error:
        raise ValueError(f"partition.subjects: {path} cannot be read ({error.strerror or error}).") from None
    return split | {"partition": partition | {"subjects": names}}
