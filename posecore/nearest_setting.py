"""The setting that somebody meant who wrote one that there is not, or a value that it does not take."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from posecore.nearest import nearest

_QUOTED = re.compile(r"'([^']+)'")


def near_setting(problem: Mapping[str, Any], config_class: type[BaseModel]) -> str:
    """``; did you mean steps?``, to be put behind one of pydantic's complaints; "" if nothing is near.

    Args:
        problem: the complaint, its input included, as of ``ValidationError.errors()``.
        config_class: what was validated.
    """
    match problem["type"]:
        case "extra_forbidden":
            *above, given = problem["loc"]
            known = _settings_at(config_class, above)
        case "union_tag_invalid":
            given, known = problem["ctx"]["tag"], _QUOTED.findall(problem["ctx"]["expected_tags"])
        case "literal_error" if isinstance(problem["input"], str):
            given, known = problem["input"], _QUOTED.findall(problem["ctx"]["expected"])
        case _:
            return ""
    close = nearest(str(given), known)
    return f"; did you mean {close[0]}?" if close else ""


def _settings_at(config_class: type[BaseModel], place: list[str | int]) -> list[str]:
    """Names of the settings at a place; of every class it may hold, where it may hold several."""
    classes = [config_class]
    for part in place:
        below = [each for one in classes if part in one.model_fields for each in _classes(one.model_fields[str(part)])]
        classes = below or classes  # a part may be a position, or the tag of one of several classes
    return list(dict.fromkeys(name for each in classes for name in each.model_fields))


def _classes(field: Any) -> Iterator[type[BaseModel]]:
    annotation = getattr(field, "annotation", field)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for each in get_args(annotation):
        yield from _classes(each)
