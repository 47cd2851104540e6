"""Defaults and bounds of settings are as written down in ``settings.json`` beside this file.

A run file leaves most settings out, so a changed default changes what an old file means, and a bound that has slipped
is seen by nobody until a run has gone wrong. Whoever changes one on purpose runs this file as a program, which writes
all of them down anew, and reads the difference. Settings that are new do not fail here.
"""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import posecore
from posecore.config import Config

ROOMS = ("training", "loading", "methods", "evaluation")
FILE = Path(__file__).with_name("settings.json")
WORDS = ("default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems")


def _settings() -> dict[str, dict[str, Any]]:
    """Dotted class name → field → what it is bound to and what it is if left out."""
    found = {}
    for room in ROOMS:
        for info in pkgutil.iter_modules([str(Path(posecore.__path__[0]) / room)], f"posecore.{room}."):
            for _, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
                if issubclass(kind, Config) and kind is not Config and kind.__module__ == info.name:
                    found[f"{info.name}.{kind.__name__}"] = _of(kind)
    return found


def _of(kind: type[Config]) -> dict[str, Any]:
    fields = kind.model_json_schema()["properties"]
    return {name: _words(field) for name, field in fields.items()}


def _words(field: dict[str, Any]) -> dict[str, Any]:
    words = {word: field[word] for word in WORDS if word in field}
    for other in field.get("anyOf", ()):  # bounds of a field that may be None as well
        words |= {word: other[word] for word in WORDS if word in other}
    return words


KEPT: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", KEPT)
def test_defaults_and_bounds_are_what_they_were(name: str) -> None:
    module, _, kind = name.rpartition(".")
    fields = _of(getattr(importlib.import_module(module), kind))
    assert {field: fields.get(field) for field in KEPT[name]} == KEPT[name], (
        f"{name} has other defaults or bounds; if that is meant, run `python tests/unit/{Path(__file__).name}`"
    )


def test_every_configuration_is_written_down() -> None:
    assert len(KEPT) > 30
    assert KEPT.keys() <= _settings().keys()


if __name__ == "__main__":
    FILE.write_text(json.dumps(_settings(), indent=1) + "\n", encoding="utf-8")
