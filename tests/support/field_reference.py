"""The page of all fields that dataset.yaml, skeleton.yaml and run files may have, made from the classes they become."""

import inspect
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from posecore.config import Config

_UNITS = (
    (r"_px$", "px"),
    (r"_bytes$", "bytes"),
    (r"_(s|seconds)$", "s"),
    (r"_ms$", "ms"),
    (r"_deg(rees)?$", "degrees"),
    (r"^(min|max)_pixels$", "px"),
)
_UNITS_IN_WORDS = (
    (r"\bdegrees?\b", "degrees"),
    (r"\bbytes\b|\bGiB\b|\bMiB\b", "bytes"),
    (r"\bseconds?\b", "s"),
    (r"\bminutes?\b", "min"),
    (r"\bpx²", "px²"),
    (r"\bheatmap pixels\b", "heatmap px"),
    (r"\bpixels?\b", "px"),
    (r"\bmetres?\b", "m"),
    (r"\bshares?\b|\bprobability\b|\bfraction\b|\bchance\b", "share"),
    (r"\bepochs?\b", "epochs"),
    (r"\bsteps?\b", "steps"),
)
_BOUNDS = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
_LONGEST = 72


def classes_of(roots: Sequence[type[Config]]) -> list[type[Config]]:
    """Every configuration class that a file of these kinds reaches, each once, where it is first met."""
    found: list[type[Config]] = []

    def visit(kind: type[Config]) -> None:
        if kind in found:
            return
        found.append(kind)
        for field in kind.model_fields.values():
            for inner in _configs_in(field.annotation):
                visit(inner)

    for root in roots:
        visit(root)
    return found


def descriptions(kind: type[Config]) -> dict[str, str]:
    """Field → what the docstring of the class, or of the one it inherits it from, says of it."""
    said: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        text = inspect.getdoc(cls) if "__doc__" in vars(cls) and cls.__doc__ else None
        if text is None or "Attributes:" not in text:
            continue
        block = text.partition("Attributes:")[2]
        block = re.split(r"\n\S", block)[0]
        for match in re.finditer(r"^ {4}(\w+): ?(.*(?:\n {8,}.*)*)", block, re.MULTILINE):
            said[match[1]] = " ".join(match[2].split())
    return {name: said[name] for name in kind.model_fields if name in said}


def examples_in(values: Sequence[Config]) -> dict[tuple[type[Config], str], Any]:
    """Class and field → the shortest value that any file states for it."""
    found: dict[tuple[type[Config], str], Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Config):
            for name in type(value).model_fields:
                if name in value.model_fields_set:
                    stated = getattr(value, name)
                    key = (type(value), name)
                    if key not in found or len(_json(stated)) < len(_json(found[key])):
                        found[key] = stated
                visit(getattr(value, name))
        elif isinstance(value, Mapping):
            for inner in value.values():
                visit(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                visit(inner)

    for value in values:
        visit(value)
    return found


def page(sections: Mapping[str, Sequence[type[Config]]], values: Sequence[Config], command: str) -> str:
    """The whole page as Markdown.

    Args:
        sections: name of a kind of file → the classes that its top level may be.
        values: parsed files that examples are taken from.
        command: what writes the page anew.
    """
    examples = examples_in(values)
    lines = [
        "# Every field of dataset.yaml, skeleton.yaml and run files",
        "",
        f"Made from the code by `{command}`; a test holds it to the code. Examples are values of shipped",
        "files where one states the field. A field without a default must be there. Unknown fields are refused, with",
        "line and column.",
        "",
    ]
    shown: set[type[Config]] = set()
    for title, roots in sections.items():
        lines += [f"## {title}", ""]
        for kind in classes_of(roots):
            if kind in shown:
                continue
            shown.add(kind)
            lines += _table(kind, examples)
    return "\n".join(lines)


def _table(kind: type[Config], examples: Mapping[tuple[type[Config], str], Any]) -> Iterator[str]:
    said = descriptions(kind)
    summary = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
    yield f"### {kind.__name__}"
    yield ""
    yield _escaped(_plain(summary))
    yield ""
    fields = {name: field for name, field in kind.model_fields.items() if not field.exclude}
    if not fields:
        yield "It has no fields."
        yield ""
        return
    yield "| field | type | unit | default | example | meaning |"
    yield "|---|---|---|---|---|---|"
    schema = kind.model_json_schema()["properties"]
    for name, field in fields.items():
        type_text = _type_text(field.annotation)
        bounds = _bounds(schema.get(field.alias or name, {}))
        meaning = said.get(name, "")
        default = "required" if field.is_required() else _code(field.get_default(call_default_factory=True))
        stated = examples.get((kind, name), PydanticUndefined)
        example = _made_up(field.annotation, field) if stated is PydanticUndefined else stated
        cells = (
            f"`{name}`",
            f"{type_text}{', ' + bounds if bounds else ''}",
            _unit(name, meaning, field.annotation),
            default,
            _code(example),
            _escaped(_plain(meaning)),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _configs_in(annotation: Any) -> Iterator[type[Config]]:
    annotation = _plainly(annotation)
    if inspect.isclass(annotation) and not get_args(annotation):
        if issubclass(annotation, Config):
            yield annotation
        return
    for inner in get_args(annotation):
        yield from _configs_in(inner)


def _plainly(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _type_text(annotation: Any) -> str:
    annotation = _plainly(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _type_text(part) for part in inner)
    if origin in (tuple, list, Sequence, frozenset, set):
        if origin is tuple and inner[-1:] != (Ellipsis,):
            return f"list of {len(inner)}: {', '.join(map(_type_text, inner))}"
        return f"list of {_type_text(inner[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {_type_text(inner[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "none", Path: "path"}
    return names.get(annotation, "any value") if inspect.isclass(annotation) else "any value"


def _bounds(schema: Mapping[str, Any]) -> str:
    parts = [schema, *schema.get("anyOf", ())]
    return ", ".join(f"{sign} {part[word]:g}" for part in parts for word, sign in _BOUNDS.items() if word in part)


def _unit(name: str, meaning: str, annotation: Any) -> str:
    if not re.search(r"\bnumber\b", _type_text(annotation)):
        return ""
    for pattern, unit in _UNITS:
        if re.search(pattern, name):
            return unit
    return next((unit for pattern, unit in _UNITS_IN_WORDS if re.search(pattern, meaning)), "")


def _made_up(annotation: Any, field: Any) -> Any:
    """A value that the field takes, where no shipped file states one."""
    annotation = _plainly(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    default = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    if origin is Literal:
        return next((value for value in inner if value != default), inner[0])
    if origin in (Union, types.UnionType):
        return _made_up(next(part for part in inner if part is not type(None)), None if default is None else field)
    if annotation is bool:
        return not default
    if default not in (None, (), {}, "", frozenset()):
        return default
    if origin in (tuple, list, Sequence, frozenset, set):
        count = len(inner) if origin is tuple and inner[-1:] != (Ellipsis,) else 1
        return [_made_up(part, None) for part in inner[:count]]
    if origin is not None and issubclass(origin, Mapping):
        return {"name": _made_up(inner[1], None)}
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        required = {name: f for name, f in annotation.model_fields.items() if f.is_required()}
        return {name: _made_up(f.annotation, f) for name, f in required.items()}
    return {int: 1, float: 0.5, str: "name", Path: "folder/file"}.get(annotation, "value")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain_value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Config):
        return {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _code(value: Any) -> str:
    text = "none" if value is None else _json(value)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f"`{text.replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _plain(text: str) -> str:
    """Without the roles of reStructuredText."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
