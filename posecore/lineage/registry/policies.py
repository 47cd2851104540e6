"""What each alias asks of a version: one YAML file, kept as a registered artifact that nobody can change unseen.

Every registration is an entry of one list; the last one holds. A promotion records which it was checked against, and
an alias that was once promoted under an entry is not promoted under an earlier one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from posecore.config import Config, load_config, parse_config
from posecore.errors import LineageError
from posecore.lineage.registry.gates import Requirements
from posecore.lineage.store import ledger
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.strict_yaml import parse_yaml

FILE = "policies.yaml"


class AliasPolicy(Requirements):
    """What one alias asks.

    Attributes:
        alias: such as ``champion``.
        models: patterns of names of the models it is about.
        notify: URLs that are told of every move, as JSON in a POST.
    """

    alias: str = Field(min_length=1)
    models: tuple[str, ...] = ("*",)
    notify: tuple[str, ...] = ()

    @field_validator("notify")
    @classmethod
    def _check_urls(cls, urls: Sequence[str]) -> Sequence[str]:
        for url in urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError(f"{url!r} is no http or https URL.")
        return urls

    @model_validator(mode="after")
    def _check_asks(self) -> "AliasPolicy":
        if not (self.gates or self.use):
            raise ValueError(f"the policy of {self.alias} asks for nothing; give it gates, or a use.")
        return self

    def governs(self, model: str, alias: str) -> bool:
        """Whether it is about an alias of a model."""
        return alias == self.alias and any(fnmatchcase(model, pattern) for pattern in self.models)


class Policies(Config):
    """The file.

    Attributes:
        policies: every one that is about an alias must be met.
    """

    policies: tuple[AliasPolicy, ...]


@dataclass(frozen=True, slots=True)
class CurrentPolicies:
    """The policies that hold now.

    Attributes:
        number: of their registration; 0 if there never was one.
        digest: SHA-256 of the file, "" likewise.
        policies: all of them.
        text: the file.
    """

    number: int
    digest: str
    policies: tuple[AliasPolicy, ...]
    text: bytes = b""

    def of(self, model: str, alias: str) -> tuple[AliasPolicy, ...]:
        """Those about an alias of a model."""
        return tuple(policy for policy in self.policies if policy.governs(model, alias))


def register_policies(tracking: Tracking, path: Path, reason: str) -> int:
    """Makes a file the policies that hold from now on, and returns the number of the registration.

    Raises:
        ConfigError: it is no such file.
        LineageError: the store refused.
    """
    found = load_config(path, Policies)
    data = path.read_bytes()
    run = tracking.start_run("policies", {"posecore.kind": "policies", "posecore.reason": reason})
    try:
        run.log_text(data.decode(), FILE)
        digest = hashlib.sha256(data).hexdigest()
        aliases = ", ".join(dict.fromkeys(policy.alias for policy in found.policies)) or "no alias"
        number = ledger.append(
            tracking, ledger.POLICIES, run, FILE, {"sha256": digest}, f"{aliases}, by {tracking.user}: {reason}"
        )
    except BaseException as error:
        run.end_failed(error)
        raise
    run.end()
    return number


def policies_in_force(tracking: Tracking) -> CurrentPolicies:
    """The newest ones.

    Raises:
        LineageError: the file cannot be read, or is not what was registered: then nothing may be promoted.
    """
    entry = ledger.newest(tracking, ledger.POLICIES)
    if entry is None:
        return CurrentPolicies(0, "", ())
    text = RunLog(tracking, entry.run_id).read_file(FILE)
    digest = hashlib.sha256(text).hexdigest()
    if digest != entry.tags.get("sha256"):
        raise LineageError(
            f"policies {entry.number}: {FILE} of run {entry.run_id} is not what was registered; register them again."
        )
    found = parse_config(parse_yaml(text.decode()), Policies, origin=f"policies {entry.number}")
    return CurrentPolicies(entry.number, digest, found.policies, text)
