"""One YAML file per run, validated by pydantic: unknown keys, wrong types and bad combinations are refused by name.

Every class that can be configured declares its own :class:`Config` next to it; a job composes them at the top of its
pipeline file. A run file is complete: there is no inheritance between files. ``--set a.b=value`` overrides are
validated by the same model.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from posecore.doors import trusted_file
from posecore.errors import ConfigError, UsageError
from posecore.nearest import LIKE_FILES, nearest
from posecore.nearest_setting import near_setting
from posecore.storage import AnyPath, as_path, read_at_most
from posecore.strict_yaml import parse_yaml, place_of

_MAX_PROBLEMS = 20
COMMAND_LINE = "command line"
"""What :func:`parse_config` calls the origin of values that are all options of a command."""

ConfigT = TypeVar("ConfigT", bound="Config")

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""Of what becomes a folder: no separator, and no dot in front, so that no name leads out of its place."""
MAX_YAML_BYTES = 4 << 20
"""A file beyond this is no configuration."""


class Config(BaseModel):
    """Base of all configurations: frozen, picklable, and strict about unknown keys and about numbers that are none."""

    # NaN passes every bound: no comparison with it holds.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of all resolved values, as 64 hexadecimal digits."""
        return digest_json(self.model_dump(mode="json"))


class Extension(Config):
    """Base of whatever comes in by a door (:mod:`posecore.doors`): its options are its fields.

    Attributes:
        kind: the name by which a file reaches it: a word if it is built in, else where its class lies.
    """

    kind: str = Field(default="", validate_default=True)

    @field_validator("kind")
    @classmethod
    def _own_name(cls, kind: str) -> str:
        return kind or f"{cls.__module__}:{cls.__qualname__}"


def digest_json(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), as 64 hexadecimal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_yaml(path: str | AnyPath) -> dict[str, Any]:
    """Reads a YAML mapping.

    Args:
        path: a local file or an fsspec URL.

    Raises:
        ConfigError: the file is missing, not a plain file or too large, is not YAML, names a setting twice, unfolds
            beyond measure, or its top level is not a mapping.
    """
    path = as_path(path)
    try:
        value = parse_yaml(read_at_most(path, MAX_YAML_BYTES).decode())
    except FileNotFoundError:
        beside = path.parent.glob("*.y*ml") if isinstance(path, Path) else ()  # a store's folder may be large
        near = nearest(path.name, (each.name for each in beside), likeness=LIKE_FILES)
        meant = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: no such file; give the path of a YAML file that exists.{meant}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not readable as YAML ({detail}); correct the file at that place.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of settings, not {type(value).__name__}.")
    return value


def parse_config(values: Mapping[str, Any], cls: type[ConfigT], origin: str, changed: Sequence[str] = ()) -> ConfigT:
    """Validates plain values against a configuration class.

    Args:
        values: nested mappings, lists and scalars.
        cls: the configuration class.
        origin: where the values come from, for the error message. The name of a YAML file is looked into for lines.
        changed: dotted paths of values that do not come from there.

    Raises:
        ConfigError: a clause per offending field, with its dotted path, and with line and column where it stands in a
            YAML file; the first :data:`_MAX_PROBLEMS` of them. A UsageError if options of a command alone are to blame.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        clauses: list[str] = []
        at_fault: list[bool] = []
        for item in error.errors(include_url=False)[:_MAX_PROBLEMS]:
            where = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            clause = _shortened(f"{where}: {message}" if where else message)
            is_elsewhere = any(_is_within(item["loc"], path) for path in changed)
            at_fault.append(is_elsewhere)
            place = "" if is_elsewhere else place_in_yaml(origin, item["loc"])
            clauses.append(clause + place + near_setting(item, cls))
        if error.error_count() > _MAX_PROBLEMS:
            clauses.append(f"and {error.error_count() - _MAX_PROBLEMS} more")
        of_command = origin == COMMAND_LINE or origin.startswith("--") or all(at_fault)
        kind = UsageError if of_command else ConfigError
        raise kind(f"{COMMAND_LINE if all(at_fault) else origin}: " + "; ".join(clauses)) from None


def _is_within(place: Sequence[str | int], path: str) -> bool:
    """Whether a place lies under a dotted path; between its parts may stand the tag of one of several classes."""
    parts = iter(map(str, place))
    return all(part in parts for part in path.split("."))


def place_in_yaml(origin: str, keys: Sequence[str | int]) -> str:
    """`` (line 3, column 5)`` of what stands under some keys of a YAML file, to be put behind what is said of it.

    Empty where ``origin`` is no YAML file that can be read.
    """
    if not keys or not origin.endswith((".yaml", ".yml")):
        return ""
    try:
        place = place_of(read_at_most(as_path(origin), MAX_YAML_BYTES).decode(), keys)
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return "" if place is None else f" (line {place[0]}, column {place[1]})"


def _shortened(clause: str, limit: int = 1000) -> str:
    return clause if len(clause) <= limit else clause[:limit] + " …"


def load_config(path: str | Path, cls: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Reads a YAML file, applies ``key.path=value`` overrides and validates the result.

    Args:
        path: a local YAML file.
        cls: the configuration class.
        overrides: strings such as ``optimizer.lr=3e-4`` or ``datasets.0.name=coco``; the value is parsed as YAML.

    Raises:
        ConfigError: the file, an override or a field is wrong.
    """
    values = stated_values(path, overrides)
    with trusted_file():
        return parse_config(values, cls, str(path), [override.partition("=")[0] for override in overrides])


def stated_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What :func:`load_config` validates: the plain values of a YAML file, changed.

    Raises:
        ConfigError: the file or an override is wrong.
    """
    values = read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Changes one of the nested plain values in place, as ``--set key.path=value`` asks.

    Raises:
        UsageError: the override is no such text, or its path leads nowhere.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {override}: expected key.path=value, for example optimizer.lr=3e-4.")
    parts = key.split(".")
    node: Any = values
    for depth, part in enumerate(parts[:-1]):
        try:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        except (ValueError, IndexError):
            node = None
        if not isinstance(node, (dict, list)):
            raise UsageError(f"--set {override}: {'.'.join(parts[: depth + 1])} is not a mapping or a list entry.")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is not YAML ({' '.join(str(error).split())}).") from None
    if isinstance(node, list):
        try:
            node[int(parts[-1])] = value
        except (ValueError, IndexError):
            raise UsageError(f"--set {override}: the list has no entry {parts[-1]!r}.") from None
    else:
        node[parts[-1]] = value
