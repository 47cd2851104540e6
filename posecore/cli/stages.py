"""``posecore stages``: which stages there are, and what one does and is told."""

import argparse
import inspect
import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from posecore.cli.commands import Commands
from posecore.errors import IngestError
from posecore.stages.declared_file import DeclaredFile
from posecore.stages.duplicates import Deduplicate
from posecore.stages.load import known_stages, stage_named, stage_path
from posecore.stages.protocol import SKELETON, ImageStage, ModelStage, SourceStage, Stage, TableStage

_KINDS = {
    TableStage: "table",
    SourceStage: "source",
    ImageStage: "image",
    ModelStage: "model",
    Deduplicate: "split",
}
_ATTRIBUTE = re.compile(r"^    (\w+): (.*?)(?=^    \w|\Z)", re.MULTILINE | re.DOTALL)


def add(commands: Commands) -> None:
    """Adds ``stages list | describe``."""
    group = commands.add_parser("stages")
    actions = group.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="every stage that has a name: kind and purpose").set_defaults(run=_list)
    describe = actions.add_parser("describe", help="what one stage does, and its options with their defaults")
    describe.add_argument("stage", help="a name that `list` knows, or package.module:name")
    describe.set_defaults(run=_describe)


def _list(options: argparse.Namespace) -> int:
    names = known_stages()
    width = max(map(len, names))
    for name in names:
        try:
            found = stage_named(name)
            purpose = (inspect.getdoc(found) or "").split("\n\n")[0]
            said = f"{_kind(found):8}  {' '.join(purpose.split())}"
        except IngestError as error:  # an installed package that is broken shall not hide the others
            said = f"{'?':8}  {error}"
        print(f"{name.ljust(width)}  {said}")
    return 0


def _describe(options: argparse.Namespace) -> int:
    found = stage_named(options.stage)
    print(f"{options.stage}: {_kind(found)} stage, {stage_path(options.stage)}\n")
    print((inspect.getdoc(found) or "").partition("\n\nAttributes:")[0])
    fields = {name: field for name, field in getattr(found, "model_fields", {}).items() if name != SKELETON}
    if not fields:
        print("\nno options")
        return 0
    print("\noptions:")
    sentences = _sentences(found)
    for name, field in fields.items():
        value = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        print(f"  {name}: {_type(field.annotation)}, {value}")
        if name in sentences:
            print(f"      {sentences[name]}")
    return 0


def _sentences(found: type) -> dict[str, str]:
    """What a class and those it is made from say of their attributes."""
    told: dict[str, str] = {}
    for kind in reversed(found.__mro__):
        attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")[2]
        told |= {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(attributes)}
    return told


def _type(annotation: Any) -> str:
    """A type in the words of a ``dataset.yaml``."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is DeclaredFile:
        return "a file (under `files`)"
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(_type, get_args(annotation)))
    if annotation in (None, type(None)):
        return "null"
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _kind(found: Any) -> str:
    if not (isinstance(found, type) and issubclass(found, Stage)):
        return "function"
    return next((name for kind, name in _KINDS.items() if issubclass(found, kind)), "stage")
