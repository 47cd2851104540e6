"""Records of withdrawals: runs of their own, each with the digest of the one before it, and signed with a key if given.

Whoever alters or removes a record breaks the chain at that place. A record holds digests of the withdrawn pictures, by
which certificates are given years later, and no picture.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run, ViewType

from posecore.config import digest_json
from posecore.errors import ConfigError, LineageError
from posecore.ingest.withdrawn import WITHDRAWN_NAME, Withdrawn
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.storage import read_at_most

KIND = "withdrawal"
RECORD_FILE = "withdrawal.json"
_DIGEST, _SIGNATURE = "digest", "signature"
_MAX_KEY_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class WithdrawalRecord:
    """One finished withdrawal.

    Attributes:
        run_id: of its run.
        content: what is recorded, digest and signature included.
    """

    run_id: str
    content: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What the record states as its digest."""
        return str(self.content.get(_DIGEST, ""))

    @property
    def dataset(self) -> str:
        """Of the subject, "" if no subject was withdrawn."""
        return str(self.content.get("dataset", ""))

    @property
    def subject(self) -> str:
        """Id of the subject, "" if no subject was withdrawn."""
        return str(self.content.get("subject", ""))

    @property
    def pictures(self) -> frozenset[str]:
        """Digests of the pictures."""
        return frozenset(self.content.get("pictures", ()))

    @property
    def marks(self) -> frozenset[int]:
        """64-bit XXH3 of the pictures."""
        return frozenset(self.content.get("marks", ()))

    @property
    def editions(self) -> dict[str, int]:
        """Digests of the editions that held them, and how many pictures each held."""
        return {entry["digest"]: entry["pictures"] for entry in self.content.get("editions", ())}

    @property
    def redacted(self) -> dict[str, str]:
        """SHA-256 of each table rows were taken out of, as it is since, to that of the table its manifest names."""
        return dict(self.content.get("redacted", {}))


def withdrawal_records(tracking: Tracking) -> list[WithdrawalRecord]:
    """All finished withdrawals of a store, oldest first.

    Raises:
        LineageError: the record of one cannot be read: then nobody may be certified.
    """
    records = []
    for run in _runs(tracking):
        if run.info.status == "FINISHED":
            content = json.loads(RunLog(tracking, run.info.run_id).read_file(RECORD_FILE))
            records.append(WithdrawalRecord(run.info.run_id, content))
    return records


def _runs(tracking: Tracking) -> list[Run]:
    client = tracking.client
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    return list(
        client.search_runs(
            experiments,
            f"tags.`posecore.kind` = '{KIND}'",
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC"],
            max_results=10_000,
        )
    )


def sealed(content: Mapping[str, Any], previous: str, key: bytes | None) -> dict[str, Any]:
    """A record with the digest of the one before, its own, and a signature if there is a key (HMAC-SHA-256)."""
    body = {**content, "previous": previous}
    digest = digest_json(body)
    signature = {} if key is None else {_SIGNATURE: hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()}
    return {**body, _DIGEST: digest, **signature}


def check_chain(records: Sequence[WithdrawalRecord], key: bytes | None = None) -> list[str]:
    """What is wrong with a chain of records, a sentence each; nothing if nothing is.

    Args:
        records: oldest first.
        key: that signed them; None does not look at signatures.
    """
    problems, previous = [], ""
    for record in records:
        body = {name: value for name, value in record.content.items() if name not in (_DIGEST, _SIGNATURE)}
        if digest_json(body) != record.digest:
            problems.append(f"the record of withdrawal {record.run_id} is not what was written.")
        if body.get("previous", "") != previous:
            problems.append(f"before withdrawal {record.run_id} a record is missing or was replaced.")
        if key is not None:
            expected = hmac.new(key, record.digest.encode(), hashlib.sha256).hexdigest()
            if not hmac.compare_digest(expected, str(record.content.get(_SIGNATURE, ""))):
                problems.append(f"withdrawal {record.run_id} is not signed with this key.")
        previous = record.digest
    return problems


def read_key(path: str | Path) -> bytes:
    """A key for signatures: all bytes of a file.

    Raises:
        ConfigError: it cannot be read, or has fewer than 16 bytes.
    """
    try:
        key = read_at_most(Path(path), _MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror or error}).") from None
    if len(key) < 16:
        raise ConfigError(f"{path}: a key of {len(key)} bytes can be guessed; give at least 16 random ones.")
    return key


def withdrawn_from(tracking: Tracking, dataset: str) -> Withdrawn:
    """What a dataset must be ingested without, by the store's records.

    Raises:
        LineageError: a record cannot be read: ingesting all the same might bring somebody back.
    """
    found = Withdrawn()
    for run in tracking.ask(lambda _: _runs(tracking)):
        if run.data.tags.get("posecore.dataset", "") in ("", dataset):
            text = RunLog(tracking, run.info.run_id).read_file(WITHDRAWN_NAME)
            try:
                found |= Withdrawn.model_validate_json(text)
            except ValueError:
                raise LineageError(
                    f"run {run.info.run_id} is a withdrawal whose {WITHDRAWN_NAME} cannot be read."
                ) from None
    return found
