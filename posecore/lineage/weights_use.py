"""Which weights a model started from or was taught by, under which terms: they bind what was made from them too."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from posecore.config import Config
from posecore.errors import CheckpointError
from posecore.lineage.dataset_inputs import DatasetUse
from posecore.models.saving import CARD_FILE, read_card
from posecore.models.weights.licenses import LICENSES

_TAG = "weights."


class WeightsUse(Config):
    """Weights a model started from or was taught by.

    Attributes:
        source: as it was named: a file, a folder, or a place on the hub.
        digest: SHA-256 of the file, 64 hexadecimal digits.
        layout: whose layout the file had.
        preset: its architecture.
        license: id of the terms.
        commercial_use: whether they allow it; None where they say neither or set conditions.
        note: what a user of the terms must know.
        revision: commit on the hub, or None.
    """

    source: str
    digest: str
    layout: str
    preset: str | None = None
    license: str
    commercial_use: bool | None = None
    note: str = ""
    revision: str | None = None

    @property
    def label(self) -> str:
        """The source."""
        return self.source


def weights_of(model_folder: Path) -> list[WeightsUse]:
    """The weights a model folder says it started from, the latest first, then those of its teacher.

    Raises:
        CheckpointError: there is no model in the folder, or what it says of them has another form.
        IntegrityError: its card is damaged.
        ConfigError: the card describes no model.
    """
    lineage: dict[str, Any] = read_card(model_folder).lineage
    try:
        return [_use(record) for name in ("weights", "teacher") for record in _chain(lineage.get(name))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{model_folder / CARD_FILE}: its record of the weights it started from is none ({detail}); without it the "
            "terms that bind the model are not known."
        ) from None


def _chain(record: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A model that started from a model of ours started from that one's weights as well."""
    while record:
        yield record
        record = record.get("origin")


def _use(record: Mapping[str, Any]) -> WeightsUse:
    terms = LICENSES.get(str(record["license"]))
    return WeightsUse(
        source=record["source"],
        digest=record["sha256"],
        layout=record["layout"],
        preset=record.get("preset"),
        license=record["license"],
        commercial_use=terms.commercial_use if terms else None,
        note=terms.note if terms else "",
        revision=record.get("revision"),
    )


def weights_tags(uses: Sequence[WeightsUse]) -> dict[str, str]:
    """One tag of a model version per entry."""
    return {f"{_TAG}{number}": use.model_dump_json() for number, use in enumerate(uses)}


def weights_uses(version: ModelVersion) -> list[WeightsUse]:
    """The weights a version names as its own, its ancestors' not included."""
    tags = sorted(version.tags.items())
    return [WeightsUse.model_validate_json(value) for key, value in tags if key.startswith(_TAG)]


def commercial_use(uses: Sequence[DatasetUse | WeightsUse]) -> str:
    """``forbidden`` if one of the terms forbids it, ``allowed`` if all allow it, else ``not stated``."""
    stated = {use.commercial_use for use in uses}
    if False in stated:
        return "forbidden"
    return "allowed" if stated == {True} else "not stated"
