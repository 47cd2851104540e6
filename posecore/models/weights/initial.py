"""What a user may name as a trained model: weights to start from (``weights:``), a parent, or a teacher."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.architecture import ModelCard
from posecore.models.pose_model import PoseModel
from posecore.models.sources import folder_record, other_file
from posecore.models.warm_start import WarmStartConfig
from posecore.models.weights.published_heads import SKELETONS
from posecore.models.weights.read import Located, checksum, guessed_heads, locate, read_located
from posecore.schema import Json
from posecore.skeletons.library import load_skeleton


class SourceConfig(Config):
    """A trained model, wherever it lies.

    Attributes:
        source: a local file or folder, a name of the catalog (``posecore models list``), or a place on the Hugging Face
            hub, ``organisation/name[@revision][:file]``.
        revision: branch, tag or commit on the hub; a commit makes the run repeatable.
        sha256: of the file; another file is refused.
        preset: preset or catalog name the weights must be of.
        heads: skeleton by name of a dataset for each head in the file, in its order, where they are not published
            ones or not known by their numbers of points: 17 can be COCO's or an animal's.
        backbone_only: leave out the file's heads, whatever their points are.
        license: id of the terms of a file that nobody published, where nothing states them.
    """

    source: str
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    preset: str | None = None
    heads: dict[str, str] = {}
    backbone_only: bool = False
    license: str | None = None

    def read(self) -> PoseModel:
        """The model, in evaluation mode.

        Raises:
            CheckpointError: the weights cannot be had or read.
            IntegrityError: the file is not the stated one.
        """
        located = locate(self.source, self.revision)
        _verified(self, located)
        skeletons = {dataset: load_skeleton(name) for dataset, name in self.heads.items()}
        model = read_located(located, self.source, self.preset, skeletons, self.backbone_only, self.license)
        for dataset, count in ({} if located.path.is_dir() else guessed_heads(model.card)).items():
            raise CheckpointError(
                f"{self.source} has a head of {counted(count, 'point')}, which can be {dataset}'s or one of your own; "
                f"confirm it with --heads {dataset}, in a run file heads: {{{dataset}: {SKELETONS[dataset]}}}, or "
                "state your own, or backbone_only: true."
            )
        return model

    def provenance(self, card: ModelCard) -> dict[str, Json]:
        """How the lineage of another model names this one.

        Args:
            card: of what :meth:`read` gave.
        """
        located = locate(self.source, self.revision)
        # What is read from a file says where it came from.
        record = folder_record(card) if located.path.is_dir() else dict(card.lineage["weights"])
        return record | {"source": self.source, "revision": located.revision, "sha256": checksum(located.path)}


class WeightsConfig(SourceConfig):
    """Weights to start from.

    Attributes:
        take: what is taken besides the backbone.
    """

    take: WarmStartConfig = WarmStartConfig()


_SourceT = TypeVar("_SourceT", bound=SourceConfig)


def pin(config: _SourceT) -> _SourceT:
    """The same weights by checksum, commit and absolute path, so that another machine or day means the same ones.

    Args:
        config: where they are; a file on the hub is downloaded.

    Raises:
        CheckpointError: there are none.
        IntegrityError: they are not the stated ones.
    """
    located = locate(config.source, config.revision)
    found = _verified(config, located)
    source = str(Path(config.source).resolve()) if Path(config.source).exists() else config.source
    return config.model_copy(update={"source": source, "revision": located.revision, "sha256": found})


def _verified(config: SourceConfig, located: Located) -> str:
    found = checksum(located.path)
    if config.sha256 not in (None, found):
        raise other_file(config.source, found, config.sha256)
    return found
