"""Which data a run has read: dataset digests as MLflow dataset inputs, in the words MLflow can be searched for."""

import json
from collections.abc import Iterable
from typing import Literal

from mlflow.entities import Dataset, DatasetInput, InputTag

from posecore.config import Config
from posecore.lineage.store.tracking import RunLog
from posecore.schema import Json

Role = Literal["training", "evaluation"]

_DIGEST_LIMIT = 36  # MLflow refuses longer dataset digests


class DatasetUse(Config):
    """One ingested split and what it was used for.

    Attributes:
        name: name of the dataset definition.
        split: name of the split.
        digest: SHA-256 of the split's manifest, 64 hexadecimal digits.
        role: what it was used for.
        location: folder of the shards when they were used, the way back from a model to its images; "" where the
            record does not say.
        license: licence id of the dataset.
        commercial_use: whether the licence allows it; None where nothing is stated.
        weight: share in the training mixture, if it was trained on.
        corrections: digest of the corrections by which labels were dropped, or None.
    """

    name: str
    split: str
    digest: str
    role: Role
    location: str = ""
    license: str
    commercial_use: bool | None = None
    weight: float | None = None
    corrections: str | None = None

    @property
    def label(self) -> str:
        """``name/split``, the name MLflow shows."""
        return f"{self.name}/{self.split}"

    @property
    def portable(self) -> dict[str, Json]:
        """What a model's card says of it: everything but a place on this machine."""
        return self.model_dump(mode="json", exclude={"location"}, exclude_none=True)


def short_digest(digest: str) -> str:
    """The first 32 hexadecimal digits, the form in which MLflow holds a dataset digest."""
    return digest[: min(32, _DIGEST_LIMIT)]


def log_dataset_inputs(run: RunLog, uses: Iterable[DatasetUse]) -> None:
    """Records the splits as inputs of a run; ``search_runs("dataset.digest = '…'")`` finds the run again."""
    inputs = [_dataset_input(use) for use in uses]
    run.tracking.ask(lambda client: client.log_inputs(run.run_id, datasets=inputs))


def _dataset_input(use: DatasetUse) -> DatasetInput:
    dataset = Dataset(
        name=use.label,
        digest=short_digest(use.digest),
        source_type="local" if "://" not in use.location else use.location.partition("://")[0],
        source=json.dumps({"uri": use.location, "manifest_sha256": use.digest}),
    )
    tags = {"mlflow.data.context": use.role, "license": use.license, "commercial_use": str(use.commercial_use)}
    if use.weight is not None:
        tags["weight"] = repr(use.weight)
    if use.corrections is not None:
        tags["corrections"] = use.corrections
    return DatasetInput(dataset=dataset, tags=[InputTag(key, value) for key, value in tags.items()])
