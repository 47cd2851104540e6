"""Which weights a model started from or was taught by, under which terms: they bind what was made from them too."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from posecore.config import Config
from posecore.errors import CheckpointError
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.models.saving import CARD_FILE, read_card
from posecore.models.sources import OWN_LAYOUT
from posecore.models.weights.licenses import LICENSES

WEIGHTS = "weights."
"""What tags begin with that name weights a model came from."""


class WeightsUse(Config):
    """Weights a model, or one of its ancestors, started from or was taught by.

    Attributes:
        child: SHA-256 of the weights of the ancestor that came from these; "" for the model itself.
        relation: how.
        source: as it was named: a file, a folder, or a place on the hub.
        digest: SHA-256 of the file, 64 hexadecimal digits.
        layout: whose layout the file had.
        preset: its architecture.
        license: id of the terms.
        commercial_use: whether they allow it; None where they say neither or set conditions.
        note: what a user of the terms must know.
        revision: commit on the hub, or None.
        data: what they were trained on, if a model of ours said so.
    """

    child: str = ""
    relation: Literal["started from", "taught by"] = "started from"
    source: str
    digest: str
    layout: str
    preset: str | None = None
    license: str
    commercial_use: bool | None = None
    note: str = ""
    revision: str | None = None
    data: tuple[DatasetUse, ...] = ()

    @property
    def label(self) -> str:
        """The source."""
        return self.source

    @property
    def published(self) -> bool:
        """Whether somebody else made them, of whose data only the publisher knows."""
        return self.layout != OWN_LAYOUT


def weights_of(model_folder: Path) -> list[WeightsUse]:
    """The weights a model folder says it started from, the latest first, then those of its teacher.

    Raises:
        CheckpointError: there is no model in the folder, or what it says of them has another form.
        IntegrityError: its card is damaged.
        ConfigError: the card describes no model.
    """
    lineage = read_card(model_folder).lineage
    try:
        return weights_in(lineage)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{model_folder / CARD_FILE}: its record of the weights it started from is none ({detail}); without it the "
            "terms that bind the model are not known."
        ) from None


def weights_in(lineage: Mapping[str, Any]) -> list[WeightsUse]:
    """The same of the lineage that a model's card states.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: what it says of them has another form.
    """
    return [_use(*link) for link in _links(lineage)]


def _links(lineage: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(child, relation, record): a model that started from one of ours comes from whatever that one came from."""
    waiting = [("", "taught by", lineage.get("teacher")), ("", "started from", lineage.get("weights"))]
    while waiting:
        child, relation, found = waiting.pop()
        if found:
            yield child, relation, found
            sha256 = found["sha256"]
            waiting += [(sha256, "taught by", found.get("teacher")), (sha256, "started from", found.get("origin"))]


def _use(child: str, relation: str, record: Mapping[str, Any]) -> WeightsUse:
    terms = LICENSES.get(str(record["license"]))
    data = record.get("data")
    return WeightsUse.model_validate(
        {
            "child": child,
            "relation": relation,
            "source": record["source"],
            "digest": record["sha256"],
            "layout": record["layout"],
            "preset": record.get("preset"),
            "license": record["license"],
            "commercial_use": terms.commercial_use if terms else None,
            "note": terms.note if terms else "",
            "revision": record.get("revision"),
            "data": data if isinstance(data, list) else (),
        }
    )


def weights_tags(uses: Sequence[WeightsUse]) -> dict[str, str]:
    """One tag of a model version per entry."""
    return {f"{WEIGHTS}{number}": use.model_dump_json() for number, use in enumerate(uses)}
