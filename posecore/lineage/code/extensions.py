"""What code of others decides a step: that of every extension among its settings."""

from collections.abc import Iterator, Mapping
from typing import Any

from posecore.config import Config, Extension
from posecore.errors import LineageError
from posecore.ingest.stage_code import stage_code

EXTENSIONS = "extensions"
"""Key of a step's inputs: place of an extension's class, as ``package.module:Class`` → digest of its code."""


def with_extensions(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a step with the code of the extensions in them; as they are where all are built in.

    Raises:
        LineageError: an extension lies in no module of its own.
        IngestError: the file of an extension is gone, or a file that its module declares.
    """
    places = sorted({place for value in inputs.values() for place in _places(value)})
    if not places:
        return dict(inputs)
    return {**inputs, EXTENSIONS: {place: stage_code(place).digest for place in places}}


def _places(value: Any) -> Iterator[str]:
    if isinstance(value, Extension) and not type(value).__module__.startswith(("posecore.", "pipelines.")):
        if type(value).__module__ == "__main__":
            raise LineageError(
                f"{type(value).__name__} is written in the script or notebook that runs, which no other process can "
                "import; put it into a module of its own."
            )
        yield f"{type(value).__module__}:{type(value).__qualname__}"
    if isinstance(value, Config):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _places(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _places(inner)
