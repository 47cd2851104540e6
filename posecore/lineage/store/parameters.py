"""A whole configuration as MLflow's parameters: flat, so that its pages show what differs between two runs."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from posecore.config import Config
from posecore.lineage.store.reachable import shown_uri
from posecore.schema import Json

FACTS = "lineage."
"""What parameters begin with that are no settings: digests of a version's data, code and packages."""
LONGEST_NAME, LONGEST_VALUE = 250, 6000
"""MLflow refuses longer names and truncates longer values; the full configuration is an artifact."""


def flat_parameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names to values as text.

    Entries of a list that have names of their own go by them, so that a list with one entry more differs in that entry
    only; lists of anything else are one value. Passwords in addresses are left out.

    Args:
        values: nested mappings, lists, scalars and configurations.
    """
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, Config) else value for name, value in values.items()
    }
    return {name[:LONGEST_NAME]: _text(value)[:LONGEST_VALUE] for name, value in _leaves("", plain)}


def _leaves(name: str, value: Json) -> Iterator[tuple[str, Json]]:
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(each, Mapping) and "name" in each for each in value)
    ):
        value = {str(each["name"]): {key: v for key, v in each.items() if key != "name"} for each in value}
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), below)
    elif name:
        yield name, value


def _text(value: Json) -> str:
    if isinstance(value, str):
        return shown_uri(value) if "://" in value else value
    return json.dumps(value)
