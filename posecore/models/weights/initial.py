"""Where a training run takes a trained model from: weights to start from (``weights:``), or a teacher."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field

from posecore.config import Config
from posecore.errors import IntegrityError
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_outline
from posecore.models.warm_start import WarmStart, WarmStartConfig, warm_start
from posecore.models.weights.layouts import OWN_LAYOUT
from posecore.models.weights.read import Located, checksum, locate, read_located
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
        heads: skeleton by name of a dataset for each head in the file, in its order, where they are not the published
            ones: 17 points can be COCO's or an animal's, and nothing in a file says which.
    """

    source: str
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    preset: str | None = None
    heads: dict[str, str] = {}

    def read(self) -> PoseModel:
        """The model, in evaluation mode.

        Raises:
            CheckpointError: the weights cannot be had or read.
            IntegrityError: the file is not the stated one.
        """
        located = locate(self.source, self.revision)
        _verified(self, located)
        skeletons = {dataset: load_skeleton(name) for dataset, name in self.heads.items()}
        return read_located(located, self.source, self.preset, skeletons)

    def outline(self) -> PoseModel:
        """The model without its weights, of which nothing is read; only for a folder of ours.

        Raises:
            CheckpointError: there is no model in the folder.
            IntegrityError: its card is damaged.
        """
        return load_outline(self.source)

    def provenance(self, model: PoseModel) -> dict[str, Json]:
        """How the lineage of another model names this one.

        Args:
            model: what :meth:`read` gave.
        """
        located = locate(self.source, self.revision)
        origin = model.card.lineage.get("weights")
        record: dict[str, Json]
        if located.path.is_dir():
            terms = sorted(set(model.card.licenses.values()))
            record = {"layout": OWN_LAYOUT, "license": ", ".join(terms) or "not stated", "origin": origin}
        else:
            assert isinstance(origin, dict), "what is read from a file says so"
            record = dict(origin)
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


def initial_weights(model: PoseModel, config: WeightsConfig) -> WarmStart:
    """Copies published weights into a fresh model, resampled, routed and picked point by point as it needs them.

    Args:
        model: receives the weights; its card then names them in ``lineage["weights"]`` and their terms in
            ``licenses``.
        config: where they are.

    Returns:
        What was copied from where.

    Raises:
        CheckpointError: the weights cannot be had or read.
        ConfigError: they are of a backbone of other widths.
        IntegrityError: the file is not the stated one.
    """
    parent = config.read()
    report = warm_start(model, parent, config.take)
    record = config.provenance(parent) | {"copied": report.as_dict(), "fresh": report.fresh()}
    model.card = model.card.model_copy(update={"lineage": {**model.card.lineage, "weights": record}})
    return report


def _verified(config: SourceConfig, located: Located) -> str:
    found = checksum(located.path)
    if config.sha256 not in (None, found):
        raise IntegrityError(
            f"{config.source} has SHA-256 {found}, not the stated {config.sha256}; it is another file than was meant."
        )
    return found
