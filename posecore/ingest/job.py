"""One split to ingest: what of it, from where, to where, and how; small, and sent to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from posecore.config import Config, digest_json
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import IngestError
from posecore.ingest.stage_code import READER_STAGE
from posecore.ingest.withdrawn import read_withdrawn, without
from posecore.nearest import choices
from posecore.shards.manifest import FORMAT_VERSION, StageCode
from posecore.skeletons.union import Vocabulary, builtin_vocabulary
from posecore.storage import AnyPath

PLAN_STAGE = "plan"
IMAGE_STAGE = "image"


class IngestSettings(Config):
    """What shards look like and how closely their images are examined.

    Attributes:
        images_per_shard: samples in every shard but the last.
        decode: ``header`` follows every file's structure to its end, checksums of PNGs included; ``full`` also decodes
            every image, about four times slower.
        decode_share: part of the images that ``header`` decodes all the same, chosen by the hash of their bytes.
        max_image_pixels: larger images are rejected by their header, before anything decodes them.
        max_image_bytes: larger files are rejected unread.
    """

    images_per_shard: int = Field(1000, ge=1)
    decode: Literal["header", "full"] = "header"
    decode_share: float = Field(0.01, ge=0, le=1)
    max_image_pixels: int = Field(100_000_000, ge=1)
    max_image_bytes: int = Field(256 << 20, ge=1)


@dataclass(frozen=True, slots=True)
class IngestJob:
    """One split to ingest.

    Attributes:
        definition: the dataset.
        split: name of the split.
        root: folder of the download, local or remote.
        folder: where the shards go.
        settings: how.
        vocabulary: union names of the unified masks.
    """

    definition: DatasetDefinition
    split: str
    root: AnyPath
    folder: AnyPath
    settings: IngestSettings
    vocabulary: Vocabulary

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Every stage of the pipeline, in order."""
        return (READER_STAGE, PLAN_STAGE, *self.definition.stage_labels, IMAGE_STAGE)

    def digest(self, code: Mapping[str, StageCode]) -> str:
        """SHA-256 of everything that shapes the shards, besides the records and the image bytes.

        Args:
            code: of the stages, by name; the reader's has done its work in the records.
        """
        return digest_json(
            {
                "format_version": FORMAT_VERSION,
                "definition": self.definition.digest(),
                "split": self.split,
                "settings": self.settings.model_dump(mode="json"),
                "vocabulary": self.vocabulary.digest(),
                "stages": [[label, code[label].digest] for label in self.definition.stage_labels],
            }
        )


def ingest_job(
    definition: DatasetDefinition, split: str, root: AnyPath, out: AnyPath, settings: IngestSettings
) -> IngestJob:
    """One split to ingest into ``<out>/<dataset>/<split>``, its masks over the built-in names and the dataset's own.

    What that folder says was withdrawn is taken out by a stage.

    Raises:
        IngestError: the definition has no such split, or the folder's record of what was withdrawn cannot be read.
    """
    if split not in definition.splits:
        raise IngestError(f"{definition.name} has no split {split!r}.{choices(split, definition.splits)}")
    vocabulary = builtin_vocabulary().extended([definition.skeleton])
    folder = out / definition.name / split
    return IngestJob(without(definition, read_withdrawn(folder)), split, root, folder, settings, vocabulary)
